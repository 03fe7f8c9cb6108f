"""How many messages one after the other it takes until two nodes have the same."""

from __future__ import annotations

import asyncio

import pytest

from mesh import Node
from mesh.core import reconcile
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

DELAY = 0.05
DOCUMENTS = 300
CHANGED = 3


async def changed(node: Node, count: int) -> float:
    """When so many documents had been changed here."""
    async for change in node.collection("tasks").observe({"n": -1}):
        if len(change.documents) == count:
            break
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(("first_bits", "trips"), [(reconcile.FIRST_BITS, 2.5), (0, 3.5)])
def test_strangers_have_the_same_after_few_round_trips(
    monkeypatch: pytest.MonkeyPatch, first_bits: int, trips: float
) -> None:
    """With few first ranges it is as with many documents: what differs takes a step more to find."""
    monkeypatch.setattr(reconcile, "FIRST_BITS", first_bits)
    monkeypatch.setattr(reconcile, "LIST_UP_TO", 16)

    async def main() -> None:
        world = World(2, delay=DELAY)
        a, b, c = [await world.start(name) for name in "abc"]
        for node in (a, b, c):
            await node.collection("tasks").subscribe()
        for n in range(DOCUMENTS):
            await a.collection("tasks").insert({"_id": f"task{n}", "n": n})
        for node in (b, c):
            await node.connect("ws://a:7700")
            await node.settled(60)
            await node.pause()
        await world.stop("a")
        for n in range(CHANGED):
            await b.collection("tasks").update(f"task{n}", {"n": -1})
            await c.collection("tasks").update(f"task{CHANGED + n}", {"n": -1})
        for node in (b, c):
            await node.resume()
        await b.connect("ws://c:7700")
        linked = asyncio.get_running_loop().time()
        last = max(await asyncio.gather(changed(b, 2 * CHANGED), changed(c, 2 * CHANGED)))
        assert last - linked <= trips * 2 * DELAY + 0.001
        await world.close()

    run_virtual(main())


def test_known_peers_have_the_same_after_a_round_trip_and_a_half() -> None:
    async def main() -> None:
        world = World(2, delay=DELAY)
        a, b = [await world.start(name) for name in "ab"]
        for node in (a, b):
            await node.collection("tasks").subscribe()
            await node.collection("empty").subscribe()
        for n in range(DOCUMENTS):
            await a.collection("tasks").insert({"_id": f"task{n}", "n": n})
        await b.connect("ws://a:7700")
        await b.settled(60)
        await a.settled(60)
        await b.disconnect(a.node_id)
        for n in range(CHANGED):
            await a.collection("tasks").update(f"task{n}", {"n": -1})
            await b.collection("tasks").update(f"task{CHANGED + n}", {"n": -1})
        await b.connect("ws://a:7700")
        linked = asyncio.get_running_loop().time()
        last = max(await asyncio.gather(changed(a, 2 * CHANGED), changed(b, 2 * CHANGED)))
        assert last - linked <= 1.5 * 2 * DELAY + 0.001
        await world.close()

    run_virtual(main())
