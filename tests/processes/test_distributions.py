"""The twenty most important behaviours of tests/behaviour again: real processes, sockets and kills."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import (
    AllNodes,
    Capable,
    DistributionStatus,
    Formation,
    InvalidScope,
    Node,
    Nodes,
    TransferState,
)
from tests.processes.fleet import Fleet, call, fleet, inbox
from tests.processes.mesh_process import run_mesh

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("distributions")]

DONE, FAILED, CANCELLED = TransferState.COMPLETED, TransferState.FAILED, TransferState.CANCELLED
SLOW = 4_000_000
"""Bytes that take ``hq`` two seconds."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def states(mesh: Fleet, status: DistributionStatus) -> dict[str, TransferState]:
    """By name; by id where it is none of the fleet."""
    names = {process.node_id: process.name for process in (mesh.hq, mesh.van, mesh.truck)}
    return {names.get(node.node_id, node.node_id): node.status for node in status.node_statuses.values()}


def test_given_a_formation_when_distributed_then_exactly_its_members_deliver(mesh: Fleet) -> None:
    id = mesh.distribute(b"north only", Formation("north"), name="north.bin")
    assert states(mesh, mesh.finish(id)) == {"van": DONE}
    everybody = mesh.finish(mesh.distribute(b"all", name="all.bin"), targets=2)
    assert everybody.is_success
    assert inbox(mesh.van)["north.bin"] == b"north only"
    assert "north.bin" not in inbox(mesh.truck)
    assert inbox(mesh.hq) == {}


def test_given_a_capability_when_distributed_then_only_who_has_it_delivers(mesh: Fleet) -> None:
    id = mesh.distribute(b"lens", Capable(tags=["camera"]), name="lens.bin")
    assert states(mesh, mesh.finish(id)) == {"truck": DONE}
    assert "lens.bin" not in inbox(mesh.van)


def test_given_an_unknown_node_when_waited_for_then_it_stays_pending_and_the_timeout_says_so(
    mesh: Fleet,
) -> None:
    ghost = "a" * 52
    id = mesh.distribute(b"who", Nodes([mesh.van.node_id, ghost]))
    assert states(mesh, mesh.finish(id)) == {"van": DONE, ghost: TransferState.PENDING}
    (mesh.root / "ghost.bin").write_bytes(b"ghost")
    done = run_mesh(
        "--home", str(mesh.hq.home), "distribute", str(mesh.root / "ghost.bin"),
        "--scope", f"nodes:{ghost}", "--wait", "--timeout", "0.2",
    )  # fmt: skip
    assert done.returncode == 1
    assert "0 of 1 targets completed" in done.stderr


def test_given_nobody_in_the_scope_then_it_is_no_success_and_nonsense_is_refused(mesh: Fleet) -> None:
    status = mesh.status(mesh.distribute(b"nobody", Formation("west")))
    assert (status.total_targets, status.is_complete, status.is_success) == (0, False, False)
    with pytest.raises(InvalidScope):
        mesh.distribute(b"nonsense", Capable())


def test_given_an_offline_target_when_cancelled_then_it_never_starts(mesh: Fleet) -> None:
    mesh.van.stop()
    id = mesh.distribute(b"too late", Formation("north"), name="late.bin")
    call(mesh.hq, "distributions.cancel", id=id)
    mesh.van.start()
    again = mesh.distribute(b"marker", Formation("north"))
    assert mesh.finish(again).is_success
    assert "late.bin" not in inbox(mesh.van)
    assert mesh.status(id).is_cancelled


def test_given_a_running_transfer_when_cancelled_then_it_stops_and_leaves_nothing(mesh: Fleet) -> None:
    id = mesh.distribute(os.urandom(4 * SLOW), Formation("north"), name="stopped.bin")
    mesh.begin(id)
    call(mesh.hq, "distributions.cancel", id=id)
    assert states(mesh, mesh.finish(id)) == {"van": CANCELLED}
    marker = mesh.distribute(b"after", Formation("north"))
    assert mesh.finish(marker).is_success
    assert "stopped.bin" not in inbox(mesh.van)
    assert mesh.status(id).cancelled == 1


def test_given_a_completed_distribution_when_cancelled_twice_then_it_stays_completed(mesh: Fleet) -> None:
    id = mesh.distribute(b"kept", name="kept.bin")
    assert mesh.finish(id, targets=2).is_success
    for _ in range(2):
        call(mesh.hq, "distributions.cancel", id=id)
    status = mesh.status(id)
    assert (status.is_cancelled, status.completed, status.cancelled) == (True, 2, 0)


def test_given_a_killed_publisher_when_it_is_back_then_the_distribution_ends_and_is_told(
    mesh: Fleet,
) -> None:
    content = os.urandom(SLOW)
    id = mesh.distribute(content, Formation("north"), name="hq-killed.bin")
    mesh.begin(id)
    mesh.hq.kill()
    mesh.hq.start()
    assert mesh.finish(id).is_success
    assert inbox(mesh.van)["hq-killed.bin"] == content


def test_given_a_killed_target_when_it_is_back_then_it_goes_on_where_it_was(mesh: Fleet) -> None:
    content = os.urandom(2 * SLOW)
    id = mesh.distribute(content, Formation("north"), name="van-killed.bin")
    mesh.until(id, lambda status: status.overall_progress > 0.4)
    mesh.van.kill()
    mesh.van.start()
    assert mesh.finish(id).is_success
    assert inbox(mesh.van)["van-killed.bin"] == content
    assert call(mesh.van, "node.stats")["blob_bytes_in"] < 0.9 * len(content)


def test_given_a_delivered_file_when_the_target_is_killed_and_restarted_then_nothing_comes_again(
    mesh: Fleet,
) -> None:
    id = mesh.distribute(b"once", Formation("north"), name="once.bin")
    before = mesh.finish(id)
    (mesh.van.home / "inbox" / "once.bin").unlink()
    mesh.van.kill()
    mesh.van.start()
    assert mesh.finish(mesh.distribute(b"marker 2", Formation("north"))).is_success
    assert "once.bin" not in inbox(mesh.van)
    assert mesh.status(id).node_statuses == before.node_statuses


def test_given_a_hub_only_ever_online_with_one_side_then_the_file_and_the_receipt_pass(mesh: Fleet) -> None:
    with mesh.node("hub", "--hub") as hub:
        far = mesh.node("far", "--listen", "none", "--peer", hub.address)
        with far:
            pass  # it has an id now
        sender = mesh.node("sender", "--listen", "none", "--peer", hub.address)
        with sender:
            scope = Nodes([far.node_id, hub.node_id])
            id = mesh.distribute(b"by way of", scope, by=sender, name="via.bin")
            assert mesh.finish(id, at=sender).completed == 1
        with far:
            assert mesh.finish(id, targets=2, at=hub).is_success
        with sender:
            assert mesh.finish(id, targets=2, at=sender).is_success
        assert inbox(far) == {"via.bin": b"by way of"}


def test_given_a_late_joiner_when_it_comes_then_it_is_served_unless_it_expired(mesh: Fleet) -> None:
    lasting = mesh.distribute(b"lasting", Formation("east"), name="lasting.bin")
    brief = mesh.distribute(b"brief", Formation("east"), name="brief.bin", expires_in=0.2)
    assert mesh.finish(brief).is_expired
    with mesh.edge("joiner", "--formation", "east") as joiner:
        assert mesh.finish(lasting).is_success
        assert inbox(joiner) == {"lasting.bin": b"lasting"}


def test_given_a_running_transfer_when_it_expires_then_the_receipt_says_so(mesh: Fleet) -> None:
    id = mesh.distribute(os.urandom(4 * SLOW), Formation("north"), name="expired.bin", expires_in=3.0)
    mesh.until(id, lambda status: status.in_progress)
    assert mesh.finish(id).is_expired
    marker = mesh.distribute(b"after it", Formation("north"))
    assert mesh.finish(marker).is_success
    status = mesh.status(id)
    assert states(mesh, status) == {"van": FAILED}
    assert "expired" in (status.node_statuses[mesh.van.node_id].error or "")
    assert "expired.bin" not in inbox(mesh.van)


def test_given_a_newer_version_when_it_supersedes_then_the_old_one_is_never_finished(mesh: Fleet) -> None:
    old = mesh.distribute(os.urandom(4 * SLOW), name="old.bin")
    mesh.begin(old)
    new = mesh.distribute(b"newer", name="new.bin", supersedes=old)
    assert mesh.finish(new, targets=2).is_success
    status = mesh.finish(old, targets=2)
    assert (status.superseded_by, status.cancelled) == (new, 2)
    assert "old.bin" not in inbox(mesh.van)


def test_given_a_name_that_is_taken_when_it_failed_then_retry_heals_it(mesh: Fleet) -> None:
    call(mesh.van, "node.pause")
    id = mesh.distribute(b"mine", Formation("north"), name="taken.bin")
    folder = mesh.van.home / "inbox"
    for name in ("taken.bin", f"taken-{id}.bin"):
        (folder / name).write_bytes(b"yours")
    call(mesh.van, "node.resume")
    status = mesh.finish(id)
    assert states(mesh, status) == {"van": FAILED}
    (folder / "taken.bin").unlink()
    call(mesh.hq, "distributions.retry", id=id)
    assert mesh.until(id, lambda status: status.is_success)
    assert inbox(mesh.van)["taken.bin"] == b"mine"
    assert inbox(mesh.van)[f"taken-{id}.bin"] == b"yours"


def test_given_the_same_name_when_the_content_differs_then_both_are_delivered(mesh: Fleet) -> None:
    first = mesh.distribute(b"first!", Formation("north"), name="same.bin")
    assert mesh.finish(first).is_success
    second = mesh.distribute(b"second", Formation("north"), name="same.bin")
    assert mesh.finish(second).is_success
    files = inbox(mesh.van)
    assert (files["same.bin"], files[f"same-{second}.bin"]) == (b"first!", b"second")


def test_given_a_hostile_name_when_delivered_then_it_stays_in_the_inbox(mesh: Fleet) -> None:
    before = sorted(mesh.van.home.iterdir())
    id = mesh.distribute(b"hostile", Formation("north"), name=".. \\..\\.profile\u202e")
    assert mesh.finish(id).is_success
    assert sorted(mesh.van.home.iterdir()) == before
    (name,) = (name for name, content in inbox(mesh.van).items() if content == b"hostile")
    assert name == "profile"


def test_given_two_publishers_of_one_blob_when_both_distribute_then_both_are_told(mesh: Fleet) -> None:
    content = os.urandom(SLOW)
    here = mesh.distribute(content, Formation("north"), name="shared.bin")
    there = mesh.distribute(content, Formation("north"), by=mesh.truck, name="shared.bin")
    assert mesh.finish(here).is_success
    assert mesh.finish(there, at=mesh.truck).is_success
    assert [content for name, content in inbox(mesh.van).items() if "shared" in name] == [content]


def test_given_a_node_that_changes_its_formation_midway_then_it_is_judged_anew(mesh: Fleet) -> None:
    id = mesh.distribute(os.urandom(2 * SLOW), Formation("south"), name="south.bin")
    mesh.begin(id)
    options, mesh.truck.options = mesh.truck.options, [*mesh.truck.options, "--formation", "west"]
    mesh.truck.options.remove("south")
    mesh.truck.options.remove("--formation")
    mesh.truck.stop()
    mesh.truck.start()
    joined = mesh.distribute(b"go west", Formation("west"), name="west.bin")
    assert mesh.finish(joined).is_success
    assert mesh.until(id, lambda status: not status.total_targets)
    assert "south.bin" not in inbox(mesh.truck)
    mesh.truck.stop()
    mesh.truck.options = options
    mesh.truck.start()
    assert mesh.finish(id).is_success


def test_given_a_clone_of_a_disk_when_both_are_up_then_they_count_once(mesh: Fleet) -> None:
    mesh.van.stop()
    shutil.copytree(mesh.van.home, mesh.root / "twin")
    mesh.van.start()
    with mesh.edge("twin") as twin:
        assert twin.node_id == mesh.van.node_id
        id = mesh.distribute(b"for one", Nodes([mesh.van.node_id]), name="one.bin")
        status = mesh.finish(id)
        assert (status.total_targets, status.completed) == (1, 1)
        assert ("one.bin" in inbox(mesh.van)) != ("one.bin" in inbox(twin))


def test_given_100_distributions_at_once_when_the_target_comes_then_the_urgent_go_first(mesh: Fleet) -> None:
    mesh.van.stop()
    ids = {
        mesh.distribute(os.urandom(40_000), Formation("north"), priority=priority): priority
        for priority in ("low", "normal", "high", "critical") * 25
    }
    mesh.van.start()
    done: dict[str, list[float]] = {}
    for id, priority in ids.items():
        node = mesh.finish(id).node_statuses[mesh.van.node_id]
        done.setdefault(priority, []).append(node.completed_at or 0)
    middle = {priority: sorted(times)[len(times) // 2] for priority, times in done.items()}
    assert middle["critical"] < middle["high"] < middle["normal"] < middle["low"]


async def test_given_real_sockets_when_distributed_directly_then_it_is_delivered_and_acknowledged(
    tmp_path: Path,
) -> None:
    async with (
        Node(tmp_path / "hq", name="hq") as hq,
        Node(tmp_path / "van", peers=[hq.address or ""], inbox=tmp_path / "in", formations=["north"]) as van,
        Node(tmp_path / "truck", peers=[hq.address or ""]) as truck,
    ):
        content = os.urandom(3_000_000)
        token = await hq.attachments.add(content, name="map.bin")
        handle = await hq.direct.distribute(token, Formation("north"))
        status = await hq.direct.wait_for_completion(handle, 30)
        assert status.is_success
        assert status.node_statuses.keys() == {van.node_id}
        assert (tmp_path / "in" / "map.bin").read_bytes() == content
        assert not await truck.attachments.exists(token.hash)
        everybody = await hq.direct.distribute(token, AllNodes())
        assert (await hq.direct.wait_for_completion(everybody, 30, min_targets=2)).is_success
        assert await hq.distributions.handles() == await van.distributions.handles() == []
