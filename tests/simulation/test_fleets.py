"""Two hundred production nodes, linked at random, with clocks that are years off: they lose each other,
crash, come back and are joined by others, and end with the same documents; a file reaches whom it is for."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from mesh import Formation
from tests.simulation.virtual_clock import DAY, run_virtual
from tests.simulation.world import World

MINUTE = 60.0
YEAR = 365 * DAY
NODES, JOINERS = 180, 20


class Fleet:
    """Nodes ``n0``, ``n1``, ... of which each dials two earlier ones; every tenth is of the north."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        self.world = World(seed, root)
        self.size = 0
        self.written = 0

    async def join(self, count: int) -> None:
        for number in range(self.size, self.size + count):
            name = f"n{number}"
            await self.world.start(
                name,
                sorted({f"n{self.rng.randrange(number)}" for _ in range(min(number, 2))}),
                formations=["north"] if number % 10 == 1 else [],
                skew=self.rng.choice([0.0, 0.0, 5 * YEAR, -3 * YEAR]),
                inbox=True,
            )
            await self.world.nodes[name].collection("things").subscribe()
        self.size += count

    def pick(self, count: int) -> list[str]:
        return self.rng.sample(sorted(self.world.nodes), count)

    async def write(self, count: int) -> None:
        for name in self.pick(count):
            things = self.world.nodes[name].collection("things")
            document_id = f"thing{self.rng.randrange(20)}"
            match self.rng.randrange(5):
                case 0:
                    await things.remove(document_id)
                case 1:
                    await things.replace({"_id": document_id, "whole": name})
                case _:
                    await things.upsert({"_id": document_id, "part": {self.rng.choice("abc"): name}})
            await things.upsert({"_id": "tally"})
            await things.increment("tally", "sum")
            self.written += 1

    async def things(self) -> list[dict[str, Any]]:
        """The documents of every node, by id."""
        return [
            {document["_id"]: document for document in await node.collection("things").find()}
            for node in self.world.nodes.values()
        ]

    def inbox(self, name: str) -> Path:
        assert self.world.root is not None
        return self.world.root / name / "inbox"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [200])
def test_a_fleet_converges_and_a_file_reaches_exactly_its_scope(seed: int, tmp_path: Path) -> None:
    async def main() -> None:
        fleet = Fleet(seed, tmp_path)
        world = fleet.world
        await fleet.join(NODES)
        publisher = world.nodes["n0"]
        token = await publisher.attachments.add(fleet.rng.randbytes(50_000), name="map.bin")
        handle = await publisher.distributions.distribute(token, Formation("north"))

        for silent in (True, False):
            world.network.partition([fleet.pick(60), fleet.pick(30)], silent=silent)
            await fleet.write(10)
            for name in set(fleet.pick(10)) - {"n0"}:
                await world.crash(name)
            await asyncio.sleep(MINUTE)
            await fleet.write(10)
            await fleet.join(JOINERS // 2)
            world.network.heal()
            await asyncio.sleep(fleet.rng.uniform(0, MINUTE))
        for name in world.down:
            await world.restart(name)
        await asyncio.sleep(5 * MINUTE)

        first, *others = await fleet.things()
        assert first["tally"]["sum"] == fleet.written
        assert [number for number, other in enumerate(others, 1) if other != first] == []
        north = {f"n{number}" for number in range(fleet.size) if number % 10 == 1}
        status = await publisher.distributions.status(handle)
        assert status.is_success
        assert status.node_statuses.keys() == {world.nodes[name].node_id for name in north}
        assert {name for name in world.nodes if (fleet.inbox(name) / "map.bin").exists()} == north
        await world.close()

    run_virtual(main())
