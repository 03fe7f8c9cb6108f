"""Nodes that do not exist and want something: honest ones get what they want all the same."""

from __future__ import annotations

import asyncio
import random

import pytest

from mesh import Node
from mesh.core import routes
from mesh.core.wire import Interest, InterestEntry
from tests.adversary.adversary import Adversary
from tests.adversary.test_over_limits import URL
from tests.simulation.test_routing import RED
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

ROOM = 20


async def has(node: Node, id: str) -> None:
    """Wait until a document is here."""
    async with asyncio.timeout(60), node.collection("cars").observe({"_id": id}) as changes:
        async for change in changes:
            if change.documents:
                return


def test_who_makes_up_origins_crowds_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through two relays: what honest nodes behind the first want is told the second, before and after."""
    monkeypatch.setattr(routes, "MAX_ORIGINS", ROOM)

    async def crowd(adversary: Adversary) -> None:
        made_up = [Interest(f"nobody{n}", 2, 1, [InterestEntry("cars", RED)]) for n in range(ROOM - 1)]
        await adversary.send(Interest(adversary.identity.node_id, 2, 0, [InterestEntry("x")]), *made_up)

    async def main() -> None:
        world = World(4)
        source = await world.start("source")
        await world.start("far", ["source"])
        await world.start("near", ["far"])
        early = await world.start("early", ["near"])
        await early.collection("cars").subscribe(RED)
        await early.settled(60)
        adversary = await Adversary.dial(
            world.network.transport("evil"), URL.replace("hub", "near"), random.Random(7)
        )
        await crowd(adversary)
        await asyncio.sleep(1)
        late = await world.start("late", ["near"])
        await late.collection("cars").subscribe({"kind": "van"})
        await asyncio.sleep(1)
        await source.collection("cars").insert({"_id": "red", **RED})
        await source.collection("cars").insert({"_id": "van", "kind": "van"})
        await has(early, "red")
        await has(late, "van")
        assert adversary.ended is None
        await adversary.close()
        await world.close()

    run_virtual(main())
