"""A peer that takes little or nothing costs itself: the others go on, and nobody's memory fills up for it."""

from __future__ import annotations

import asyncio

import pytest

from mesh.network.link import HIGH_WATER_BYTES
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

HOUR = 3600.0
DOCUMENTS, BATCH = 5000, 250


async def trio() -> World:
    """Two nodes that sync cars from a writer."""
    world = World(1, delay=0.01)
    await world.start("writer")
    for name in ("fast", "slow"):
        await world.start(name, ["writer"])
        await world.nodes[name].collection("cars").subscribe()
        await world.nodes[name].settled(HOUR)
    world.network.set_bandwidth("fast", 1_000_000)
    return world


async def write(world: World) -> tuple[float, int]:
    """How long it takes until ``fast`` has all that is written, and how much waits for ``slow`` meanwhile."""
    loop = asyncio.get_running_loop()
    started, waiting = loop.time(), 0
    cars = world.nodes["writer"].collection("cars")
    link = world.link("writer", "slow")
    for first in range(0, DOCUMENTS, BATCH):
        await asyncio.gather(
            *[cars.insert({"_id": f"{n}", "text": f"{n}" * 20}) for n in range(first, first + BATCH)]
        )
        waiting = max(waiting, link.pending_bytes)
        await asyncio.sleep(0.1)
        waiting = max(waiting, link.pending_bytes)
    await holds(world, "fast", DOCUMENTS)
    return loop.time() - started, waiting


async def holds(world: World, name: str, count: int) -> None:
    """Wait until a node holds so many cars."""
    async with world.nodes[name].collection("cars").observe() as changes:
        async for change in changes:
            if len(change.documents) >= count:
                return


@pytest.mark.parametrize("bytes_per_second", [1_000, 0])
def test_who_takes_almost_nothing_holds_up_nobody_and_catches_up_when_it_can(bytes_per_second: int) -> None:
    async def main() -> None:
        world = await trio()
        usual_seconds, _ = await write(world)
        await world.close()

        world = await trio()
        if bytes_per_second:
            world.network.set_bandwidth("slow", bytes_per_second)
        else:
            world.network.partition([["slow"]])  # its connections stay open, and nothing gets through
        seconds, waiting = await write(world)
        assert seconds < usual_seconds * 1.1
        assert waiting < HIGH_WATER_BYTES
        assert await world.nodes["slow"].collection("cars").count() < DOCUMENTS / 4

        await asyncio.sleep(HOUR)
        world.network.set_bandwidth("slow", None)
        world.network.heal()
        async with asyncio.timeout(3 * 60):
            await holds(world, "slow", DOCUMENTS)
        await world.close()

    run_virtual(main())
