"""Who made the last change of a document, and which changes nobody else holds yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mesh import Node
from mesh.collections.sessions import POSITION_DELAY_SECONDS
from mesh.storage.authors import LastChange
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World


@asynccontextmanager
async def line(folder: Path, hub: bool = True) -> AsyncIterator[World]:
    """Nodes a - b - c that hold tasks; b holds everything if it is a hub."""
    world = World(4, folder)
    try:
        await world.start("b", hub=hub)
        for name in ("a", "c"):
            await world.start(name, ["b"])
        for node in world.nodes.values():
            await node.collection("tasks").subscribe()
            await node.collection("nodes").subscribe()
        await settle(world)
        yield world
    finally:
        await world.close()


async def settle(world: World) -> None:
    for _ in range(2):
        for node in world.nodes.values():
            await node.settled(60)
    await asyncio.sleep(2 * POSITION_DELAY_SECONDS)  # what peers hold is written down after a while


async def author(node: Node, id: str) -> tuple[list[str], bool, bool]:
    change = await node.collection("tasks").last_change(id)
    assert isinstance(change, LastChange)
    return change.by, change.unknown, change.removed


def test_every_node_knows_who_made_the_last_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with line(tmp_path) as world:
            a, b, c = (world.nodes[name] for name in "abc")
            assert await a.collection("tasks").last_change("t") is None
            await a.collection("tasks").insert({"_id": "t", "n": 1})
            await settle(world)
            for node in (a, b, c):
                assert await author(node, "t") == ([a.node_id], False, False)
            await c.collection("tasks").update("t", {"n": 2})
            await settle(world)
            for node in (a, b, c):
                assert await author(node, "t") == ([c.node_id], False, False)
            await world.stop("a")
            await world.restart("a")
            assert await author(world.nodes["a"], "t") == ([c.node_id], False, False)
            await b.collection("tasks").remove("t")
            await settle(world)
            assert await author(c, "t") == ([b.node_id], False, True)

    run_virtual(main())


def test_changes_that_came_together_have_all_their_authors(tmp_path: Path) -> None:
    async def main() -> None:
        async with line(tmp_path) as world:
            a, b, c = (world.nodes[name] for name in "abc")
            await c.pause()
            await a.collection("tasks").insert({"_id": "t", "n": 1})
            await settle_two(a, b)
            await b.collection("tasks").update("t", {"m": 2})
            await c.resume()
            await settle(world)
            assert await author(c, "t") == (sorted([a.node_id, b.node_id]), False, False)
            stranger = await world.start("d", ["c"])
            await stranger.collection("tasks").subscribe()
            await stranger.settled(60)
            assert await author(stranger, "t") == ([], True, False)  # it has no documents of nodes

    async def settle_two(*nodes: Node) -> None:
        for node in nodes:
            await node.settled(60)

    run_virtual(main())


def test_what_nobody_else_holds_is_counted_also_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with line(tmp_path) as world:
            a = world.nodes["a"]
            await a.collection("tasks").insert({"_id": "known"})
            await a.collection("tasks").insert({"_id": "changed"})
            await settle(world)
            assert await a.unsynced() == {}
            await world.stop("b")
            await a.collection("tasks").insert({"_id": "new"})
            await a.collection("tasks").update("changed", {"n": 1})
            await a.collection("tasks").remove("known")
            await a.collection("private").insert({"_id": "p"})
            assert await a.unsynced() == {"tasks": 3, "private": 1}
            await world.stop("a")
            a = await world.restart("a")
            assert await a.unsynced() == {"tasks": 3, "private": 1}
            b = await world.restart("b")
            await asyncio.sleep(60)
            await settle(world)
            assert await a.unsynced() == await b.unsynced() == {}

    run_virtual(main())


def test_a_change_of_a_peer_does_not_hide_what_only_this_node_has_changed(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(4, tmp_path, delay=1.0)
        try:
            a, b = await world.start("a"), await world.start("b", ["a"])
            for node in (a, b):
                await node.collection("tasks").subscribe()
            await a.collection("tasks").insert({"_id": "t"})
            await settle(world)
            assert await a.unsynced() == {}
            await asyncio.gather(*(node.collection("tasks").update("t", {node.name: 1}) for node in (a, b)))
            await asyncio.sleep(1.5)
            assert await a.collection("tasks").get("t") == {"_id": "t", "a": 1, "b": 1}
            assert await a.unsynced() == await b.unsynced() == {"tasks": 1}
            await asyncio.sleep(1)
            assert await a.unsynced() == await b.unsynced() == {}
        finally:
            await world.close()

    run_virtual(main())


def test_what_no_peer_asks_for_stays_unsynced(tmp_path: Path) -> None:
    async def main() -> None:
        async with line(tmp_path, hub=False) as world:
            a, c = world.nodes["a"], world.nodes["c"]
            await a.collection("lorries").insert({"_id": "l"})
            await settle(world)
            assert await a.unsynced() == {"lorries": 1}
            await c.collection("lorries").subscribe()
            await c.collection("cars").subscribe({"place": "north"})
            await settle(world)
            assert await a.unsynced() == {}
            for id, place in (("1", "north"), ("2", "south"), ("3", "north")):
                await a.collection("cars").insert({"_id": id, "place": place})
            await a.collection("private").insert({"_id": "p"})
            await settle(world)
            assert await a.unsynced() == {"cars": 1, "private": 1}
            await a.pause()  # from the first on that nobody wants, nothing is known any more
            assert await a.unsynced() == {"cars": 2, "private": 1}

    run_virtual(main())
