"""Distributions that are over do not stay for ever, and nobody brings them back."""

from __future__ import annotations

import pytest

from mesh.core.catalogue import Catalogue
from mesh.core.receipts import DistributionRecord, RemovedDistribution, distribution_id_of
from mesh.core.scopes import AllNodes, Formation, Nodes
from mesh.core.status import DistributionHandle, TransferPriority
from mesh.errors import UnknownDistribution
from tests.unit.distributions.fakes import token_of
from tests.unit.distributions.world import GHOST, NORTH, FakePeer, World, in_a_world, later

DAY = 86_400.0


def _held(peer: FakePeer, handle: DistributionHandle) -> tuple[bool, int]:
    """Whether a node holds the distribution itself, and how many receipts of it."""
    body = peer.documents.held.get(("distributions", handle.distribution_id), (0, {}))[1]
    receipts = [key for key in peer.documents.held if key[1].startswith(f"{handle.distribution_id}:")]
    return "token" in body, len(receipts)


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "superseded", "expired"])
def test_given_a_distribution_that_is_over_when_30_days_have_passed_then_nobody_holds_it(how: str) -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        hub = await world.start("hub", hub=True)
        van = await world.start("van", ["north"], receive="off" if how == "failed" else "auto")
        other = await world.start("other")
        if how not in ("completed", "failed"):
            world.disconnect(van)
        expires = 2 * DAY if how == "expired" else None
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH, expires_in=expires)
        if how == "cancelled":
            await hq.service.cancel(handle)
        if how == "superseded":
            await hq.service.distribute(hq.blobs.add(b"new"), Nodes([GHOST]), supersedes=handle)
        world.reconnect(van)
        await later(29 * DAY)
        assert all(_held(peer, handle)[0] for peer in world.peers.values())
        await later(5 * DAY)
        for peer in (hq, hub, van, other):
            assert _held(peer, handle) == (False, 0), peer.node_id
            with pytest.raises(UnknownDistribution):
                await peer.service.status(handle)
        live = await hq.service.handles()
        assert len(live) == (how == "superseded")

    in_a_world(run)


def test_given_a_distribution_that_is_not_over_then_it_stays() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        await world.start("van", ["north"])
        waiting = await hq.service.distribute(hq.blobs.add(b"map"), Nodes([GHOST]))
        nobody = await hq.service.distribute(hq.blobs.add(b"map"), Formation("south"))
        served = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(25 * DAY)
        await world.start("late", ["north"])
        await later(25 * DAY)
        assert (await hq.service.status(served)).completed == 2, "the latest receipt is not 30 days old"
        await later(50 * DAY)
        assert {h.distribution_id for h in await hq.service.handles()} == {
            waiting.distribution_id,
            nobody.distribution_id,
        }

    in_a_world(run)


def test_given_a_sleeper_when_it_comes_back_after_the_removal_then_nothing_comes_back() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        van = world.add("van", ["north"])
        van.blobs.seconds = 10 * DAY
        await van.up()
        world.catch_up(van.documents)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        world.disconnect(van)
        await hq.service.cancel(handle)
        await later(40 * DAY)
        assert _held(hq, handle) == (False, 0)
        assert _held(van, handle) == (True, 1)
        world.reconnect(van)
        await later()
        newcomer = await world.start("newcomer", ["north"])
        await later(2 * DAY)
        for peer in (hq, van, newcomer):
            assert _held(peer, handle) == (False, 0), peer.node_id
        assert van.blobs.discarded == [handle.blob_hash]
        assert not newcomer.blobs.fetched
        await van.restart()
        await later(2 * DAY)
        assert _held(van, handle) == (False, 0)

    in_a_world(run)


def test_given_a_short_retention_then_it_is_kept_to() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq", retention=4)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        await hq.service.cancel(handle)
        await later(9)
        assert _held(hq, handle) == (False, 0)

    in_a_world(run)


def test_given_a_late_receipt_of_a_removed_distribution_then_it_is_gone_the_next_day() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        hub, van = await world.start("hub", hub=True), await world.start("van", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        receipt = next(iter(key for key in van.documents.held if key[0] == "receipts"))
        saved = van.documents.held[receipt]
        await later(35 * DAY)
        hub.documents.receive(receipt, saved)
        assert _held(hub, handle) == (False, 1)
        await later(DAY)
        assert _held(hub, handle) == (False, 0)

    in_a_world(run)


def test_given_a_delivery_that_waits_when_its_distribution_is_removed_then_it_is_withdrawn() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq", retention=5 * DAY)
        van = await world.start("van", ["north"], receive="manual")
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        world.disconnect(van)
        await hq.service.cancel(handle)
        await later(8 * DAY)
        world.reconnect(van)
        await later()
        assert _held(van, handle) == (False, 0)

    in_a_world(run)


def test_given_a_year_then_even_the_removal_is_forgotten_and_so_is_what_a_lost_publisher_left() -> None:
    async def run(world: World) -> None:
        hq, lost = await world.start("hq"), await world.start("lost")
        van = await world.start("van", ["north"])
        gone = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        orphan = await lost.service.distribute(lost.blobs.add(b"old"), NORTH, expires_in=DAY)
        old = await lost.service.distribute(lost.blobs.add(b"older"), Nodes([GHOST]))
        await lost.service.distribute(lost.blobs.add(b"newer"), NORTH, expires_in=DAY, supersedes=old)
        await later()
        world.disconnect(lost)
        await later(40 * DAY)
        assert ("distributions", gone.distribution_id) in van.documents.held
        for peer in world.peers.values():
            peer.skew = 340 * DAY
        await later(40 * DAY)
        for peer in (hq, van):
            left = [key[1] for key in peer.documents.held if key[0] == "distributions"]
            assert len(left) == 2, "what superseded an older one is needed as long as that is held"
            assert (await peer.service.status(old)).superseded_by in left
        assert not {gone.distribution_id, orphan.distribution_id} & set(left)
        assert _held(lost, orphan) == (False, 0)

    in_a_world(run)


def test_given_a_removed_distribution_when_somebody_follows_it_then_the_stream_ends() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq", retention=5 * DAY)
        van = world.add("van", ["north"], receive="manual")
        await van.up()
        world.catch_up(van.documents)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH, expires_in=DAY)
        stream = hq.service.subscribe_progress(handle)
        assert not (await anext(stream)).is_expired
        await later(8 * DAY)
        assert [status.is_expired async for status in stream][-1:] == [True]

    in_a_world(run)


def test_what_a_removed_distribution_superseded_stays_superseded_in_any_order() -> None:
    def record(nonce: str, supersedes: str | None = None) -> DistributionRecord:
        return DistributionRecord(
            distribution_id_of("hq", nonce), token_of(b"map"), AllNodes().to_dict(), TransferPriority.NORMAL,
            "hq", nonce, 1.0, supersedes=supersedes,
        )  # fmt: skip

    old = record("a" * 16)
    new = record("b" * 16, old.distribution_id)
    removed = RemovedDistribution(new.distribution_id, "hq", new.nonce, 2.0, new.supersedes)
    for order in ((old, new, removed), (removed, old, new), (new, removed, old)):
        catalogue = Catalogue()
        for each in order:
            if isinstance(each, RemovedDistribution):
                catalogue.remove(each)
            else:
                catalogue.put(each)
        assert catalogue.superseded_by(old.distribution_id) == new.distribution_id
        assert catalogue.superseded_at(old.distribution_id) == 2.0
        assert [each.distribution_id for each in catalogue] == [old.distribution_id]
