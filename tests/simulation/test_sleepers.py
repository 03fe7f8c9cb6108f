"""Nodes that sleep longer than tombstones live, with work of their own that nobody has seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh import Node
from mesh.storage.graves import GRAVE_SECONDS, TOMBSTONE_SECONDS
from tests.simulation.virtual_clock import DAY, run_virtual
from tests.simulation.world import World

Contents = dict[str, dict[str, Any]]


async def contents(node: Node) -> Contents:
    return {document.pop("_id"): document for document in await node.collection("cars").find()}


async def job(node: Node, sql: str) -> list[Any]:
    """What the node's store says, or has done to it."""
    assert node._parts is not None
    return await node._parts.store.write(lambda rows: rows.connection.execute(sql).fetchall())


async def dead(node: Node) -> tuple[int, int]:
    """How many full tombstones there are, and graves."""
    [tombstones] = await job(node, "SELECT count(*) FROM documents WHERE json IS NULL")
    [graves] = await job(node, "SELECT count(*) FROM graves")
    return tombstones[0], graves[0]


async def pass_days(world: World, days: float) -> None:
    """Everybody is awake and offline, so that no heartbeats have to be simulated for so long."""
    for node in world.nodes.values():
        await node.pause()
    await asyncio.sleep(days * DAY)
    for node in world.nodes.values():
        await node.resume()
    await settled(world)


async def settled(world: World) -> None:
    for _ in range(len(world.nodes)):
        for node in world.nodes.values():
            await node.settled(600)


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[World]:
    """A line a - b - c with eight documents."""
    world = World(3, folder)
    try:
        await world.start("a")
        await world.start("b", ["a"])
        await world.start("c", ["b"])
        for node in world.nodes.values():
            await node.collection("cars").subscribe()
        cars = world.nodes["a"].collection("cars")
        for n in range(8):
            await cars.insert({"_id": f"car{n}", "n": 0, "by": "a"})
        await settled(world)
        assert all([len(await contents(node)) == 8 for node in world.nodes.values()])
        yield world
    finally:
        await world.close()


async def sleep_and_work(world: World, days: float) -> None:
    """``c`` sleeps; on day 1 the others remove some and create one of these anew, and then wait."""
    c = world.nodes["c"]
    await c.pause()
    mine = c.collection("cars")
    await mine.insert({"_id": "new", "by": "c"})
    await mine.update("car0", {"by": "c"})
    await mine.increment("car1", "n", 3)
    await mine.remove("car2")
    await mine.update("car5", {"by": "c"})  # which the others remove
    await world.stop("c")

    await asyncio.sleep(DAY)
    cars = world.nodes["a"].collection("cars")
    await cars.increment("car1", "n", 2)
    for removed in ("car4", "car5", "car6"):
        await cars.remove(removed)
    await world.nodes["b"].settled(600)
    await cars.insert({"_id": "car6", "by": "a, again"})
    await pass_days(world, days - 1)


EXPECTED: Contents = {
    "new": {"by": "c"},
    "car0": {"n": 0, "by": "c"},
    "car1": {"n": 5, "by": "a"},
    "car3": {"n": 0, "by": "a"},
    "car6": {"by": "a, again"},
    "car7": {"n": 0, "by": "a"},
}


async def come_back(world: World, *, stranger: bool) -> Node:
    """``c`` is back, and everybody has settled."""
    if stranger:
        for name in "ab":
            await job(world.nodes[name], "DELETE FROM positions")
    c = await world.restart("c")
    if stranger:
        await c.pause()
        await job(c, "DELETE FROM positions")
        await c.resume()
    await settled(world)
    return c


@pytest.mark.parametrize("stranger", [False, True])
def test_sixty_days_asleep(tmp_path: Path, stranger: bool) -> None:
    """The sleeper loses none of its work, and wakes none of the dead; everybody is equal."""

    async def main() -> None:
        async with three(tmp_path) as world:
            await sleep_and_work(world, 60)
            for name in "ab":
                assert await dead(world.nodes[name]) == (0, 2)
            c = await come_back(world, stranger=stranger)
            for node in world.nodes.values():
                assert await contents(node) == EXPECTED
            await pass_days(world, 40)  # what has died again, or has been learned of, is buried everywhere
            for node in world.nodes.values():
                assert await contents(node) == EXPECTED
                assert await dead(node) == (0, 3)
            # The sleeper knows by now what was removed: its next insert is a new life.
            await c.collection("cars").insert({"_id": "car4", "by": "c"})
            await settled(world)
            for node in world.nodes.values():
                assert await contents(node) == {**EXPECTED, "car4": {"by": "c"}}

    run_virtual(main())


def test_who_has_never_seen_a_document_may_use_its_id_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with three(tmp_path) as world:
            await world.nodes["a"].collection("cars").remove("car4")
            await settled(world)
            await pass_days(world, 31)
            new = await world.start("new", ["b"])
            await new.collection("cars").subscribe()
            await settled(world)
            await new.collection("cars").insert({"_id": "car4", "by": "new"})
            await settled(world)
            for node in world.nodes.values():
                assert (await contents(node))["car4"] == {"by": "new"}

    run_virtual(main())


@pytest.mark.parametrize("stranger", [False, True])
def test_four_hundred_days_asleep(tmp_path: Path, stranger: bool) -> None:
    """Longer than graves are kept: none of its work is lost. But the others do not know any more what they
    had removed, and the sleeper still holds it."""

    async def main() -> None:
        async with three(tmp_path) as world:
            assert 400 * DAY > TOMBSTONE_SECONDS + GRAVE_SECONDS
            await sleep_and_work(world, 400)
            for name in "ab":
                assert await dead(world.nodes[name]) == (0, 0)
            await come_back(world, stranger=stranger)
            forgotten = {"car4": {"n": 0, "by": "a"}, "car5": {"n": 0, "by": "c"}}
            # What the sleeper has changed goes everywhere, as does all that it holds if stores are compared.
            seen = forgotten if stranger else {"car5": forgotten["car5"]}
            for name in "ab":
                assert await contents(world.nodes[name]) == {**EXPECTED, **seen}
            assert await contents(world.nodes["c"]) == {**EXPECTED, **forgotten}

    run_virtual(main(), limit_virtual_seconds=500 * DAY)
