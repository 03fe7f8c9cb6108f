"""Distributions that are over, with production nodes: removed everywhere, and brought back by nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mesh import Formation, Node
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

DAY = 86_400.0


async def _left(node: Node) -> tuple[list[set[str]], int]:
    """The fields of the distributions that a node holds, and how many receipts."""
    found: list[dict[str, Any]] = await node.collection("distributions").find()
    return [set(document) for document in found], await node.collection("receipts").count()


async def _asleep(world: World, days: float) -> None:
    """Time passes without links: heartbeats of many days would take long."""
    for node in world.nodes.values():
        await node.pause()
    await asyncio.sleep(days * DAY)
    for node in world.nodes.values():
        await node.resume()


async def _settled(world: World) -> None:
    for _ in range(2):
        for node in world.nodes.values():
            await node.settled(600)


def test_what_is_over_goes_and_a_sleeper_brings_nothing_back(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(4, tmp_path)
        hq = await world.start("hq")
        hub = await world.start("hub", ["hq"], hub=True)
        van = await world.start("van", ["hub"], formations=["north"])
        await world.start("sleeper", ["hub"], formations=["north"])
        token = await hq.attachments.add(b"x" * 10_000)
        handle = await hq.distributions.distribute(token, Formation("north"))
        status = await hq.distributions.wait_for_completion(handle, 60, min_targets=2)
        assert status.is_success
        await _settled(world)
        await world.stop("sleeper")
        assert (await _left(hub))[1] == 2
        await _asleep(world, 29)
        await _settled(world)
        assert (await _left(hub))[1] == 2
        await _asleep(world, 2)
        await _settled(world)
        removed = {"_id", "publisher", "nonce", "removed_at", "supersedes"}
        for node in (hq, hub, van):
            assert await _left(node) == ([removed], 0), node.name
        sleeper = await world.restart("sleeper")
        assert (await _left(sleeper))[1] == 1
        await _settled(world)
        newcomer = await world.start("newcomer", ["sleeper", "van"], formations=["north"])
        await _settled(world)
        await _asleep(world, 1)
        await _settled(world)
        for node in (hq, hub, van, sleeper, newcomer):
            assert await _left(node) == ([removed], 0), node.name
        assert not await newcomer.attachments.exists(token.hash)
        await world.close()

    run_virtual(run())
