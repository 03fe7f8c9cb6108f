"""Subscriptions come and go while documents are on their way: what somebody still wants is not disturbed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from mesh import PermissionDenied
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

HOUR = 3600.0
DOCUMENTS = 1500
SECONDS = 8.0
"""What the transfer of all takes, about."""

Disturbance = Callable[[World], Coroutine[Any, Any, None]]


async def nothing(_: World) -> None:
    pass


async def come_and_go(world: World) -> None:
    """The reader asks for other things as well, and for some of the same things in other words."""
    cars, bikes = (world.nodes["reader"].collection(name) for name in ("cars", "bikes"))
    for number in range(10):
        await asyncio.sleep(SECONDS / 15)
        subscriptions = [await bikes.subscribe({"n": number}), await cars.subscribe({"n": {"$lt": number}})]
        await asyncio.sleep(SECONDS / 30)
        await subscriptions[number % 2].cancel()


async def transfer(disturbance: Disturbance) -> tuple[float, int]:
    """Seconds and bytes that it takes the reader to get everything through a relay."""
    loop = asyncio.get_running_loop()
    world = World(1)
    writer = await world.start("writer")
    rng = random.Random(1)
    cars = writer.collection("cars")
    await asyncio.gather(*[cars.insert({"n": n, "text": rng.randbytes(500).hex()}) for n in range(DOCUMENTS)])
    await world.start("relay", ["writer"])
    reader = await world.start("reader", ["relay"])
    await reader.settled(HOUR)
    world.network.set_bandwidth("writer", DOCUMENTS * 540 / SECONDS)
    started, before = loop.time(), reader.stats().document_bytes_in
    await reader.collection("cars").subscribe()
    disturbing = asyncio.create_task(disturbance(world))
    await holds(world, "reader", DOCUMENTS)
    taken = loop.time() - started
    await disturbing
    await asyncio.sleep(60)
    spent = reader.stats().document_bytes_in - before
    await world.close()
    return taken, spent


async def holds(world: World, name: str, count: int) -> None:
    """Wait until a node holds so many cars."""
    async with world.nodes[name].collection("cars").observe() as changes:
        async for change in changes:
            if len(change.documents) >= count:
                return


def test_a_transfer_is_neither_held_up_nor_repeated() -> None:
    async def main() -> None:
        seconds, size = await transfer(nothing)
        disturbed_seconds, disturbed_size = await transfer(come_and_go)
        assert SECONDS * 0.8 < seconds < SECONDS * 1.3
        assert disturbed_seconds < seconds * 1.1
        assert disturbed_size < size * 1.1

    run_virtual(main())


def test_what_others_want_keeps_coming_when_one_cancels() -> None:
    async def main() -> None:
        world = World(1)
        writer = await world.start("writer")
        await world.start("relay", ["writer"])
        for name, selector in (("some", {"n": {"$lt": 500}}), ("all", {})):
            await world.start(name, ["relay"])
            await world.nodes[name].collection("cars").subscribe(selector)
        subscription = await world.nodes["relay"].collection("cars").subscribe()
        wider = await world.nodes["some"].collection("cars").subscribe()
        await asyncio.sleep(10)
        world.network.set_bandwidth("writer", DOCUMENTS * 540 / SECONDS)
        rng = random.Random(1)
        cars = writer.collection("cars")
        await asyncio.gather(
            *[cars.insert({"n": n, "text": rng.randbytes(500).hex()}) for n in reversed(range(DOCUMENTS))]
        )
        await asyncio.sleep(SECONDS / 2)
        await subscription.cancel()
        await wider.cancel()
        await holds(world, "all", DOCUMENTS)
        await world.nodes["some"].settled(HOUR)
        assert await world.nodes["some"].collection("cars").count({"n": {"$lt": 500}}) == 500
        assert await world.nodes["some"].collection("cars").count() < DOCUMENTS, "the wider one was cancelled"
        await world.close()

    run_virtual(main())


def test_what_is_subscribed_to_is_not_evicted_and_what_is_evicted_stays_away() -> None:
    async def main() -> None:
        world = World(1)
        await world.start("holder")
        await world.start("node", ["holder"])
        holder, node = (world.nodes[name].collection("cars") for name in ("holder", "node"))
        for n in range(20):
            await holder.insert({"_id": f"car{n}", "n": n})
        subscription = await node.subscribe({"n": {"$lt": 10}})
        await holds(world, "node", 10)
        attempts: list[Mapping[str, Any] | str] = [{}, {"n": {"$gt": 5}}, "car1"]
        for what in attempts:
            with pytest.raises(
                PermissionDenied, match=r"cars is subscribed to.* cancel the subscription first"
            ):
                await node.evict(what)
        assert await node.count() == 10, "nothing was evicted"

        await subscription.cancel()
        await world.nodes["node"].settled(HOUR)
        received = world.nodes["node"].stats().document_bytes_in
        assert await node.evict({}) == 10
        await holder.update("car1", {"changed": True})
        await asyncio.sleep(60)
        assert await node.count() == 0
        pings = 6 * 20
        assert world.nodes["node"].stats().document_bytes_in - received < pings + 100, "nothing comes back"
        assert await holder.count() == 20

        await node.subscribe({"n": {"$lt": 5}})
        await holds(world, "node", 5)
        await world.nodes["node"].settled(HOUR)
        assert await node.count() == 5
        await world.close()

    run_virtual(main())
