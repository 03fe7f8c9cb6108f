"""Tombstones that grow old at different times on different nodes, among sleepers and strangers.

Nothing that was removed comes back, nothing that was written apart is lost, everybody ends up equal, and then
is quiet. ``MESH_TEST_THOROUGH=20`` tries so many times as much as usual.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from mesh.core.wire import InterestEntry
from mesh.storage import graves
from mesh.storage.graves import TOMBSTONE_SECONDS
from tests.simulation.virtual_clock import run_virtual
from tests.unit.collections.mesh_of_stores import DocumentNode, MeshOfStores, mesh_of_stores

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))


KINDS = ["lives", "counts", "dies", "remove", "remove", "update", "unsure", "unsure"]


async def age(node: DocumentNode) -> None:
    """All tombstones of a node have lived their time."""
    await node.store.write(lambda rows: graves.bury(rows, rows.now() + TOMBSTONE_SECONDS))


async def forget(node: DocumentNode) -> None:
    """How far others' logs are held is not known any more."""
    await node.store.write(lambda rows: rows.lineage.forget_positions())


async def alive(node: DocumentNode) -> dict[str, tuple[Any, ...]]:
    """Every document with its version."""

    def job(rows: Any) -> dict[str, tuple[Any, ...]]:
        found = rows.connection.execute(
            "SELECT id, json, rank_major, vector FROM documents "
            "WHERE json IS NOT NULL AND collection = 'cars'"
        )
        return {document_id: tuple(rest) for document_id, *rest in found.fetchall()}

    return await node.store.read(job)


class Story:
    """What happens to three nodes."""

    def __init__(self, world: MeshOfStores, nodes: list[DocumentNode], seed: int) -> None:
        self.world = world
        self.nodes = nodes
        a, b, c = nodes
        self.pairs = [(a, b), (b, c), (a, c)]
        self.random = random.Random(seed)
        self.sums: dict[str, int] = {}
        """What is never removed, and the sum of its increments."""
        self.removed: set[str] = set()
        """What is never inserted again."""
        self.number = 0

    async def write(self, node: DocumentNode) -> None:
        cars = node.collection()
        held = sorted(await node.contents())
        mortal = [document_id for document_id in held if document_id.startswith("dies")]
        what = self.random.choice(KINDS)
        self.number += 1
        match what:
            case "lives":
                await cars.insert({"_id": f"lives{self.number}", "n": 0})
                self.sums[f"lives{self.number}"] = 0
            case "counts" if known := [document_id for document_id in held if document_id in self.sums]:
                counted = self.random.choice(known)
                await cars.increment(counted, "n", 1)
                self.sums[counted] += 1
            case "dies":
                await cars.insert({"_id": f"dies{self.number}", "n": 0})
            case "remove" if mortal:
                document_id = self.random.choice(mortal)
                await cars.remove(document_id)
                self.removed.add(document_id)
            case "update" if mortal:
                await cars.update(self.random.choice(mortal), {node.name: self.number})
            case "unsure":  # removed and inserted again by anybody, at the same time
                if self.random.random() < 0.5:
                    await cars.upsert({"_id": "unsure", node.name: self.number})
                else:
                    await cars.remove("unsure")

    async def meet(self, share: float) -> None:
        """Some are linked, and settle, and part again."""
        for one, other in self.pairs:
            if self.random.random() < share:
                await one.connect(other)
        await self.world.settle()
        for one, other in self.pairs:
            if other.node_id in one.peers.links:
                await one.peers.disconnect(other.node_id)
        await asyncio.sleep(1)
        assert not any(node.peers.links for node in self.nodes)

    async def grow_old(self) -> None:
        for node in self.nodes:
            if self.random.random() < 0.6:
                await age(node)
            if self.random.random() < 0.2:
                await forget(node)

    async def run(self) -> None:
        for _ in range(6):
            for node in self.nodes:
                for _ in range(self.random.randrange(6)):
                    await self.write(node)
            await self.grow_old()
            await self.meet(self.random.choice([0.4, 1.0]))
            await self.grow_old()
        await self.meet(1)
        first = await self.all_equal()
        assert not first.keys() & self.removed
        held = await self.nodes[0].contents()
        assert {document_id: held[document_id]["n"] for document_id in self.sums} == self.sums
        for _ in range(3):  # they compare, with one thing buried here and not there
            await self.grow_old()
            await self.meet(1)
        ends = [node.store.head for node in self.nodes]
        await forget(self.nodes[0])
        await self.meet(1)
        assert [node.store.head for node in self.nodes] == ends
        assert await self.all_equal() == first

    async def all_equal(self) -> dict[str, tuple[Any, ...]]:
        first, *others = [await alive(node) for node in self.nodes]
        for other in others:
            assert other == first
        return first


@pytest.mark.parametrize("seed", range(25 * THOROUGH))
def test_whatever_grows_old(seed: int) -> None:
    async def main() -> None:
        async with mesh_of_stores(seed) as world:
            nodes = [await world.add(name) for name in "abc"]
            for node in nodes:
                node.want(InterestEntry("cars"))
            await Story(world, nodes, seed).run()

    run_virtual(main())
