"""What happens to a distribution from the first document to the last receipt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.core.scopes import AllNodes, Capabilities, Capable, Formation, Nodes
from mesh.core.status import TransferState
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import DistributionTimeout
from tests.unit.distributions.fakes import FakeHandle, World, in_a_world, later, states

DONE = TransferState.COMPLETED


def test_given_a_formation_when_distributed_then_exactly_its_members_fetch() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq", ["north"])
        vans = [await world.start(f"van{n}", ["north"] if n % 2 else ["south"]) for n in range(6)]
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        status = await hq.service.wait_for_completion(handle, 30, min_targets=3)
        assert states(status) == {"van1": DONE, "van3": DONE, "van5": DONE}
        assert status.is_success
        assert status.overall_progress == 1.0
        assert [bool(van.blobs.held) for van in vans] == [False, True] * 3

    in_a_world(run)


def test_given_all_nodes_when_distributed_then_all_but_the_publisher() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        for n in range(3):
            await world.start(f"van{n}")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), AllNodes())
        status = await hq.service.wait_for_completion(handle, 30)
        assert set(status.node_statuses) == {"van0", "van1", "van2"}

    in_a_world(run)


def test_given_named_nodes_when_one_is_unknown_then_it_stays_pending_and_the_timeout_says_so() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        await world.start("van")
        await world.start("other")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Nodes(["van", "ghost", "hq"]))
        with pytest.raises(DistributionTimeout) as timeout:
            await hq.service.wait_for_completion(handle, 30)
        assert states(timeout.value.status) == {"van": DONE, "hq": DONE, "ghost": TransferState.PENDING}

    in_a_world(run)


def test_given_capabilities_when_distributed_then_only_the_capable_fetch() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        await world.start("gpu", capabilities=Capabilities(gpu_gb=8, cpu_arch="x86_64", tags=["cam"]))
        await world.start("tiny", capabilities=Capabilities(gpu_gb=2, cpu_arch="x86_64", tags=["cam"]))
        await world.start("unknown")
        handle = await hq.service.distribute(hq.blobs.add(b"m"), Capable(4, "amd64", tags=["cam"]))
        status = await hq.service.wait_for_completion(handle, 30)
        assert states(status) == {"gpu": DONE}
        assert not world.peers["tiny"].blobs.fetched
        assert not world.peers["unknown"].blobs.fetched

    in_a_world(run)


def test_given_nobody_in_the_scope_when_waiting_then_it_is_no_success() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        await world.start("van")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("empty"))
        with pytest.raises(DistributionTimeout) as timeout:
            await hq.service.wait_for_completion(handle, 10)
        assert timeout.value.status.total_targets == 0
        assert not timeout.value.status.is_complete
        assert not timeout.value.status.is_success

    in_a_world(run)


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


def test_given_a_late_joiner_when_it_comes_back_after_weeks_then_it_is_served() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await later(30 * 86_400)
        van = await world.start("van", ["north"])
        status = await hq.service.wait_for_completion(handle, 30)
        assert states(status) == {"van": DONE}
        assert van.receipt(handle.distribution_id) is not None

    in_a_world(run)


def test_given_an_expired_distribution_when_a_node_joins_then_it_fetches_nothing() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"), expires_in=3600)
        await later(3601)
        van = await world.start("van", ["north"])
        await later()
        assert not van.blobs.fetched
        assert van.receipt(handle.distribution_id) is None
        status = await hq.service.wait_for_completion(handle, 30)
        assert status.is_expired

    in_a_world(run)


def test_given_a_running_fetch_when_it_expires_then_it_stops_and_the_receipt_says_failed() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.seconds = 7200
        await van.up()
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"), expires_in=3600)
        await later(3600.5)
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.FAILED
        assert "expired" in (receipt.error or "")
        assert not van.blobs.running
        assert van.blobs.discarded == [handle.blob_hash]

    in_a_world(run)


def test_given_a_clock_that_is_years_ahead_when_nothing_expires_then_it_is_served() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.skew = 20 * 365 * 86_400.0
        await van.up()
        forever = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        short = await hq.service.distribute(hq.blobs.add(b"news"), Formation("north"), expires_in=3600)
        status = await hq.service.wait_for_completion(forever, 30)
        assert status.is_success
        # By the van's own clock the second was over before it began: it takes no part, and nothing breaks.
        assert van.receipt(short.distribution_id) is None

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


def test_given_an_empty_blob_when_distributed_then_it_completes() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        await world.start("van", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b""), Formation("north"))
        status = await hq.service.wait_for_completion(handle, 30)
        assert status.is_success
        assert status.overall_progress == 1.0

    in_a_world(run)


def test_given_two_publishers_of_one_blob_when_distributed_then_both_are_told() -> None:
    async def run(world: World) -> None:
        hq, depot, van = [await world.start(name) for name in ("hq", "depot", "van")]
        token = hq.blobs.add(b"map")
        depot.blobs.add(b"map")
        mine = await hq.service.distribute(token, Nodes(["van"]))
        theirs = await depot.service.distribute(token, Nodes(["van"]))
        assert (await hq.service.wait_for_completion(mine, 30)).is_success
        assert (await depot.service.wait_for_completion(theirs, 30)).is_success
        assert mine.distribution_id != theirs.distribution_id
        # Each publisher asks only for the receipts of what it published.
        assert not [key for key in hq.documents.held if key[1].startswith(theirs.distribution_id + ":")]
        assert van.receipt(mine.distribution_id) is not None

    in_a_world(run)


def test_given_one_status_when_asked_on_another_node_then_it_is_the_same() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        viewer = await world.start("viewer")
        for n in range(3):
            await world.start(f"van{n}", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await hq.service.wait_for_completion(handle, 30)
        async with viewer.service.subscribe_progress(handle.distribution_id) as statuses:
            seen = [status async for status in statuses]
        assert seen[-1] == await hq.service.status(handle)
        await later(1)
        assert not viewer.documents.wants, "nobody watches any more"

    in_a_world(run)


def test_given_a_hub_when_publisher_and_target_never_meet_then_the_hub_serves() -> None:
    async def run(world: World) -> None:
        hq, hub = await world.start("hq"), await world.start("hub", hub=True)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Formation("north"))
        await later(10)
        assert handle.blob_hash in hub.blobs.held
        assert hub.receipt(handle.distribution_id) is None
        world.disconnect(hq)
        van = await world.start("van", ["north"])
        await later(10)
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is DONE
        world.disconnect(van)
        world.reconnect(hq)
        assert (await hq.service.wait_for_completion(handle, 30)).is_success

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


def test_given_a_dry_run_then_it_names_who_is_known_to_match() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq", ["north"], hub=True)
        await world.start("a", ["north"])
        await world.start("b", ["south"])
        await later(1)
        assert await hq.service.dry_run(Formation("north")) == ["a"]
        assert await hq.service.dry_run(AllNodes()) == ["a", "b"]
        assert await hq.service.dry_run(Nodes(["b", "ghost", "hq"])) == ["b", "hq"]

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
