"""Whoever goes down, and whenever: what was promised is kept, and nothing is done twice."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any
from unittest.mock import patch

import pytest

from mesh import AllNodes, Formation, Nodes, TransferState, UnknownDistribution
from mesh.distributions.receipt_writer import ReceiptWriter
from tests.behaviour.stage import (
    BIG,
    CANCELLED,
    DONE,
    GHOST,
    Mesh,
    both,
    later,
    only_direct,
    only_documents,
)

FORGETS = "the publisher of a direct distribution forgets it when it restarts"


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("after", [0.0, 0.1, 4.0, 60.0])
@only_documents(FORGETS)
async def test_given_any_stage_when_the_publisher_restarts_then_it_ends_and_is_told(
    mesh: Mesh, after: float, crash: bool
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG, Formation("north"))
    await later(after)
    await (mesh.world.crash("hq") if crash else mesh.world.stop("hq"))
    await later(10)
    await mesh.world.restart("hq")
    assert await mesh.files().handles() == [handle]
    status = await mesh.files().wait_for_completion(handle, 300)
    assert mesh.states_of(status) == {"van": DONE}
    assert mesh.inbox("van") == {"map.bin": BIG}


@only_documents(FORGETS)
async def test_given_a_restarted_publisher_when_it_cancels_then_the_transfer_stops(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await later(3)
    await mesh.world.crash("hq")
    await mesh.world.restart("hq")
    await mesh.files().cancel(handle.distribution_id)
    await later(300)
    assert await mesh.states(handle) == {"van": CANCELLED}
    assert mesh.delivered() == []


@only_direct("a document survives its publisher")
async def test_given_a_direct_publisher_when_it_restarts_then_all_is_forgotten_and_running_targets_stop(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    await mesh.start("truck", "hq")
    handle = await mesh.distribute(BIG)
    await later(3)
    assert await mesh.states(handle) == {"van": TransferState.TRANSFERRING, "truck": DONE}
    await mesh.world.stop("hq")
    await mesh.world.restart("hq")
    await later(300)
    assert await mesh.files().handles() == []
    with pytest.raises(UnknownDistribution):
        await mesh.files().status(handle)
    assert mesh.delivered() == ["truck"]
    again = await mesh.distribute(BIG)
    assert (await mesh.files().wait_for_completion(again, 300, min_targets=2)).is_success
    assert mesh.inbox("truck") == {"map.bin": BIG}


@both
async def test_given_a_transfer_under_way_when_the_target_crashes_then_it_goes_on_where_it_was(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG, Formation("north"))
    await later(6)
    assert (await mesh.states(handle))["van"] is TransferState.TRANSFERRING
    before = mesh.node("van").stats().blob_bytes_in
    await mesh.world.crash("van")
    await later(30)
    await mesh.world.restart("van")
    assert (await mesh.files().wait_for_completion(handle, 300)).is_success
    assert mesh.inbox("van") == {"map.bin": BIG}
    assert before > 1 << 20
    assert mesh.node("van").stats().blob_bytes_in < len(BIG)


@both
async def test_given_a_completed_target_when_it_restarts_then_nothing_is_delivered_again(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute()
    before = await mesh.files().wait_for_completion(handle, 60)
    (mesh.inbox_path("van") / "map.bin").rename(mesh.inbox_path("van").parent / "taken.bin")
    await mesh.world.crash("van")
    await mesh.world.restart("van")
    await later()
    assert mesh.inbox("van") == {}
    assert await mesh.files().status(handle) == before


@both
async def test_given_a_crash_between_rename_and_receipt_when_restarted_then_only_the_receipt_is_written(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    appeared = asyncio.Event()

    async def never(*_: Any, **__: Any) -> None:
        appeared.set()
        await asyncio.Event().wait()

    with patch.object(ReceiptWriter, "finish", never):
        handle = await mesh.distribute(BIG)
        await appeared.wait()
        assert mesh.inbox("van") == {"map.bin": BIG}
        assert (await mesh.states(handle))["van"] is not DONE
        await mesh.world.crash("van")
    written = (mesh.inbox_path("van") / "map.bin").stat()
    await mesh.world.restart("van")
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.inbox("van") == {"map.bin": BIG}
    assert (mesh.inbox_path("van") / "map.bin").stat() == written
    assert mesh.node("van").stats().blob_bytes_in == 0


@both
async def test_given_an_acknowledgement_that_is_lost_when_they_meet_again_then_it_is_told(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    await mesh.start("cache", "hq", "van")
    token = await mesh.node("cache").attachments.add(BIG)
    await mesh.node("cache").attachments.pin(token.hash)
    handle = await mesh.distribute(BIG, Formation("north"))
    await later(1)
    mesh.world.network.partition([["hq"]], silent=False)
    await later(60)
    assert mesh.inbox("van") == {"map.bin": BIG}
    assert (await mesh.states(handle))["van"] is not DONE
    mesh.world.network.heal()
    assert (await mesh.files().wait_for_completion(handle, 300)).is_success


@both
async def test_given_a_clone_of_a_disk_when_both_are_up_then_they_count_once(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.world.stop("van")
    home = mesh.inbox_path("van").parent
    shutil.copytree(home, home.parent / "twin")
    await mesh.world.restart("van")
    await mesh.start("twin", "hq")
    assert mesh.id("twin") == mesh.id("van")
    await later()
    handle = await mesh.distribute()
    status = await mesh.files().wait_for_completion(handle, 60)
    assert (status.total_targets, status.is_success) == (1, True)
    await later(600)
    assert await mesh.files().status(handle) == status
    assert len(mesh.delivered()) == 1  # the other one is refused, whichever came first


@both
async def test_given_a_node_that_is_put_back_from_an_old_copy_when_it_returns_then_it_stays_completed(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.world.stop("van")
    home = mesh.inbox_path("van").parent
    shutil.copytree(home, home.parent / "backup")
    await mesh.world.restart("van")
    first = await mesh.distribute()
    assert (await mesh.files().wait_for_completion(first, 60)).is_success
    await mesh.world.stop("van")
    shutil.rmtree(home)
    (home.parent / "backup").rename(home)
    await mesh.world.restart("van")
    await later()
    assert await mesh.states(first) == {"van": DONE}
    second = await mesh.distribute(b"another", name="other.bin")
    assert (await mesh.files().wait_for_completion(second, 60)).is_success
    await later()
    assert await mesh.states(first) == {"van": DONE}


@only_documents(FORGETS)
async def test_given_a_publisher_put_back_from_before_its_cancel_then_the_cancel_holds(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await later(3)
    await mesh.world.stop("hq")
    home = mesh.inbox_path("hq").parent
    shutil.copytree(home, home.parent / "backup")
    await mesh.world.restart("hq")
    await mesh.files().cancel(handle)
    await later(10)
    await mesh.world.stop("hq")
    shutil.rmtree(home)
    (home.parent / "backup").rename(home)
    await mesh.world.restart("hq")
    await later(300)
    assert (await mesh.files().status(handle)).is_cancelled
    await mesh.start("late", "hq")
    await later(300)
    assert mesh.delivered() == []


@only_documents(FORGETS)
async def test_given_every_node_restarts_in_turn_when_distributed_then_all_end_the_same(mesh: Mesh) -> None:
    await mesh.start("hub", hub=True)
    await mesh.start("hq", "hub")
    for name in ("a", "b", "c"):
        await mesh.start(name, "hub", slow=True)
    handle = await mesh.distribute(BIG, AllNodes())
    for name in ("hub", "a", "hq", "b", "hub", "c"):
        await later(2)
        await mesh.world.crash(name)
        await later(1)
        await mesh.world.restart(name)
    status = await mesh.files().wait_for_completion(handle, 900, min_targets=4)
    assert status.is_success
    assert mesh.delivered() == ["a", "b", "c", "hub"]


@both
async def test_given_a_node_that_closes_when_it_publishes_follows_and_delivers_then_nothing_is_left(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG, Nodes([mesh.id("van"), GHOST]))
    frames = mesh.files().subscribe_progress(handle)
    await anext(frames)
    await later(3)
    await mesh.world.stop("van")
    await mesh.world.stop("hq")
    assert [frame async for frame in frames][-1].completed == 0
    left = [p.name for name in ("hq", "van") for p in mesh.inbox_path(name).glob("**/*")]
    assert left == []  # the stage itself sees that no task is left
