"""Who is told how far it is, how often, and when that ends; what runs first."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from mesh.core.changes import Change
from mesh.core.identity import node_id_of
from mesh.core.scopes import AllNodes, Nodes
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import DistributionTimeout
from mesh.streams import Stream
from tests.unit.distributions.fakes import FakeHandle
from tests.unit.distributions.world import GHOST, NORTH, World, in_a_world, later


def test_given_abandoned_streams_then_nobody_watches_any_more() -> None:
    async def run(world: World) -> None:
        await world.start("hq")
        viewer = await world.start("viewer")
        hq = world.peers["hq"]
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Nodes([GHOST]))
        await later(1)
        async for _ in viewer.service.subscribe_progress(handle):
            break
        kept = viewer.service.subscribe_progress(handle)
        await anext(kept)
        await later(1)
        assert viewer.documents.wants, "one still watches"
        del kept
        gc.collect()
        await later(1)
        assert not viewer.documents.wants

    in_a_world(run)


def test_given_a_wait_that_is_given_up_at_once_then_nobody_watches_any_more() -> None:
    async def run(world: World) -> None:
        hq, viewer = await world.start("hq"), await world.start("viewer")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Nodes([GHOST]))
        await later(1)
        with pytest.raises(DistributionTimeout) as timeout:
            await viewer.service.wait_for_completion(handle, 0)
        assert timeout.value.status.pending == 1
        patient = asyncio.ensure_future(viewer.service.wait_for_completion(handle, 60))
        hasty = asyncio.ensure_future(viewer.service.wait_for_completion(handle, 60))
        await asyncio.sleep(0)
        hasty.cancel()
        await later(1)
        await hq.service.cancel(handle)
        assert (await patient).is_cancelled
        await later(1)
        assert not viewer.documents.wants

    in_a_world(run)


def test_given_a_store_that_fails_when_followed_then_the_follower_is_told() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), Nodes([GHOST]))
        broken: Stream[Change] = Stream()
        broken.finish(OSError("the disk is gone"))
        hq.documents.observe = lambda collection, selector=None: broken  # type: ignore[method-assign]
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(hq.service.subscribe_progress(handle))
        await later(1)
        del hq.documents.observe
        assert (await anext(hq.service.subscribe_progress(handle))).pending == 1

    in_a_world(run)


def test_given_a_publisher_then_it_asks_for_no_more_than_it_needs() -> None:
    async def run(world: World) -> None:
        hq, hub = await world.start("hq"), await world.start("hub", hub=True)
        assert not hq.documents.selectors
        named = [GHOST, node_id_of(b"b")]
        token = hq.blobs.add(b"map")
        first = await hq.service.distribute(token, NORTH)
        await hq.service.distribute(token, NORTH)
        await hq.service.distribute(token, Nodes(named))
        assert sorted(map(str, hq.documents.selectors.values())) == sorted(
            map(
                str,
                (
                    {"publisher": "hq"},
                    {"formations": {"$elemMatch": {"$eq": "north"}}},
                    {"_id": {"$in": named}},
                ),
            )
        )
        await hq.service.cancel(first)
        assert len(hq.documents.selectors) == 3, "the other one of the formation is live"
        assert list(hub.documents.selectors.values()) == [{}, {}]

    in_a_world(run)


def test_given_a_fetch_to_which_nothing_comes_any_more_then_its_receipt_has_no_rate() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])

        async def fetch(
            token: BlobToken, *, on_progress: Callable[[BlobProgress], None], **_: object
        ) -> FakeHandle:
            for rate in (5000.0, 4000.0, 3000.0, 0.0, 0.0):
                on_progress(BlobProgress("transferring", 10_000, token.size_bytes, rate=rate))
                await later(0.1)
            await later(1000)
            raise AssertionError("it goes on for ever")

        van.blobs.fetch = fetch  # type: ignore[assignment, method-assign]
        await van.up()
        await hq.service.distribute(hq.blobs.add(b"x" * 100_000), NORTH)
        await later(10)
        writes = [(at, body) for at, collection, _, body in van.documents.writes if collection == "receipts"]
        assert [body["rate"] for _, body in writes] == [5000.0, 0.0]
        assert writes[1][0] - writes[0][0] >= 0.499

    in_a_world(run)


def test_given_a_fetch_then_its_receipt_is_written_at_most_twice_a_second_in_steps_of_5_percent() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.seconds, van.blobs.steps = 5.0, 1000
        await van.up()
        handle = await hq.service.distribute(hq.blobs.add(b"x" * 100_000), NORTH)
        await hq.service.wait_for_completion(handle, 30)
        times = [at for at, collection, _, _ in van.documents.writes if collection == "receipts"]
        assert 8 <= len(times) <= 13
        assert all(after - earlier >= 0.499 for earlier, after in pairwise(times[1:-1]))
        van.blobs.seconds = 500.0
        slow = await hq.service.distribute(hq.blobs.add(b"y" * 100_000), NORTH)
        before = len(van.documents.writes)
        await hq.service.wait_for_completion(slow, 1000)
        assert 15 <= len(van.documents.writes) - before <= 23

    in_a_world(run)


def test_given_300_distributions_at_once_then_priorities_and_the_bound_hold() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van")
        world.disconnect(van)
        order: dict[str, TransferPriority] = {}
        priorities = (TransferPriority.LOW, TransferPriority.NORMAL, TransferPriority.HIGH)
        for n in range(300):
            token = hq.blobs.add(f"blob {n}".encode())
            order[token.hash] = priorities[n % 3]
            await hq.service.distribute(token, AllNodes(), priorities[n % 3])
        await van.up()
        world.reconnect(van)
        await later(10)
        assert van.blobs.most_running == 4
        urgent = await hq.service.distribute(hq.blobs.add(b"urgent"), AllNodes(), TransferPriority.CRITICAL)
        await later(0.01)
        assert urgent.blob_hash in van.blobs.running, "critical is never queued"
        await later(200)
        assert len(van.blobs.held) == 301
        ranks = [order[h] for h in van.blobs.fetched if h in order]
        # The first few started before all had been heard of.
        assert ranks[4:] == sorted(ranks[4:], reverse=True)

    in_a_world(run)


def test_given_slow_fetches_when_the_blob_is_here_already_then_it_does_not_wait_for_them() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van")
        van.blobs.seconds = 1e6
        await van.up()
        for n in range(5):
            await hq.service.distribute(hq.blobs.add(f"slow {n}".encode()), AllNodes())
        await later(10)
        here = await hq.service.distribute(van.blobs.add(b"here"), AllNodes())
        assert (await hq.service.wait_for_completion(here, 10)).is_success
        assert len(van.blobs.running) == 4

    in_a_world(run)


def test_given_1000_targets_then_a_frame_takes_under_5_ms() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        names = [node_id_of(b"%d" % n) for n in range(1000)]
        handle = await hq.service.distribute(hq.blobs.add(b"x" * 1000), Nodes(names))
        async with hq.service.subscribe_progress(handle) as statuses:
            await anext(statuses)
            spent = []
            for name in names[:100]:
                body = {
                    "distribution_id": handle.distribution_id,
                    "node_id": name,
                    "publisher": "hq",
                    "status": "transferring",
                    "progress_bytes": 500,
                    "total_bytes": 1000,
                    "updated_at": 0.0,
                }
                hq.documents.receive(("receipts", f"{handle.distribution_id}:{name}"), (1, body))
                began = time.perf_counter()
                status = await anext(statuses)
                spent.append(time.perf_counter() - began)
            assert status.in_progress == 100
            assert status.total_targets == 1000
            assert status.node_statuses[names[0]].status is TransferState.TRANSFERRING
            assert sorted(spent)[50] < 0.005

    in_a_world(run)


def test_given_a_first_item_that_was_not_waited_for_when_asked_again_then_it_comes() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), AllNodes())
        async with hq.service.subscribe_progress(handle) as statuses:
            first = asyncio.ensure_future(anext(statuses))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert (await anext(statuses)).handle == handle

    in_a_world(run)
