"""What happens to a distribution from the first document to the last receipt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.core.scopes import AllNodes, Formation
from mesh.core.status import TransferState
from mesh.core.tokens import BlobProgress, BlobToken
from tests.unit.distributions.fakes import FakeHandle
from tests.unit.distributions.world import World, in_a_world, later, states

DONE = TransferState.COMPLETED


def test_given_an_unruly_mesh_when_distributed_then_the_status_ends_the_same() -> None:
    async def run(world: World) -> None:
        world.unruly = True
        hq = await world.start("hq")
        for n in range(5):
            await world.start(f"van{n}", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b"x" * 1000), Formation("north"))
        status = await hq.service.wait_for_completion(handle, 60, min_targets=5)
        assert status.is_success
        assert status.total_targets == 5

    for seed in range(5):
        in_a_world(run, seed=seed)


def test_given_a_running_fetch_when_it_expires_then_it_stops_and_the_receipt_says_failed() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.seconds = 7200
        await van.up()
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"), expires_in=3600)
        status = await hq.service.wait_for_completion(handle, 4000)
        assert (status.is_expired, status.failed) == (True, 1), "also what the target says last is waited for"
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.FAILED
        assert "expired" in (receipt.error or "")
        assert not van.blobs.running
        assert van.blobs.discarded == [handle.blob_hash]

    in_a_world(run)


def test_given_a_clock_that_is_years_off_then_the_arrival_of_its_receipt_is_known_here() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van")
        van.skew = 10 * 365 * 86_400.0
        await van.up()
        world.catch_up(van.documents)
        began = hq.clock()
        handle = await hq.service.distribute(hq.blobs.add(b"map"))
        status = await hq.service.wait_for_completion(handle, 30)
        completed_at = status.node_statuses["van"].completed_at
        assert completed_at is not None
        assert completed_at > began + van.skew
        heard = await hq.service.heard_at(handle)
        assert heard.keys() == {"van"}
        assert began <= heard["van"] <= hq.clock()

    in_a_world(run)


def test_given_a_node_when_it_joins_the_formation_then_it_fetches() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await later()
        assert not van.blobs.fetched
        await van.set_formations("north")
        assert states(await hq.service.wait_for_completion(handle, 30)) == {"van": DONE}

    in_a_world(run)


def test_given_a_running_fetch_when_the_node_leaves_the_formation_then_it_stops_and_is_no_target() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.seconds = 100
        await van.up()
        await world.start("stayer", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await later(10)
        assert set((await hq.service.status(handle)).node_statuses) == {"van", "stayer"}
        await van.set_formations("south")
        await later(10)
        assert not van.blobs.running
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.CANCELLED
        status = await hq.service.status(handle)
        assert states(status) == {"stayer": DONE}
        await van.set_formations("north")
        status = await hq.service.wait_for_completion(handle, 300, min_targets=2)
        assert states(status) == {"stayer": DONE, "van": DONE}

    in_a_world(run)


def test_given_a_completed_node_when_it_leaves_the_formation_then_it_stays_completed() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await hq.service.wait_for_completion(handle, 30)
        await van.set_formations()
        await later()
        assert states(await hq.service.status(handle)) == {"van": DONE}

    in_a_world(run)


def test_given_no_source_when_fetching_then_the_receipt_says_what_it_waits_for_and_it_heals() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"])
        token = hq.blobs.add(b"map")
        content = hq.blobs.held.pop(token.hash)
        handle = await hq.service.distribute(token, Formation("north"))
        await later(3600)
        waiting = (await hq.service.status(handle)).node_statuses["van"]
        assert waiting.status is TransferState.CONNECTING
        assert waiting.error == "nobody who is connected holds it"
        hq.blobs.held[token.hash] = content
        world.blobs_changed()
        assert (await hq.service.wait_for_completion(handle, 30)).is_success
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.error is None

    in_a_world(run)


@pytest.mark.parametrize("hub", [False, True])
def test_given_many_distributions_without_a_source_then_a_later_one_is_delivered_at_once(hub: bool) -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        van = await world.start("van", [] if hub else ["north"], hub=hub)
        lost = [hq.blobs.add(b"lost %d" % n) for n in range(9)]
        for token in lost:
            del hq.blobs.held[token.hash]
            await hq.service.distribute(token, Formation("north"))
        await later(10)
        assert len(van.blobs.running) == len(lost)
        kept = hq.blobs.add(b"map")
        await hq.service.distribute(kept, Formation("north"))
        await later(2)
        assert kept.hash in van.blobs.held
        for n in range(9):
            hq.blobs.add(b"lost %d" % n)
        await later(2)
        assert len(van.blobs.held) == 10

    in_a_world(run)


def test_given_sources_that_take_a_moment_to_find_then_the_bound_holds() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"])
        fetch = van.blobs.fetch

        async def slow_to_find(token: BlobToken, *, on_progress: Any, **more: Any) -> FakeHandle:
            on_progress(BlobProgress("waiting", 0, token.size_bytes))
            await asyncio.sleep(0.2)
            return await fetch(token, on_progress=on_progress, **more)

        van.blobs.fetch = slow_to_find  # type: ignore[assignment]
        handles = [await hq.service.distribute(hq.blobs.add(b"%d" % n), AllNodes()) for n in range(12)]
        for handle in handles:
            assert (await hq.service.wait_for_completion(handle, 60)).is_success
        assert van.blobs.most_running == 4

    in_a_world(run)


def test_given_a_hub_when_the_distribution_is_cancelled_then_it_stops_caching() -> None:
    async def run(world: World) -> None:
        hq, hub = await world.start("hq"), world.add("hub", hub=True)
        hub.blobs.seconds = 100
        await hub.up()
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await later(10)
        assert hub.blobs.running
        await hq.service.cancel(handle)
        await later(1)
        assert not hub.blobs.running
        assert hub.blobs.discarded == [handle.blob_hash]

    in_a_world(run)


def test_given_a_hub_when_it_joins_the_scope_while_caching_then_it_writes_a_receipt() -> None:
    async def run(world: World) -> None:
        hq, hub = await world.start("hq"), world.add("hub", hub=True)
        hub.blobs.seconds = 100
        await hub.up()
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await later(10)
        await hub.set_formations("north")
        assert (await hq.service.wait_for_completion(handle, 300)).is_success

    in_a_world(run)


def test_given_a_closed_service_then_nothing_is_left_and_streams_end() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"], receive="auto")
        van.blobs.seconds = 1000
        await van.up()
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        frames = hq.service.subscribe_progress(handle)
        await anext(frames)
        deliveries = van.service.deliveries()
        await later(10)
        await van.service.close()
        await hq.service.close()
        assert not van.blobs.running
        async for _ in frames:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(deliveries)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_a_world(run)
