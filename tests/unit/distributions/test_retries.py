"""What is tried again by itself, and what by retry()."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from mesh.core.status import TransferState
from mesh.errors import (
    FetchFailed,
    InvalidDistribution,
    LinkClosed,
    StorageFull,
)
from tests.unit.distributions.world import NORTH, World, in_a_world, later, published, status_of


def test_given_a_cancel_that_was_not_observed_yet_when_retried_then_it_is_refused() -> None:
    async def run(world: World) -> None:
        hq, _, handle = await published(world)
        await hq.service.cancel(handle)
        with pytest.raises(InvalidDistribution, match="cancelled"):
            await hq.service.retry(handle)
        other = await hq.service.distribute(hq.blobs.add(b"other"), NORTH)
        sequence, body = hq.documents.held["distributions", other.distribution_id]
        cancelled = {**body, "cancelled_at": world.now()}
        hq.documents.held["distributions", other.distribution_id] = (sequence + 9, cancelled)
        with pytest.raises(InvalidDistribution, match="cancelled"):
            await hq.service.retry(other)
        writes = len(hq.documents.writes)
        await hq.service.cancel(other)
        assert len(hq.documents.writes) == writes
        assert (await hq.service.status(other)).is_cancelled

    in_a_world(run)


@pytest.mark.parametrize(
    "error",
    [
        StorageFull("/data", 1000, 10, capacity=999),
        FetchFailed("00", "corrupt at its source"),
        OSError(errno.EACCES, "Permission denied"),
    ],
)
def test_given_a_lasting_failure_when_retried_then_only_the_failed_try_again(error: Exception) -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.failures = [error]
        await van.up()
        fine = await world.start("fine", ["north"])
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        status = await hq.service.wait_for_completion(handle, 30, min_targets=2)
        assert status.is_complete
        assert not status.is_success
        assert status.node_statuses["van"].error == str(error)
        await later(86_400)
        assert len(van.blobs.fetched) == 1, "it does not try again by itself"
        await hq.service.retry(handle)
        assert (await hq.service.status(handle)).pending == 1
        assert (await hq.service.wait_for_completion(handle, 30)).is_success
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.attempt == 2
        assert len(fine.blobs.fetched) == 1

    in_a_world(run)


def test_given_transient_failures_when_they_pass_then_it_completes_by_itself() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.failures = [LinkClosed("the tunnel"), OSError(errno.EIO, "?"), RuntimeError("a bug")] * 4
        await van.up()
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(1)
        status = (await hq.service.status(handle)).node_statuses["van"]
        assert status.status is TransferState.CONNECTING
        assert "tries again after" in (status.error or "")
        assert (await hq.service.wait_for_completion(handle, 7200)).is_success

    in_a_world(run)


@pytest.mark.parametrize(
    "full", [StorageFull("/inbox", 1000, 10), OSError(errno.ENOSPC, "No space left on device")]
)
def test_given_an_inbox_without_room_when_there_is_some_then_it_completes_by_itself(
    tmp_path: Path, full: Exception
) -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"], inbox=tmp_path)
        export = van.blobs.export

        async def no_room(hash: str, destination: Path) -> None:
            raise full

        van.blobs.export = no_room  # type: ignore[method-assign]
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(86_400)
        status = (await hq.service.status(handle)).node_statuses["van"]
        assert not status.status.is_terminal
        assert status.error == f"tries again after: {full}"
        van.blobs.export = export  # type: ignore[method-assign]
        assert (await hq.service.wait_for_completion(handle, 31)).is_success
        assert len(van.blobs.fetched) == 1

    in_a_world(run)


@pytest.mark.parametrize("hub", [False, True])
def test_given_a_fetch_that_is_stuck_when_retried_then_it_begins_afresh(hub: bool) -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        van = await world.start("van", [] if hub else ["north"], hub=hub)
        stuck, fetch = asyncio.Event(), van.blobs.fetch
        van.blobs.fetch = lambda *_, **__: stuck.wait()  # type: ignore[assignment]
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(10)
        van.blobs.fetch = fetch  # type: ignore[method-assign]
        await hq.service.retry(handle)
        await later(10)
        assert handle.blob_hash in van.blobs.held
        if not hub:
            receipt = van.receipt(handle.distribution_id)
            assert receipt is not None
            assert (receipt.status, receipt.attempt) == (TransferState.COMPLETED, 2)

    in_a_world(run)


def test_given_a_file_that_has_appeared_when_retried_then_it_stays_completed(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"], inbox=tmp_path)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        van.documents.commit_seconds = 20
        await later(25)
        assert (tmp_path / "map.bin").exists()
        await hq.service.retry(handle)
        await later(100)
        assert status_of(van, handle) == (TransferState.COMPLETED, None)
        assert len(van.blobs.fetched) == 1

    in_a_world(run)


def test_given_a_failed_receipt_that_cannot_be_written_then_it_is_told_once_it_can() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        full = StorageFull("/data", 1000, 10, capacity=999)
        van.blobs.failures = [full, full]
        await van.up()
        van.documents.fail_writes = [full, full]
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        status = await hq.service.wait_for_completion(handle, 3600)
        assert status.failed == 1

    in_a_world(run)


def test_given_a_store_that_stays_full_then_the_failure_is_told_later_and_in_few_attempts() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"])
        full = StorageFull("/data", 1000, 10, capacity=999)
        van.blobs.failures = [full] * 1000
        van.documents.fail_writes = [full] * 1000
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(600)
        assert 3 < len(van.blobs.fetched) < 30
        assert len(van.documents.fail_writes) > 900
        van.documents.fail_writes.clear()
        status = await hq.service.wait_for_completion(handle, 900)
        assert (status.failed, status.node_statuses["van"].error) == (1, str(full))

    in_a_world(run)


def test_given_a_store_that_is_full_when_the_file_is_there_then_the_receipt_says_completed_in_the_end(
    tmp_path: Path,
) -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"], inbox=tmp_path)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        write, failures = van.documents.write, [StorageFull("/data", 1000, 10)]

        async def full_once(collection: str, document_id: str, body: dict[str, Any]) -> None:
            if body.get("status") == "completed" and failures:
                raise failures.pop()
            await write(collection, document_id, body)

        van.documents.write = full_once  # type: ignore[method-assign]
        assert (await hq.service.wait_for_completion(handle, 900)).is_success
        assert not failures
        assert van.blobs.exported == 1

    in_a_world(run)


def test_given_a_cancel_whose_receipt_cannot_be_written_then_it_is_told_later() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world, seconds=100)
        await later(10)
        van.documents.fail_writes = [StorageFull("/data", 1000, 10)]
        await hq.service.cancel(handle)
        await later(1)
        assert not van.blobs.running, "it stops all the same"
        await later(3600)
        assert status_of(van, handle)[0] is TransferState.CANCELLED

    in_a_world(run)


def test_given_a_receipt_that_cannot_be_written_when_nothing_changes_then_it_is_written_later() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"], receive="manual")
        van.documents.fail_writes = [StorageFull("/data", 1000, 10)] * 2
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(100)
        assert status_of(van, handle)[0] is TransferState.PENDING
        assert not van.documents.fail_writes

    in_a_world(run)
