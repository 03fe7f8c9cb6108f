"""A copied data directory that runs beside the original, and the two meet neither each other nor anybody who
is linked with both."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from mesh.core.rivals import RISE_SECONDS
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

CLONED = "another running node has the same identity"


def complaints(caplog: pytest.LogCaptureFixture) -> int:
    return sum(CLONED in record.getMessage() for record in caplog.records)


async def apart(world: World, root: Path) -> None:
    """one - x - y - other"""
    await world.start("one")
    await world.stop("one")
    shutil.copytree(root / "one", root / "other")
    await world.start("x")
    await world.start("y", ["x"])
    for name, peer in (("one", "x"), ("other", "y")):
        await asyncio.sleep(5)
        node = await world.start(name, [peer])
        await node.collection("cars").subscribe()


def test_they_are_told_of_and_do_not_answer_each_other_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        await apart(world, tmp_path)
        await asyncio.sleep(RISE_SECONDS / 2)
        assert 1 <= complaints(caplog) <= 2
        before = world.nodes["x"]._parts.peers.bytes_out  # type: ignore[union-attr]
        await asyncio.sleep(RISE_SECONDS / 4)
        assert world.nodes["x"]._parts.peers.bytes_out - before < 1000  # type: ignore[union-attr]
        await asyncio.sleep(2 * RISE_SECONDS)
        assert 2 <= complaints(caplog) <= 8
        # Once one of them is gone, the other is heard again.
        await world.stop("other")
        await asyncio.sleep(2 * RISE_SECONDS)
        await world.nodes["y"].collection("cars").insert({"_id": "1"})
        await asyncio.sleep(10)
        assert await world.nodes["one"].collection("cars").get("1") is not None
        await world.close()

    run_virtual(main())


def test_a_node_that_is_restarted_under_an_earlier_clock_is_no_clone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it said before is still about, as it moves from one peer to another, and links part."""

    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        for name, peers in (("x", []), ("y", ["x"]), ("z", ["y"])):
            await world.start(name, peers)
        node = await world.start("one", ["x"])
        await node.collection("cars").subscribe()
        for number in range(12):
            await asyncio.sleep(1)
            if number % 3:
                await world.stop("one")
            else:
                await world.crash("one")
            if number % 4 == 0:
                world.network.cut("x", "y")
            await world.restart("one", peers=("x", "z")[number % 2 :], skew=-100.0 * number)
            await asyncio.sleep(1)
            world.network.heal()
        await asyncio.sleep(60)
        await world.nodes["x"].collection("cars").insert({"_id": "1"})
        await asyncio.sleep(10)
        assert await world.nodes["one"].collection("cars").get("1") is not None
        assert not complaints(caplog)
        await world.close()

    run_virtual(main())
