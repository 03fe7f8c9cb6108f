"""Nothing that was counted is lost, nor counted twice, by nodes that stop, crash, evict, and are put back
from backups, in a mesh that falls apart again and again.

Every increment adds another power of four, so that a sum says which of them it is made of. What a node has
counted it goes on to count, until it evicts the document or is put back; and in the end, all have counted
what any one has. ``MESH_TEST_THOROUGH=20`` tries so many times as much as usual.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import DocumentNotFound
from mesh.storage import graves
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))

NAMES = "abcd"
LINKS = {"a": "bd", "b": "c", "c": "d", "d": "b"}
"""All of them but a - c."""

DOCUMENTS = ("k0", "k1")
MOST = 25
"""Increments of one field: a sum of their powers is exact."""

CHANCES = {
    "increment": 24, "write": 8, "evict": 6, "crash": 2, "stop": 2, "age": 2, "put back": 1, "turn back": 1,
    "part": 2, "heal": 2, "wait": 6,
}  # fmt: skip
"""What may be done next, and how likely."""

Increment = tuple[str, str, int]
"""A document, a field of it, and the exponent."""


def digits(document: dict[str, Any]) -> Iterator[Increment]:
    """The increments that a document counts."""
    for field, total in document.items():
        if not field.startswith("n"):
            continue
        for exponent in range(MOST + 1):
            count = total // 4**exponent % 4
            assert count in (0, 1), f"{document['_id']}.{field}: {exponent} is counted {count} times"
            if count:
                yield document["_id"], field, exponent


class Chaos:
    """What is done to the nodes, and what they have counted."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.world = World(seed, folder, delay=0.02)
        self.counted: dict[str, set[Increment]] = {name: set() for name in NAMES}
        self.made: dict[str, set[Increment]] = {name: set() for name in NAMES}
        self.told: set[Increment] = set()
        """Increments that another node than their maker has counted at some time."""
        self.issued: dict[str, int] = dict.fromkeys(DOCUMENTS, 0)
        self.backups: dict[str, bytes] = {}
        self.history: list[str] = []

    async def begin(self) -> None:
        for name in NAMES:
            await self.world.start(name, LINKS[name])
            await self.world.nodes[name].collection("c").subscribe()
        cars = self.world.nodes["a"].collection("c")
        for id in DOCUMENTS:
            await cars.insert({"_id": id})
        await cars.remove(DOCUMENTS[0])
        await cars.insert({"_id": DOCUMENTS[0]})
        await self.settled()

    async def settled(self) -> None:
        for _ in range(len(NAMES)):
            for node in self.world.nodes.values():
                await node.settled(600)

    async def look(self) -> None:
        """Whoever runs still counts what it has counted."""
        for name, node in self.world.nodes.items():
            documents = await node.collection("c").find({"_id": {"$in": DOCUMENTS}})
            found = {increment for document in documents for increment in digits(document)}
            missing = self.counted[name] - found
            assert not missing, f"{name} has lost {missing}"
            self.counted[name] = found
            self.told |= found - self.made[name]

    async def increment(self, name: str) -> None:
        id = self.rng.choice(DOCUMENTS)
        number = self.issued[id]
        field, exponent = f"n{number // MOST}", number % MOST
        try:
            await self.world.nodes[name].collection("c").increment(id, field, 4**exponent)
        except DocumentNotFound:
            return  # it was evicted
        self.issued[id] += 1
        self.made[name].add((id, field, exponent))
        self.counted[name].add((id, field, exponent))

    async def write(self, name: str) -> None:
        id, value = self.rng.choice(DOCUMENTS), self.rng.randrange(1000)
        documents = self.world.nodes[name].collection("c")
        field = self.rng.choice("xy")
        try:
            match self.rng.randrange(4):
                case 0:
                    await documents.unset(id, field)
                case 1:
                    await documents.remove("other")
                case 2:
                    await documents.upsert({"_id": "other", field: value})
                case _:
                    await documents.update(id, {field: value})
        except DocumentNotFound:
            pass

    async def evict(self, name: str) -> None:
        """Where ``unsynced()`` says that nothing is lost by that, nothing is."""
        node = self.world.nodes[name]
        for subscription in await node.subscriptions():
            await subscription.cancel()
        unsynced = await node.unsynced()
        if not unsynced:
            await self.look()
            lost = self.counted[name] & self.made[name] - self.told
            assert not lost, f"only {name} has counted {lost}, and says that it may evict them"
            await node.collection("c").evict({})
            self.counted[name] = set()
        await node.collection("c").subscribe()

    async def age(self, name: str) -> None:
        """All tombstones of a node have lived their time."""
        parts = self.world.nodes[name]._parts
        assert parts is not None
        await parts.store.write(lambda rows: graves.bury(rows, rows.now() + graves.TOMBSTONE_SECONDS))

    async def put_back(self, name: str) -> None:
        """Make a backup, or put it back as another file."""
        path = self.path(name)
        if name in self.world.nodes:
            await self.world.stop(name)
        if name not in self.backups:
            self.backups[name] = path.read_bytes()
        else:
            path.rename(path.with_name("former"))
            path.write_bytes(self.backups[name])
            self.counted[name] = set()
        await self.come_back(name)

    async def turn_back(self, name: str) -> None:
        """Put the backup back so that nothing on the machine tells: whom the node meets next has to know what
        it wrote in its other life."""
        await self.all_up()
        await self.look()
        await self.world.stop(name)
        with self.path(name).open("r+b") as file:
            file.write(self.backups[name])
            file.truncate()
        self.counted[name] = set()
        await self.come_back(name)
        for _ in range(self.rng.randrange(4)):
            await self.increment(name)
            await self.write(name)
        await asyncio.sleep(60)

    def path(self, name: str) -> Path:
        assert self.world.root is not None
        return self.world.root / name / "store.sqlite"

    async def come_back(self, name: str) -> None:
        node = await self.world.restart(name)
        await node.collection("c").subscribe()

    async def all_up(self) -> None:
        self.world.network.heal()
        for name in self.world.down:
            await self.come_back(name)
        await asyncio.sleep(300)
        await self.settled()

    async def step(self) -> None:
        name = self.rng.choice(NAMES)
        what = self.rng.choices(list(CHANCES), list(CHANCES.values()))[0]
        self.history.append(f"{what} {name}")
        running = name in self.world.nodes
        match what:
            case "increment" if running:
                await self.increment(name)
            case "write" if running:
                await self.write(name)
            case "evict" if running:
                await self.evict(name)
            case "crash" if running:
                await self.world.crash(name)
            case "stop" if running:
                await self.world.stop(name)
            case "age" if running:
                await self.age(name)
            case "put back":
                await self.put_back(name)
            case "turn back" if name in self.backups:
                await self.turn_back(name)
            case "part":
                some = [name for name in NAMES if self.rng.random() < 0.5]
                self.world.network.partition([some], silent=self.rng.random() < 0.5)
            case "heal":
                self.world.network.heal()
            case "wait":
                await asyncio.sleep(self.rng.choice([0.03, 0.05, 0.3, 5.0]))
            case _ if not running:
                await self.come_back(name)
        await self.look()

    async def end(self) -> None:
        await self.all_up()
        counted = set().union(*self.counted.values())
        await self.look()
        for name in NAMES:
            missing = counted - self.counted[name]
            assert not missing, f"{name} never hears of {missing}"
        first, *others = [await node.collection("c").find(sort=["_id"]) for node in self.world.nodes.values()]
        for other in others:
            assert other == first


@pytest.mark.parametrize("seed", range(10 * THOROUGH))
def test_no_increment_is_lost(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        chaos = Chaos(seed, tmp_path)
        try:
            await chaos.begin()
            for _ in range(120):
                await chaos.step()
            await chaos.end()
        except Exception as error:
            error.add_note("\n".join(chaos.history[-60:]))
            raise
        finally:
            await chaos.world.close()

    run_virtual(main())
