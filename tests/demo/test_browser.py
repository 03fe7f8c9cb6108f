"""The page in a browser, on a real mesh: every panel, every control, every scenario."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.demo.browsing import WAIT_MS, axe, chromium, drop_file, faults, looking
from tests.demo.demo_process import DemoProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]
expect.set_options(timeout=WAIT_MS)

NAMES = ["hub", "north-1", "north-2", "south-1", "south-2"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[DemoProcess]:
    """One mesh for all tests here: they leave it as they found it. It is watched from the first line on."""
    folder = tmp_path_factory.mktemp("demo") / "mesh"
    with DemoProcess(folder, "--port", "0", "--pace", "0.3", patience=170) as process:
        process.until("watch and control it at")
        yield process


@pytest.fixture
def url(demo: DemoProcess) -> str:
    found = re.search(r"http://\S+/$", demo.output, re.MULTILINE)
    assert found is not None
    return found[0]


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with looking(browser, url, viewport={"width": 1360, "height": 900}) as one:
        expect(one.locator("#connection")).to_have_text("live")
        expect(one.locator("#nodes li.linked")).to_have_count(4)
        yield one


def node(page: Page, name: str) -> Locator:
    return page.locator("#nodes > li").filter(has=page.locator(".who", has_text=re.compile(f"^{name}$")))


def control(page: Page, name: str, action: str) -> None:
    """Open the node in the list, and press a button of it."""
    if node(page, name).locator(".details").count() == 0:
        node(page, name).locator("button.summary").click()
    node(page, name).locator(f'.details [data-action="{action}"]').click()


def gateway_of(page: Page, name: str) -> str:
    script = 'async () => (await import("/static/state.js")).mesh.supervisor.nodes'
    return str(next(one["gateway"] for one in page.evaluate(script) if one["name"] == name))


def look_through(page: Page, name: str) -> None:
    page.select_option("#attach", name)
    expect(page.locator("#nodes li.here .who, #nodes li.offline .who")).to_have_text(name)


def play(page: Page, name: str) -> str:
    """Play a scenario to its end; its last line."""
    page.locator("#scenario-buttons").locator(f'[data-action="{name}"]').click()
    expect(page.locator("#scenario-buttons .playing")).to_have_count(1)
    expect(page.locator("#scenario-buttons .playing")).to_have_count(0, timeout=60_000)
    return page.locator("#scenario-line").inner_text()


def distribution(page: Page, title: str) -> Locator:
    return page.locator(".distribution").filter(has=page.locator("h3", has_text=title))


# --- panels -----------------------------------------------------------------


def test_the_mesh_is_shown_as_any_of_its_nodes_sees_it(page: Page) -> None:
    for name in ("hub", "south-2"):
        look_through(page, name)
        expect(page.locator("#graph g.node")).to_have_count(5)
        expect(page.locator("#graph g.node.here .name")).to_have_text(name)
        expect(page.locator("#graph g.link:not(.none, .further) .rtt")).to_have_count(4)
        expect(page.locator("#graph g.further .rtt")).to_have_text([re.compile(r"[\d.]+ ms")] * 6)
        expect(page.locator("#graph .rtt").first).to_have_text(re.compile(r"[\d.]+ ms"))
    expect(page.locator("#graph g.node.is-hub")).to_have_count(1)
    assert page.locator("#legend").inner_text().split("\n")[:2] == ["north", "south"]
    assert page.url.endswith("#south-2")  # and a reload stays there


def test_the_graph_is_reached_with_the_keyboard(page: Page) -> None:
    page.locator("#graph g.node").last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#nodes .details")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#nodes .details")).to_have_count(0)


def test_documents_are_made_found_changed_and_removed(page: Page) -> None:
    page.select_option("#collection", "tasks")
    page.click("#create")
    page.fill("#editor-text", '{"_id": "lamp", "title": "Mend <b>the lamp</b>", "at": {"floor": 2}}')
    page.click("#editor-save")
    row = page.locator("#table tbody tr").filter(has_text="lamp")
    expect(row).to_contain_text("Mend <b>the lamp</b>")

    page.fill("#selector", '{"at.floor": {"$gte": 2}}')
    page.keyboard.press("Enter")
    expect(page.locator("#documents-count")).to_have_text("1 document")
    page.fill("#selector", '{"at": {"$what": 2}}')
    page.keyboard.press("Enter")
    expect(page.locator("#selector-error")).to_contain_text("$what")
    expect(page.locator("#selector-error")).to_contain_text("$elemMatch")
    expect(page.locator("#documents-count")).to_have_text("")
    expect(page.locator("#documents-empty")).to_be_hidden()
    page.fill("#selector", "")
    page.keyboard.press("Enter")

    row.locator("button").click()
    page.fill("#editor-text", "[1]")
    page.click("#editor-save")
    expect(page.locator("#editor-error")).to_contain_text("JSON object")
    page.fill("#editor-text", '{"title": "Mend it", "at": {"floor": 3}}')
    page.click("#editor-save")
    expect(page.locator("#last-change")).to_contain_text("lamp changed")
    expect(page.locator("#last-change")).to_contain_text("by hub, from this page")
    expect(page.locator("#last-change")).to_contain_text("at/floor 2 → 3")

    look_through(page, "north-2")
    expect(row).to_contain_text("Mend it")
    hub = gateway_of(page, "hub")
    page.request.patch(f"{hub}/api/collections/tasks/documents/lamp", data={"title": "Mended"})
    expect(page.locator("#last-change")).to_contain_text("by hub")
    row.locator("button").click()
    page.click("#editor-delete")
    expect(row).to_have_count(0)


def test_what_is_changed_offline_is_counted_until_it_is_synced(page: Page) -> None:
    control(page, "north-1", "pause")
    expect(node(page, "north-1")).to_have_class("apart")
    expect(page.locator("#graph g.node.apart .name")).to_have_text("north-1")
    look_through(page, "north-1")
    expect(page.locator("#connection")).to_have_text("offline node")
    page.select_option("#collection", "tasks")
    page.locator("#table").get_by_role("button", name="maps").click()
    page.fill(
        "#editor-text", json.dumps({"title": "Hand out maps", "place": "north", "priority": 4, "done": True})
    )
    page.click("#editor-save")
    expect(page.locator("#unsynced")).to_contain_text("2 changes unsynced (sensors, tasks): only north-1")
    expect(page.locator("#last-change")).to_contain_text("by north-1, from this page")
    expect(page.locator("#last-change")).to_contain_text("priority 1 → 4")
    control(page, "north-1", "resume")
    expect(page.locator("#unsynced")).to_contain_text("0 unsynced")
    expect(page.locator("#connection")).to_have_text("live")


def test_a_file_that_is_dropped_reaches_whom_it_is_for(page: Page, demo: DemoProcess, tmp_path: Path) -> None:
    file = tmp_path / "map of the north.bin"
    file.write_bytes(bytes(range(256)) * 2000)
    drop_file(page, file)
    expect(page.locator("#publish-chosen")).to_have_text("map of the north.bin, 512 kB")
    assert page.locator("#publish-file").evaluate("input => input.files[0].name") == file.name
    expect(page.locator("#publish-dry-run")).to_contain_text("4 nodes would get it now: north-1, north-2")
    page.select_option("#publish-scope", "formation")
    page.select_option("#publish-formation", "north")
    expect(page.locator("#publish-dry-run")).to_contain_text("2 nodes would get it now: north-1, north-2.")
    page.select_option("#publish-priority", "critical")
    page.click("#publish-send")
    one = distribution(page, file.name)
    expect(one.locator(".pill")).to_have_text("complete")
    expect(one.locator("header")).to_contain_text("formation north")
    expect(one.locator("header")).to_contain_text("critical")
    expect(one.locator(".receipts .said")).to_have_text([re.compile("completed in")] * 2)
    for name in NAMES:
        delivered = demo.folder / name / "inbox" / file.name
        assert delivered.exists() is name.startswith("north")
        if name.startswith("north"):
            assert delivered.read_bytes() == file.read_bytes()


def test_a_file_that_is_chosen_goes_to_chosen_nodes(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "chosen.txt"
    file.write_text("for one")
    page.click("#publish-open")
    expect(page.locator("#publish-send")).to_be_disabled()
    page.set_input_files("#publish-file", file)
    page.select_option("#publish-scope", "nodes")
    expect(page.locator("#publish-dry-run")).to_have_text("Choose at least one node.")
    expect(page.locator("#publish-send")).to_be_disabled()
    page.get_by_role("checkbox", name="south-2").check()
    expect(page.locator("#publish-dry-run")).to_have_text("1 node would get it now: south-2.")
    page.click("#publish-send")
    expect(distribution(page, file.name).locator(".pill")).to_have_text("complete")


# --- controls -----------------------------------------------------------------


def test_a_node_is_killed_and_started_again_and_a_link_cut_and_mended(page: Page) -> None:
    control(page, "south-1", "cut")
    expect(node(page, "south-1")).to_have_class("apart")
    expect(page.locator("#graph .link.cut")).to_have_count(1)
    control(page, "south-1", "mend")
    expect(node(page, "south-1")).to_have_class("linked")
    node(page, "south-1").locator("select").select_option("1048576")
    expect(node(page, "south-1").locator(".tag.warn")).to_have_text("≤ 1.0 MB/s")
    node(page, "south-1").locator("select").select_option("")
    expect(node(page, "south-1").locator(".tag.warn")).to_have_count(0)
    control(page, "south-1", "kill")
    expect(node(page, "south-1").locator(".tag.bad")).to_have_text("killed")
    expect(node(page, "south-1")).to_have_class("apart")
    control(page, "south-1", "restart")
    expect(node(page, "south-1")).to_have_class("linked")
    for line in ("south-1 was killed", "hub lost its link with south-1", "south-1 was started again"):
        expect(page.locator("#log")).to_contain_text(line)


def test_the_page_says_that_it_is_disconnected_and_comes_back(browser: Browser, url: str) -> None:
    with looking(browser, f"{url}#north-2", unreachable=True) as page:
        expect(page.locator("#connection")).to_have_text("live")
        control(page, "north-2", "kill")
        expect(page.locator("#connection")).to_have_text("disconnected")
        expect(page.locator("#notice")).to_contain_text("what you see is how it was then")
        expect(page.locator("#graph g.node")).to_have_count(5)
        control(page, "north-2", "restart")
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#nodes li.linked")).to_have_count(4)
        page.select_option("#collection", "sensors")
        expect(page.locator("#table tbody tr").filter(has_text="north-2")).to_have_count(1)
        control(page, "north-2", "kill")
        page.reload()
        expect(page.locator("#notice")).to_contain_text("north-2 does not answer: is it running?")
        control(page, "north-2", "restart")
        expect(page.locator("#connection")).to_have_text("live")


def test_what_was_opened_stays_open_when_the_document_of_the_node_arrives(browser: Browser, url: str) -> None:
    with looking(browser, f"{url}#hub", unreachable=True) as page:
        page.route("**/api/live*", lambda route: route.abort())
        page.reload()
        expect(page.locator("#notice")).to_contain_text("hub does not answer")
        expect(page.locator("#nodes .details")).to_have_count(0)
        node(page, "north-2").locator("button.summary").click()
        expect(node(page, "north-2").locator('.details [data-action="kill"]')).to_be_visible()
        page.unroute("**/api/live*")
        expect(page.locator("#nodes li.linked")).to_have_count(4)
        expect(node(page, "north-2").locator('.details [data-action="kill"]')).to_be_visible()
        expect(node(page, "north-2").locator(".details")).to_contain_text("up since")


# --- looks -----------------------------------------------------------------


def test_axe_finds_no_serious_fault(browser: Browser, url: str, tmp_path: Path) -> None:
    source = axe(tmp_path)
    for scheme, width in (("dark", 1360), ("light", 390)):
        with looking(browser, url, color_scheme=scheme, viewport={"width": width, "height": 844}) as page:
            expect(page.locator("#nodes li.linked")).to_have_count(4)
            page.locator("#table tbody button").first.wait_for()
            page.locator("#nodes .summary").nth(1).click()
            assert faults(page, source) == []
            if width == 390:
                page.click("#publish-open")
                assert faults(page, source) == []
            wide = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, "the page scrolls sideways"


# --- scenarios: a late joiner stays, so it comes last --------------------------------------------


def test_fan_out_a_swarm_beats_a_star(page: Page) -> None:
    line = play(page, "fan-out")
    found = re.search(r"4 copies in ([\d.]+) s rather than (\d+) s: hub sent ([\d.]+) times", line)
    assert found is not None, line
    took, alone, sent = (float(each) for each in found.groups())
    assert sent < 3.5
    assert took < alone
    expect(distribution(page, "fan-out").locator(".pill")).to_have_text("complete")


def test_offline_edge_catches_up(page: Page) -> None:
    assert "has caught up" in play(page, "offline-edge")
    expect(distribution(page, "offline-edge").locator(".receipts .completed")).to_have_count(4)


def test_conflict_both_edits_survive(page: Page) -> None:
    page.select_option("#collection", "tasks")
    assert play(page, "conflict").startswith("Both edits survive")
    row = page.locator("#table tbody tr").filter(has_text="shift-plan")
    expect(row).to_contain_text(re.compile(r"Ada, shift \d+.*van \d+"))


def test_cancel_reaches_everybody(page: Page) -> None:
    assert play(page, "cancel").startswith("Cancelled at")
    one = distribution(page, "cancel")
    expect(one.locator(".pill")).to_have_text("cancelled")
    expect(one.locator(".receipts .cancelled")).to_have_count(2)


def test_a_late_joiner_gets_what_there_is(page: Page) -> None:
    assert "had the file and the documents" in play(page, "late-joiner")
    expect(node(page, "joiner-1")).to_have_class("linked")
    expect(distribution(page, "late-joiner").locator(".receipts .completed")).to_have_count(5)
