"""Documents on their way over several hops: they arrive whatever breaks, one way to each who asks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mesh import Node
from mesh.core.routes import SOFT_STATE_SECONDS
from mesh.core.wire import Changes
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

HOUR = 3600.0
RED = {"color": "red"}


async def settle(world: World) -> None:
    """As often as there may be hops: there for the interest, and back for the documents."""
    for _ in range(2 * len(world.nodes)):
        for node in list(world.nodes.values()):
            await node.settled(HOUR)


async def ids(node: Node) -> set[str]:
    return {document["_id"] for document in await node.collection("cars").find()}


def count_copies(node: Node) -> Counter[str]:
    """How often each document of "cars" arrives at a node, from now on."""
    found: Counter[str] = Counter()
    assert node._parts is not None
    handlers: dict[type, Any] = node._parts.peers._handlers
    handle = handlers[Changes]

    def counting(link: object, frame: Changes) -> Any:
        found.update(change.id for change in frame.changes if change.collection == "cars")
        return handle(link, frame)

    handlers[Changes] = counting
    return found


async def line(world: World, count: int) -> list[Node]:
    return [await world.start(f"n{i}", [f"n{i - 1}"] if i else []) for i in range(count)]


def test_a_line_of_nine_with_only_one_end_subscribed() -> None:
    async def main() -> None:
        world = World(9)
        nodes = await line(world, 9)
        subscription = await nodes[-1].collection("cars").subscribe(RED)
        await settle(world)
        await nodes[0].collection("cars").insert({"_id": "red", **RED})
        await nodes[0].collection("cars").insert({"_id": "blue", "color": "blue"})
        await settle(world)
        assert await ids(nodes[-1]) == {"red"}
        await subscription.cancel()
        await settle(world)
        await nodes[0].collection("cars").insert({"_id": "too late", **RED})
        await settle(world)
        for relay in nodes[1:]:
            assert await ids(relay) == {"red"}
        await world.close()

    run_virtual(main())


def test_in_a_ring_a_document_takes_one_way_round() -> None:
    async def main() -> None:
        world = World(8)
        nodes = await line(world, 7)
        nodes.append(await world.start("n7", ["n6", "n0"]))
        await nodes[0].collection("cars").subscribe()
        await settle(world)
        await nodes[3].collection("cars").insert({"_id": "a"})
        await settle(world)
        assert [await ids(node) for node in nodes] == [{"a"}] * 4 + [set()] * 4
        # The way is cut where it leads, while documents flow.
        world.network.cut("n1", "n2")
        await nodes[3].collection("cars").insert({"_id": "b"})
        await settle_but(world, "n1", "n2")
        assert await ids(nodes[0]) == {"a", "b"}
        for node in nodes[4:]:
            assert "b" in await ids(node)
        await world.close()

    run_virtual(main())


async def settle_but(world: World, *apart: str) -> None:
    """Where not all links can be up."""
    for _ in range(2 * len(world.nodes)):
        for name, node in list(world.nodes.items()):
            if name not in apart:
                await node.settled(HOUR)
        await asyncio.sleep(1.0)  # lets virtual time pass


@pytest.mark.parametrize("everybody", [False, True])
def test_how_often_a_document_arrives(everybody: bool) -> None:
    """Once on the way to a single subscriber; where all subscribe, once per link at most."""

    async def main() -> None:
        rng = random.Random(7)
        world = World(7)
        links: Counter[str] = Counter()
        for i in range(20):
            peers = {f"n{rng.randrange(i)}" for _ in range(min(i, 3))}
            links.update([f"n{i}"] * len(peers))
            links.update(peers)
            await world.start(f"n{i}", sorted(peers))
        for node in world.nodes.values() if everybody else [world.nodes["n0"]]:
            await node.collection("cars").subscribe()
        await settle(world)
        arrived = {name: count_copies(node) for name, node in world.nodes.items()}
        for name, node in world.nodes.items():
            await node.collection("cars").insert({"_id": name})
        await settle(world)
        assert await ids(world.nodes["n0"]) == world.nodes.keys()
        for name, found in arrived.items():
            assert max(found.values(), default=0) <= (links[name] if everybody else 1), name
        await world.close()

    run_virtual(main())


@pytest.mark.parametrize("seed", range(6))
def test_ways_break_while_documents_flow_and_all_arrive(seed: int, tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World(seed, tmp_path)
        names = [f"n{i}" for i in range(10)]
        pairs = set(pairwise(names))
        for i, name in enumerate(names):
            peers = {names[i - 1], names[rng.randrange(i)]} if i else set()
            pairs |= {(peer, name) for peer in peers}
            await world.start(name, sorted(peers))
        reader = world.nodes["n4"]
        await reader.collection("cars").subscribe(RED)
        written = set()
        for number in range(40):
            writer = world.nodes[rng.choice(names)]
            await writer.collection("cars").insert({"_id": f"{number}", **RED})
            written.add(f"{number}")
            match rng.randrange(5):
                case 0:
                    world.network.cut(*rng.choice(sorted(pairs)))
                case 1:
                    world.network.drop(*rng.choice(sorted(pairs)))
                case 2:
                    world.network.heal()
                case 3:
                    await asyncio.sleep(rng.choice([0.1, 10.0, 2 * SOFT_STATE_SECONDS]) * rng.random())
        world.network.heal()
        await settle(world)
        assert await ids(reader) == written
        await world.close()

    run_virtual(main())


def test_a_publisher_that_moves_to_the_other_side_gets_its_receipts(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(3, tmp_path)
        await line(world, 6)
        publisher = await world.start("publisher", ["n0"])
        await settle(world)
        token = await publisher.attachments.add(bytes(100_000))
        handle = await publisher.distributions.distribute(token)
        await settle(world)
        await world.crash("publisher")
        late = await world.start("late", ["n2"])
        await late.settled(HOUR)
        await asyncio.sleep(60.0)
        publisher = await world.start("publisher", ["n5"])
        status = await publisher.distributions.wait_for_completion(handle, HOUR, min_targets=7)
        assert status.is_success
        await world.close()

    run_virtual(main())
