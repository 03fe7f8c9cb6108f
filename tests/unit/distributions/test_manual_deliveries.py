"""Deliveries that wait for the application (``receive="manual"``)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mesh.core.status import DistributionHandle, TransferState
from mesh.distributions.deliveries import Delivery
from mesh.errors import FetchFailed, InvalidDistribution
from tests.unit.distributions.fakes import FakeBlobs, export_for_ever
from tests.unit.distributions.world import NORTH, FakePeer, World, in_a_world, later


def _files(inbox: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in inbox.iterdir()}


async def _offer(world: World) -> tuple[FakePeer, FakePeer, DistributionHandle, Delivery]:
    hq, van = await world.start("hq"), await world.start("van", ["north"], receive="manual")
    handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
    async with van.service.deliveries() as deliveries:
        return hq, van, handle, await anext(deliveries)


def test_given_manual_when_offered_then_nothing_moves_until_the_application_asks() -> None:
    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer(world)
        await later()
        assert not van.blobs.fetched
        status = await hq.service.status(handle)
        assert (status.total_targets, status.pending) == (1, 1)
        assert "waits for the application" in (status.node_statuses["van"].error or "")
        await delivery.fetch()
        assert (delivery.publisher, delivery.token.hash) == ("hq", handle.blob_hash)
        await later()
        assert (await hq.service.status(handle)).in_progress == 1
        await delivery.accept()
        await delivery.accept()
        assert (await hq.service.wait_for_completion(handle, 30)).is_success
        with pytest.raises(InvalidDistribution, match="cannot be rejected"):
            await delivery.reject("too late")

    in_a_world(run)


def test_given_an_undecided_delivery_when_restarted_then_it_is_offered_again_and_a_decided_one_is_not() -> (
    None
):
    async def run(world: World) -> None:
        hq, van, first, delivery = await _offer(world)
        second = await hq.service.distribute(hq.blobs.add(b"other"), NORTH)
        await delivery.accept()
        await later(1)
        await van.restart()
        async with van.service.deliveries() as deliveries:
            again = await anext(deliveries)
            assert again.distribution_id == second.distribution_id != first.distribution_id
            await van.service.close()
            with pytest.raises(FetchFailed, match="closed"):
                await again.accept()
            assert [delivery async for delivery in deliveries] == []

    in_a_world(run)


def test_given_a_rejected_delivery_when_retried_then_it_is_offered_again() -> None:
    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer(world)
        await delivery.reject("on a metered link")
        status = await hq.service.wait_for_completion(handle, 30)
        assert status.node_statuses["van"].error == "rejected: on a metered link"
        await hq.service.retry(handle)
        async with van.service.deliveries() as deliveries:
            await (await anext(deliveries)).accept()
        assert (await hq.service.wait_for_completion(handle, 30)).is_success
        with pytest.raises(FetchFailed):
            await delivery.fetch()

    in_a_world(run)


def test_given_a_running_manual_fetch_when_cancelled_then_the_application_is_told() -> None:
    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer(world)
        van.blobs.seconds = 100
        fetching = asyncio.ensure_future(delivery.accept())
        await later(10)
        await hq.service.cancel(handle)
        with pytest.raises(FetchFailed, match="cancelled by the publisher"):
            await fetching
        await later(1)
        assert van.blobs.discarded == [handle.blob_hash]
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.CANCELLED
        with pytest.raises(FetchFailed):
            await delivery.fetch()
        async with van.service.deliveries() as deliveries:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await anext(deliveries)

    in_a_world(run)


def test_given_a_manual_fetch_when_its_task_is_cancelled_then_it_can_be_fetched_again() -> None:
    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer(world)
        van.blobs.seconds = 100
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await delivery.fetch()
        assert not van.blobs.running
        await delivery.accept()
        assert (await hq.service.wait_for_completion(handle, 30)).is_success

    in_a_world(run)


async def _offer_to_inbox(
    world: World, inbox: Path
) -> tuple[FakePeer, FakePeer, DistributionHandle, Delivery]:
    hq = await world.start("hq")
    van = await world.start("van", ["north"], receive="manual", inbox=inbox)
    handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
    return hq, van, handle, await _first(van)


async def _first(peer: FakePeer) -> Delivery:
    async with peer.service.deliveries() as deliveries:
        return await anext(deliveries)


def test_given_an_inbox_when_accepted_then_the_file_is_there_once(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        (tmp_path / "map.bin").write_bytes(b"mine")
        hq, van, handle, delivery = await _offer_to_inbox(world, tmp_path)
        await delivery.fetch()
        assert _files(tmp_path) == {"map.bin": b"mine"}
        appeared = tmp_path / f"map-{handle.distribution_id}.bin"
        assert set(await asyncio.gather(delivery.accept(), delivery.accept())) == {appeared}
        assert await delivery.accept() == appeared
        assert _files(tmp_path) == {"map.bin": b"mine", appeared.name: b"map"}
        assert (await hq.service.wait_for_completion(handle, 30)).is_success
        assert van.blobs.exported == 1

    in_a_world(run)


def test_given_a_crash_after_an_accepted_file_appeared_then_accepting_again_writes_only_the_receipt(
    tmp_path: Path,
) -> None:
    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer_to_inbox(world, tmp_path)
        await delivery.fetch()
        await van.service.close()
        (tmp_path / "map.bin").write_bytes(b"map")
        await van.restart()
        assert await (await _first(van)).accept() == tmp_path / "map.bin"
        assert _files(tmp_path) == {"map.bin": b"map"}
        assert van.blobs.exported == 0
        assert (await hq.service.wait_for_completion(handle, 30)).is_success

    in_a_world(run)


def test_given_an_accepted_file_that_is_being_copied_when_cancelled_then_it_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBlobs, "export", export_for_ever)

    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer_to_inbox(world, tmp_path)
        accepting = asyncio.ensure_future(delivery.accept())
        await later(10)
        await hq.service.cancel(handle)
        with pytest.raises(FetchFailed, match="cancelled by the publisher"):
            await accepting
        assert os.listdir(tmp_path) == []
        await later(1)
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.CANCELLED

    in_a_world(run)


@pytest.mark.parametrize("by", ["publisher", "caller", "close", "reject"])
def test_given_an_accepted_file_that_has_appeared_then_the_receipt_says_completed(
    tmp_path: Path, by: str
) -> None:
    async def run(world: World) -> None:
        hq, van, handle, delivery = await _offer_to_inbox(world, tmp_path)
        await delivery.fetch()
        van.documents.commit_seconds = 100
        accepting = asyncio.ensure_future(delivery.accept())
        await later(10)
        assert _files(tmp_path) == {"map.bin": b"map"}
        if by == "publisher":
            await hq.service.cancel(handle)
        elif by == "caller":
            accepting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await accepting
        elif by == "close":
            await van.service.close()
        else:
            with pytest.raises(InvalidDistribution, match=r"cannot be rejected: .* decided already"):
                await delivery.reject("too late")
        await later(1000)
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.COMPLETED
        assert accepting.cancelled() or accepting.result() == tmp_path / "map.bin"
        assert await delivery.accept() == tmp_path / "map.bin"
        assert _files(tmp_path) == {"map.bin": b"map"}

    in_a_world(run)


def test_given_an_inbox_that_cannot_take_it_then_the_delivery_stays_undecided(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        hq, _, handle, delivery = await _offer_to_inbox(world, tmp_path)
        for name in ("map.bin", f"map-{handle.distribution_id}.bin"):
            (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(FileExistsError, match="move them away"):
            await delivery.accept()
        (tmp_path / "map.bin").unlink()
        assert await delivery.accept() == tmp_path / "map.bin"
        assert (await hq.service.wait_for_completion(handle, 30)).is_success

    in_a_world(run)
