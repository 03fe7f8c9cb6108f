"""The page's application: its files, the state of the processes, and orders; without processes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from demo.fleet import HOST, Fleet
from demo.page import STATIC, application, listening, serve
from demo.processes import Supervisor
from demo.scenarios import SCENARIOS, Scenarios


class Page:
    """An application over a fleet of one node that does not run, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(folder)
        self.supervisor.add("hub", "node")
        self.fleet = Fleet(self.supervisor)
        self.scenarios = Scenarios(self.fleet, folder, lambda line: None, moment=0, file_bytes=1)
        self.app = application(self.fleet, self.scenarios)

    def client(self, host: str = HOST) -> httpx.AsyncClient:
        url = f"http://{host}"
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url=url, headers={"origin": url}, timeout=10)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    one = Page(tmp_path)
    async with one.supervisor:
        yield one
        await one.scenarios.close()
        await one.fleet.close()


async def test_the_page_and_its_files_need_no_other_host(page: Page) -> None:
    async with page.client() as browser:
        files = ["/", *(f"/static/{path.name}" for path in STATIC.iterdir())]
        for file in files:
            found = await browser.get(file)
            assert found.status_code == 200
            assert found.headers["content-security-policy"].startswith(
                "default-src 'none'; script-src 'self';"
            )
            others = re.findall(r"https?://[^\s\"'`]+|@import", found.text)
            assert set(others) <= {"http://www.w3.org/2000/svg", "http://127.0.0.1:8080"}, file


async def test_a_browser_gets_the_state_and_then_every_change(page: Page) -> None:
    stream = page.fleet.watch()
    first = await anext(stream)
    assert [node["name"] for node in first["nodes"]] == ["hub"]
    assert [each["name"] for each in first["scenarios"]] == list(SCENARIOS)
    for count in range(300):
        page.fleet.tell(f"event {count}")
    merged = await anext(stream)  # a slow reader gets them as one
    assert [event["text"] for event in merged["log"]] == [f"event {count}" for count in range(200, 300)]
    await page.fleet.close()
    async with page.client() as browser:
        lines = (await browser.get("/demo/events")).text.split("\n")
    assert "event: state" in lines
    assert json.loads(lines[lines.index("event: state") + 1].removeprefix("data: ")) == page.fleet.state()


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("nodes/nobody/pause", {}, 409, "there is no node 'nobody'"),
        ("nodes/hub/kill", {}, 409, "hub is stopped: that cannot be done to it now"),
        ("nodes/hub/cap", {"upload_limit": 1}, 400, ">= 4096"),
        ("links/cut", {"one": "hub"}, 400, "other"),
        ("scenarios/tragedy", {}, 409, "there is no scenario 'tragedy': choose fan-out"),
    ],
)
async def test_an_order_that_cannot_be_done_says_why(
    page: Page, path: str, body: dict[str, object], status: int, reason: str
) -> None:
    async with page.client() as browser:
        answer = await browser.post(f"/demo/{path}", json=body)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


async def test_an_order_that_is_no_json_says_so(page: Page) -> None:
    async with page.client() as browser:
        for body in (b"", b"{", b"\xff"):
            answer = await browser.post("/demo/links/cut", content=body)
            assert (answer.status_code, list(answer.json())) == (400, ["error"])


async def test_a_scenario_that_goes_wrong_says_so_and_another_may_be_played(page: Page) -> None:
    async with page.client() as browser:
        for _ in range(2):
            assert (await browser.post("/demo/scenarios/conflict")).status_code == 200
            stream = page.fleet.watch()
            while (state := await anext(stream))["playing"] or not state["line"].startswith("It went wrong"):
                pass
            assert "there is no node 'north-1'" in state["line"]


async def test_orders_come_from_the_page_alone(page: Page) -> None:
    async with page.client("evil.example") as browser:
        assert (await browser.get("/")).status_code == 400
    async with page.client() as browser:
        for origin in ("http://evil.example", "null"):
            answer = await browser.post("/demo/joiners", headers={"origin": origin})
            assert answer.status_code == 403
        del browser.headers["origin"]
        assert (await browser.post("/demo/joiners")).status_code == 403


async def test_browsers_that_go_away_leave_nothing_behind(page: Page) -> None:
    with listening(0) as sock:
        url = f"http://{HOST}:{sock.getsockname()[1]}"
        async with (
            serve(page.app, sock),
            httpx.AsyncClient(base_url=url) as browser,
            browser.stream("GET", "/demo/events") as one,
            browser.stream("GET", "/demo/events") as other,
        ):
            await anext(one.aiter_lines())
            await anext(other.aiter_lines())
            assert len(page.fleet._watchers) == 2
    assert not page.fleet._watchers


async def test_a_port_that_is_taken_is_replaced() -> None:
    with listening(0) as first:
        first.listen()
        with listening(first.getsockname()[1]) as second:
            assert first.getsockname()[1] != second.getsockname()[1]
