"""Rights at random: every node holds what it may read and subscribed to, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest

from tests.simulation.closed_mesh import ids, linked, member
from tests.simulation.test_membership import admin
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

COLLECTIONS = ("cars", "cars-2", "map", "logs")
GLOBS: tuple[list[str], ...] = ([], ["*"], ["cars*"], ["cars"], ["cars-2", "map"], ["l*", "map"], ["logs"])


def allowed(patterns: list[str], collection: str) -> bool:
    return any(fnmatchcase(collection, pattern) for pattern in patterns)


Passes = Callable[[str, str, str], bool]


def reached(writer: str, collection: str, names: list[str], passes: Passes, carries: Passes) -> set[str]:
    """The nodes that get what one has written: links let it pass from node to node, which carry it on."""
    found: set[str] = set()
    carriers = [writer]
    while carriers:
        one = carriers.pop()
        for other in names:
            if other not in (writer, *found) and passes(one, other, collection):
                found.add(other)
                if carries(one, other, collection):
                    carriers.append(other)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0], ids=["tree", "graph", "clique"])
def test_every_node_holds_exactly_what_it_may_read_and_subscribed_to(seed: int, density: float) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World(seed)
        names = ["hq", "a", "b", "c", "d"]
        read = {name: ["*"] if name == "hq" else rng.choice(GLOBS) for name in names}
        write = {name: ["*"] if name == "hq" else rng.choice(GLOBS) for name in names}
        roles = {name: rng.choice(["member", "relay", "publish"]) for name in names}
        links: set[tuple[str, str]] = set()
        for number, name in enumerate(names):
            earlier = names[:number]
            peers = [peer for peer in earlier if rng.random() < density] or rng.sample(
                earlier, min(number, 1)
            )
            links |= {(name, peer) for peer in peers} | {(peer, name) for peer in peers}
            credentials = admin() if name == "hq" else member(name, read[name], write[name], roles[name])
            await world.start(name, peers, credentials=credentials)
        nodes = world.nodes
        for name in names:
            for collection in COLLECTIONS:
                if allowed(write[name], collection) and rng.random() < 0.8:
                    await nodes[name].collection(collection).insert({"_id": name})
        wanted: dict[str, set[str]] = {name: set() for name in names}
        for name in names:
            for collection in COLLECTIONS:
                if rng.random() < 0.7 and allowed(read[name], collection):
                    wanted[name].add(collection)
                    await nodes[name].collection(collection).subscribe()
        for name, other in sorted(links):
            await linked(nodes[name], nodes[other])
        wrote = {
            (name, collection)
            for name in names
            for collection in COLLECTIONS
            if name in await ids(nodes[name], collection)
        }
        await asyncio.sleep(10)
        for node in nodes.values():
            await node.settled(60)

        def passes(one: str, other: str, collection: str) -> bool:
            may = allowed(write[one], collection) and allowed(read[other], collection)
            return may and (one, other) in links

        def carries(one: str, other: str, collection: str) -> bool:
            return other == "hq" or roles[other] == "relay" or collection in wanted[other]

        for name, collection in itertools.product(names, COLLECTIONS):
            own = {name} if (name, collection) in wrote else set()
            due = {
                writer
                for writer in names
                if (writer, collection) in wrote
                and name in reached(writer, collection, names, passes, carries)
            }
            held = await ids(nodes[name], collection)
            if collection in wanted[name]:
                assert held == own | due, (name, collection)
            else:  # a relay holds what it passes on
                assert held == own or (allowed(read[name], collection) and carries("", name, collection))
        assert all(node.stats().documents_refused == 0 for node in nodes.values())
        await world.close()

    run_virtual(main())
