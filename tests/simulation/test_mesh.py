"""Production nodes under seeded schedules of writes, partitions, crashes and joins.

A failing seed is added to ``SEEDS``, where it stays as a regression test.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mesh import DocumentNotFound, Formation, Node
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

HOUR = 3600.0
SEEDS = [*range(6), 109, 148, 275, 282]


async def everything_settles(world: World) -> None:
    """Every node finds that its peers lack nothing and hold nothing more, as often as there may be hops: what
    travels several of them is not settled while a neighbour is still waiting for it."""
    for _ in range(len(world.nodes)):
        for node in list(world.nodes.values()):
            await node.settled(HOUR)


async def contents(node: Node, collection: str) -> dict[str, Any]:
    return {document["_id"]: document for document in await node.collection(collection).find()}


async def scribble(world: World, rng: random.Random, writes: int) -> None:
    """Random writes of every kind, by random nodes, on a few documents that they fight over."""
    for _ in range(writes):
        things = world.nodes[rng.choice(sorted(world.nodes))].collection("things")
        document_id = f"thing{rng.randrange(6)}"
        match rng.randrange(6):
            case 0:
                await things.remove(document_id)
            case 1:
                await things.replace({"_id": document_id, "whole": rng.randrange(100)})
            case 2:
                with suppress(DocumentNotFound):
                    await things.unset(document_id, rng.choice(["whole", "part.a", "part"]))
            case 3:
                with suppress(DocumentNotFound):
                    await things.increment(document_id, "count", rng.randrange(1, 5))
            case _:
                await things.upsert({"_id": document_id, "part": {rng.choice("abc"): rng.random()}})


@pytest.mark.parametrize("seed", SEEDS)
def test_any_schedule_ends_with_equal_nodes_and_every_target_served(seed: int, tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World(seed, tmp_path)
        names = [f"n{i}" for i in range(7)]
        for i, name in enumerate(names[:5]):
            # A random tree, and some links more: there is a path between any two, and there are circles.
            peers = {names[rng.randrange(i)]} if i else set()
            peers |= {other for other in names[:i] if rng.random() < 0.3}
            await world.start(
                name,
                sorted(peers),
                formations=["north"] if i % 2 else [],
                skew=rng.choice([0.0, 0.0, 5 * 365 * 24 * HOUR, -3 * 365 * 24 * HOUR]),
                inbox=True,
            )
            await world.nodes[name].collection("things").subscribe()
        publisher = world.nodes["n0"]
        token = await publisher.attachments.add(rng.randbytes(2_500_000), name="map.bin")
        handle = await publisher.distributions.distribute(token, Formation("north"))
        joins = iter(names[5:])
        for _ in range(10):
            await scribble(world, rng, 5)
            alive = sorted(world.nodes)
            match rng.randrange(6):
                case 0 if len(alive) > 2:
                    await world.crash(rng.choice(alive))
                case 1:
                    for name in world.down:
                        await world.restart(name)
                case 2:
                    world.network.partition([rng.sample(alive, len(alive) // 2)], silent=rng.random() < 0.5)
                case 3:
                    world.network.heal()
                case 4 if (joiner := next(joins, None)) is not None:
                    await world.start(joiner, [rng.choice(names[:5])], formations=["north"], inbox=True)
                    await world.nodes[joiner].collection("things").subscribe()
                case _:
                    await asyncio.sleep(rng.random() * 120)  # lets virtual time pass
        world.network.heal()
        for name in world.down:
            await world.restart(name)

        await everything_settles(world)
        first, *others = [await contents(node, "things") for node in world.nodes.values()]
        for other in others:
            assert other == first

        targets = {n.node_id for name, n in world.nodes.items() if name in ("n1", "n3", "n5", "n6")}
        status = await world.nodes["n0"].distributions.wait_for_completion(
            handle, HOUR, min_targets=len(targets)
        )
        assert status.is_success
        assert set(status.node_statuses) == targets
        for name, node in world.nodes.items():
            delivered = tmp_path / name / "inbox" / "map.bin"
            assert delivered.exists() == (node.node_id in targets), name
        await world.close()

    run_virtual(main())


def test_fifty_nodes_in_a_random_mesh_all_receive_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(50)
        world = World(50)
        for i in range(50):
            peers = {f"n{rng.randrange(i)}" for _ in range(min(i, 2))}
            await world.start(f"n{i}", sorted(peers))
        token = await world.nodes["n0"].attachments.add(rng.randbytes(300_000))
        handle = await world.nodes["n0"].distributions.distribute(token)
        status = await world.nodes["n0"].distributions.wait_for_completion(handle, HOUR, min_targets=49)
        assert status.is_success
        assert status.total_targets == 49
        for node in world.nodes.values():
            assert await node.attachments.exists(token.hash)
        # Nobody pays for more than its own copy and what its neighbours took from it.
        received = sum(node.stats().blob_bytes_in for node in world.nodes.values())
        assert received <= 49 * 300_000 * 1.1
        await world.close()

    run_virtual(main())
