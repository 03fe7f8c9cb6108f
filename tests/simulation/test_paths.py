"""Documents cross many hops for those who want them, and circles cost a bounded number of copies."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

DOCUMENTS, BATCH = 60, 6


async def write(world: World, name: str, count: int = DOCUMENTS) -> None:
    """Documents that cannot be compressed, a few at a time."""
    cars = world.nodes[name].collection("cars")
    rng = random.Random(count)
    for first in range(0, count, BATCH):
        await asyncio.gather(
            *[
                cars.insert({"_id": f"{name}.{n}", "text": rng.randbytes(1000).hex()})
                for n in range(first, first + BATCH)
            ]
        )
        await asyncio.sleep(1)


async def build(world: World, edges: list[tuple[int, int]], subscribers: set[int]) -> list[str]:
    """Nodes, linked as ``edges`` say, once everybody knows what everybody wants."""
    names = [f"n{i}" for i in range(max(map(max, edges)) + 1)]
    for i, name in enumerate(names):
        await world.start(name, [f"n{a}" for a, b in edges if b == i])
        if i in subscribers:
            await world.nodes[name].collection("cars").subscribe()
    await asyncio.sleep(30)
    return names


async def copies(edges: list[tuple[int, int]], subscribers: set[int], *, delay: float = 0.0) -> list[float]:
    """How many times each node receives what the first one writes: in bytes, where one copy is what the only
    reader of a writer receives."""
    received: list[list[int]] = []
    for graph, wanting in (([(0, 1)], {1}), (edges, subscribers)):
        world = World(1, delay=delay)
        names = await build(world, graph, wanting)
        before = [world.nodes[name].stats().document_bytes_in for name in names]
        await write(world, "n0")
        await asyncio.sleep(30)
        received.append(
            [world.nodes[n].stats().document_bytes_in - was for n, was in zip(names, before, strict=True)]
        )
        for number in wanting:
            assert await world.nodes[f"n{number}"].collection("cars").count() == DOCUMENTS, number
        await world.close()
    [_, one_copy], all_copies = received
    return [size / one_copy for size in all_copies]


LINE = [(i, i + 1) for i in range(8)]
RING = [(i, (i + 1) % 8) for i in range(8)]
MESH = [(a, b) for b in range(8) for a in range(b)]
EVERYBODY = set(range(8))


def test_documents_cross_eight_hops_with_only_the_ends_subscribed() -> None:
    async def main() -> None:
        assert max(await copies(LINE, {0, 8})) < 1.1, "everybody on the way receives them once"

    run_virtual(main())


def test_who_is_not_on_the_way_to_anybody_receives_nothing() -> None:
    async def main() -> None:
        numbers = await copies([(0, 1), (1, 2), (1, 3), (3, 4)], {2})
        assert max(numbers[3:]) < 0.1

    run_virtual(main())


@pytest.mark.parametrize("delay", [0.0, 0.02])
@pytest.mark.parametrize(("edges", "links"), [(RING, 2), (MESH, 7)])
def test_circles_cost_at_most_one_copy_per_link_of_a_node(
    edges: list[tuple[int, int]], links: int, delay: float
) -> None:
    async def main() -> None:
        numbers = await copies(edges, EVERYBODY, delay=delay)
        assert max(numbers) < links + 0.1
        assert numbers[0] < 0.1, "nothing comes back to the writer"

    run_virtual(main())
