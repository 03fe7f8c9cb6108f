"""Two nodes that are never there at the same time, and a hub between them that only ever has one link."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh.core.scopes import AllNodes
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

MIB = 1 << 20


async def held(world: World, name: str, hash: str) -> None:
    """Wait until a node holds a blob whole."""
    whole = asyncio.Event()
    attachments = world.nodes[name].attachments
    attachments.on_whole(lambda token: whole.set() if token.hash == hash else None)
    if not await attachments.exists(hash):
        async with asyncio.timeout(120):
            await whole.wait()


async def forward(root: Path, first_visit: float) -> None:
    """A distributes; it leaves while the hub has a part of it; C comes meanwhile, and when it is whole."""
    world = World(2, root, delay=0.05)
    for name in ("a", "hub", "c"):
        world.network.set_bandwidth(name, MIB)
    await world.start("hub", hub=True)
    await world.start("a", ["hub"])
    data = world.random.randbytes(6 * MIB + 1)
    token = await world.nodes["a"].attachments.add(data)
    handle = await world.nodes["a"].distributions.distribute(token, AllNodes())
    await asyncio.sleep(first_visit)
    await world.crash("a")
    assert not await world.nodes["hub"].attachments.exists(token.hash)
    await world.start("c", ["hub"])
    await asyncio.sleep(20)
    assert not await world.nodes["c"].attachments.exists(token.hash)
    await world.crash("c")
    await world.restart("a")
    await held(world, "hub", token.hash)
    await world.stop("a")
    await world.stop("hub")
    await world.restart("hub")
    await world.restart("c")
    await held(world, "c", token.hash)
    assert await (await world.nodes["c"].attachments.fetch(token)).read() == data
    await asyncio.sleep(5)  # for its receipt
    await world.stop("c")
    await world.restart("a")
    status = await world.nodes["a"].distributions.wait_for_completion(handle, 60)
    assert (status.completed, status.total_targets) == (2, 2)
    await world.close()


@pytest.mark.parametrize("first_visit", [0.5, 4.0])
def test_what_was_distributed_arrives_though_its_ends_never_meet(tmp_path: Path, first_visit: float) -> None:
    run_virtual(forward(tmp_path, first_visit))
