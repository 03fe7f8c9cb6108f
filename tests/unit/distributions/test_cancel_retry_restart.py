"""Cancel, supersede, and restarts of anyone at every stage."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.receipts import DistributionRecord, distribution_id_of
from mesh.core.scopes import AllNodes
from mesh.core.status import TransferPriority, TransferState
from mesh.errors import (
    InvalidScope,
)
from tests.unit.distributions.fakes import token_of
from tests.unit.distributions.world import NORTH, World, in_a_world, later, published, status_of


def test_given_a_running_fetch_when_cancelled_then_it_stops_and_partial_data_goes() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world, seconds=100)
        await later(60)
        await hq.service.cancel(handle)
        await later(1)
        assert not van.blobs.running
        assert van.blobs.discarded == [handle.blob_hash]
        assert status_of(van, handle) == (TransferState.CANCELLED, "cancelled by the publisher or an admin")
        await later(1000)
        assert handle.blob_hash not in van.blobs.held

    in_a_world(run)


def test_given_a_shared_blob_when_one_distribution_is_cancelled_then_the_other_keeps_its_data() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world, seconds=100)
        other = await hq.service.distribute(token_of(b"x" * 1000), AllNodes())
        await later(10)
        await hq.service.cancel(handle)
        await later(1)
        assert not van.blobs.discarded
        assert (await hq.service.wait_for_completion(other, 300)).is_success

    in_a_world(run)


def test_given_a_running_fetch_when_the_subscriber_restarts_then_it_goes_on() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world, seconds=100)
        await later(60)
        await van.restart()
        assert (await hq.service.wait_for_completion(handle, 300)).is_success
        assert len(van.blobs.fetched) == 2

    in_a_world(run)


def test_given_a_held_blob_without_a_receipt_when_the_subscriber_restarts_then_nothing_is_fetched() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world, seconds=100)
        await later(60)
        await van.service.close()
        van.blobs.add(b"x" * 1000)
        before = len(van.blobs.fetched)
        await van.restart()
        assert (await hq.service.wait_for_completion(handle, 30)).is_success
        assert len(van.blobs.fetched) == before

    in_a_world(run)


def test_given_a_completed_receipt_when_the_subscriber_restarts_then_it_writes_nothing() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world)
        await hq.service.wait_for_completion(handle, 30)
        before = van.receipt(handle.distribution_id)
        await van.restart()
        await later()
        assert van.receipt(handle.distribution_id) == before

    in_a_world(run)


def test_given_a_scope_of_a_newer_peer_then_nobody_delivers_and_the_receipt_says_why() -> None:
    async def run(world: World) -> None:
        newer, van = await world.start("newer"), await world.start("van", ["north"])
        record = DistributionRecord(
            distribution_id_of("newer", "n" * 16),
            newer.blobs.add(b"map"),
            {"type": "all", "except": ["van"]},
            TransferPriority.NORMAL,
            "newer",
            "n" * 16,
            world.now(),
        )
        await newer.documents.write("distributions", record.distribution_id, record.body())
        await later()
        assert not van.blobs.fetched
        receipt = van.receipt(record.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.FAILED
        assert "not understood" in (receipt.error or "")
        assert await van.service.handles() == []
        with pytest.raises(InvalidScope):
            await van.service.status(record.distribution_id)

    in_a_world(run)


def test_given_malformed_distributions_then_they_are_ignored_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run(world: World) -> None:
        newer, van = await world.start("newer"), await world.start("van", ["north"])
        token = newer.blobs.add(b"map")
        good = await newer.service.distribute(token, NORTH)
        body = newer.documents.held["distributions", good.distribution_id][1]
        lies: list[dict[str, Any]] = [{"priority": 9}, {"token": "?"}, {"attempt": 0}, {"scope": 3}]
        for number, broken in enumerate(lies):
            nonce = f"{number}" * 16
            await newer.documents.write(
                "distributions", distribution_id_of("newer", nonce), {**body, "nonce": nonce, **broken}
            )
        assert (await newer.service.wait_for_completion(good, 30)).is_success
        assert len(van.blobs.fetched) == 1
        assert caplog.text.count("is ignored") == 8  # by both nodes

    in_a_world(run)


def test_given_malformed_receipts_and_nodes_then_the_status_does_not_change() -> None:
    async def run(world: World) -> None:
        hq, _, handle = await published(world)
        intruder = await world.start("intruder")
        await hq.service.wait_for_completion(handle, 30)
        before = await hq.service.status(handle)
        async with hq.service.subscribe_progress(handle) as statuses:
            await anext(statuses)
            key = f"{handle.distribution_id}:intruder"
            honest = {
                "distribution_id": handle.distribution_id,
                "node_id": "intruder",
                "publisher": "hq",
                "status": "failed",
                "progress_bytes": 0,
                "total_bytes": 1000,
                "updated_at": 0.0,
                "error": "not my business",
                "facts": {"formations": [], "capabilities": {}},
            }
            for lie in ({}, {"progress_bytes": -5}, {"status": "exploded"}, {"total_bytes": 7}):
                await intruder.documents.write("receipts", key, {**honest, **lie})
            await intruder.documents.write("nodes", "intruder", {"name": 3})
            await later(0.1)
            assert [status async for status in statuses] == []
        assert await hq.service.status(handle) == before

    in_a_world(run)


def test_given_a_broken_own_receipt_when_started_then_the_distribution_begins_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world)
        await hq.service.wait_for_completion(handle, 30)
        key = ("receipts", f"{handle.distribution_id}:van")
        sequence, body = van.documents.held[key]
        van.documents.held[key] = (sequence, body | {"status": "of a newer version"})
        await van.restart()
        await later()
        assert status_of(van, handle)[0] is TransferState.COMPLETED
        assert "an own receipt is left alone" in caplog.text

    in_a_world(run)
