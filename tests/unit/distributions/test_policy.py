"""What the application refuses, and what becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.core.status import TransferPriority, TransferState
from mesh.distributions.policy import Offer
from tests.unit.distributions.world import NORTH, FakePeer, World, in_a_world, later


def _said(peer: FakePeer, distribution_id: str) -> tuple[TransferState, str | None] | None:
    receipt = peer.receipt(distribution_id)
    return None if receipt is None else (receipt.status, receipt.error)


def test_given_a_policy_when_it_refuses_by_size_name_or_publisher_then_the_receipt_says_why() -> None:
    async def run(world: World) -> None:
        offers: list[Offer] = []

        def policy(offer: Offer) -> str | None:
            offers.append(offer)
            if offer.token.size_bytes > 10:
                return "larger than 10 bytes"
            return "not from there" if offer.publisher == "rogue" else None

        hq, rogue = await world.start("hq"), await world.start("rogue")
        van = await world.start("van", ["north"], policy=policy)
        small = await hq.service.distribute(hq.blobs.add(b"small"), NORTH, TransferPriority.HIGH)
        large = await hq.service.distribute(hq.blobs.add(b"x" * 11), NORTH)
        foreign = await rogue.service.distribute(rogue.blobs.add(b"gift"), NORTH)
        await later()
        refused = "refused by the policy here: "
        assert _said(van, small.distribution_id) == (TransferState.COMPLETED, None)
        assert _said(van, large.distribution_id) == (TransferState.FAILED, f"{refused}larger than 10 bytes")
        assert _said(van, foreign.distribution_id) == (TransferState.FAILED, f"{refused}not from there")
        assert van.blobs.fetched == [small.blob_hash]
        assert [(o.token.metadata.name, o.publisher, o.priority) for o in offers][:1] == [
            ("map.bin", "hq", TransferPriority.HIGH)
        ]
        assert (await hq.service.status(large)).failed == 1

    in_a_world(run)


@pytest.mark.parametrize("receive", ["auto", "manual"])
def test_given_a_refused_distribution_when_retried_then_the_policy_is_asked_again(receive: str) -> None:
    async def run(world: World) -> None:
        metered = True
        hq = await world.start("hq")
        van = await world.start(
            "van", ["north"], policy=lambda offer: "metered" if metered else None, receive=receive
        )
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        metered = False
        await later()
        assert (await hq.service.status(handle)).failed == 1, "only retry() asks again"
        await hq.service.retry(handle)
        await later()
        if receive == "manual":
            await (await anext(van.service.deliveries())).accept()
            await later()
        assert (await hq.service.status(handle)).is_success

    in_a_world(run)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise KeyError("reason")


@pytest.mark.parametrize(
    "answer",
    [
        ValueError("no such file"),
        OSError("no \udcff.bin"),
        Unspeakable(),
        asyncio.CancelledError(),
        True,
        "async",
    ],
)
def test_given_a_policy_that_fails_then_the_receipt_says_so_and_others_go_on(answer: Any) -> None:
    async def run(world: World) -> None:
        async def refuse(offer: Offer) -> str | None:
            raise OSError("the disk is gone")

        def policy(offer: Offer) -> Any:
            if offer.token.size_bytes == 3:
                return None
            if isinstance(answer, BaseException):
                raise answer
            return refuse(offer) if answer == "async" else answer

        hq, van = await world.start("hq"), await world.start("van", ["north"], policy=policy)
        bad = await hq.service.distribute(hq.blobs.add(b"other"), NORTH)
        good = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        said = _said(van, bad.distribution_id)
        assert said is not None
        assert said[0] is TransferState.FAILED
        assert said[1] is not None
        assert said[1].startswith("the policy here failed (")
        assert _said(van, good.distribution_id) == (TransferState.COMPLETED, None)

    in_a_world(run)


def test_given_a_policy_that_takes_its_time_then_only_its_own_distribution_waits() -> None:
    async def run(world: World) -> None:
        answer = asyncio.Event()

        async def policy(offer: Offer) -> str | None:
            if offer.token.size_bytes == 5:
                await answer.wait()
            return None

        hq, van = await world.start("hq"), await world.start("van", ["north"], policy=policy)
        slow = await hq.service.distribute(hq.blobs.add(b"other"), NORTH)
        stopped = await hq.service.distribute(hq.blobs.add(b"12345"), NORTH)
        quick = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later()
        await hq.service.cancel(stopped)
        await later()
        assert van.blobs.fetched == [quick.blob_hash]
        answer.set()
        await later()
        assert van.blobs.fetched == [quick.blob_hash, slow.blob_hash]
        assert van.receipt(stopped.distribution_id) is None

    in_a_world(run)


def test_given_a_running_fetch_when_restarted_with_a_policy_that_refuses_then_it_fails() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"])
        van.blobs.seconds = 1000.0
        await van.up()
        world.catch_up(van.documents)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(1)
        await van.restart(policy=lambda offer: "metered")
        await later()
        assert _said(van, handle.distribution_id) == (
            TransferState.FAILED,
            "refused by the policy here: metered",
        )

    in_a_world(run)
