"""Five replicas, whatever happens to them: once everybody can reach everybody again, all are equal.

Each has its store in a file, and is stopped, crashed, cut off and started again between random writes.
``MESH_TEST_THOROUGH=20`` tries so many times as much as usual.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mesh.core.wire import InterestEntry
from mesh.errors import DocumentExists, DocumentNotFound, InvalidDocument
from mesh.network.memory import Path as NetworkPath
from tests.simulation.virtual_clock import VirtualClockLoop
from tests.unit.collections.mesh_of_stores import DocumentNode, MeshOfStores

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))
COUNT = 5

nodes = st.integers(0, COUNT - 1)
ids = st.sampled_from(["a", "b", "c", "d"])
values = st.sampled_from([1, 2.5, "x", None, True, [1, [2]], {}, {"in": 1}, {"in": {"er": 2}, "n": 3}])
fields = st.dictionaries(st.sampled_from(["f", "g", "n"]), values, max_size=2)
pointers = st.sampled_from(["f", "g", "n", "f.in", "f.in.er", "g.n"])


class Replicas(RuleBasedStateMachine):
    """Each rule is something that happens; the end heals everything and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.run(self.set_up())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    async def set_up(self) -> None:
        self.world = MeshOfStores(1, self.folder)
        for i in range(COUNT):
            await self.start(await self.world.add(f"n{i}"))

    def node(self, number: int) -> DocumentNode:
        return self.world.nodes[f"n{number}"]

    async def start(self, node: DocumentNode) -> None:
        """A ring and one chord, so that there is more than one way."""
        number = int(node.name[1:])
        if not node.running:
            await node.start()
        for other in {(number + 1) % COUNT, (number * 3 + 2) % COUNT} - {number}:
            node.peers.dialer.add(f"ws://n{other}:1")
        node.want(InterestEntry("nodes"))
        await node.collection().subscribe()

    # --- writes -----------------------------------------------------------------------------------

    @rule(
        number=nodes,
        document_id=ids,
        new=fields,
        how=st.sampled_from(["insert", "upsert", "replace", "update"]),
    )
    def write(self, number: int, document_id: str, new: dict[str, Any], how: str) -> None:
        async def work() -> None:
            cars = self.node(number).collection()
            with contextlib.suppress(DocumentExists, DocumentNotFound):
                if how == "update":
                    await cars.update(document_id, new)
                else:
                    await getattr(cars, how)({"_id": document_id, **new})

        if self.node(number).running:
            self.run(work())

    @rule(
        number=nodes, document_id=ids, field=pointers, how=st.sampled_from(["unset", "increment", "remove"])
    )
    def take_away(self, number: int, document_id: str, field: str, how: str) -> None:
        async def work() -> None:
            cars = self.node(number).collection()
            with contextlib.suppress(DocumentNotFound, InvalidDocument):
                if how == "remove":
                    await cars.remove(document_id)
                else:
                    await getattr(cars, how)(document_id, field)

        if self.node(number).running:
            self.run(work())

    @rule(number=nodes, count=st.integers(5, 40), large=st.booleans())
    def write_many(self, number: int, count: int, large: bool) -> None:
        async def work() -> None:
            cars = self.node(number).collection()
            text = "x" * (6000 if large else 10)
            await asyncio.gather(
                *[cars.upsert({"_id": f"many{i}", f"by{number}": i, "text": text}) for i in range(count)]
            )

        if self.node(number).running:
            self.run(work())

    @rule(number=nodes, name=st.text(max_size=3))
    def write_own(self, number: int, name: str) -> None:
        node = self.node(number)
        if node.running:
            self.run(node.owned.write("nodes", node.node_id, {"name": name}))

    # --- the world --------------------------------------------------------------------------------

    @initialize(delay=st.sampled_from([0.0, 0.05]), jitter=st.sampled_from([0.0, 0.1]))
    def distances(self, delay: float, jitter: float) -> None:
        for one in range(COUNT):
            for other in range(one):
                self.world.network.set_path(f"n{one}", f"n{other}", NetworkPath(delay * (one + 1), jitter))

    @rule(seconds=st.sampled_from([0.01, 0.3, 5.0, 120.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(group=st.sets(nodes), silent=st.booleans())
    def partition(self, group: set[int], silent: bool) -> None:
        async def work() -> None:
            self.world.network.partition([[f"n{number}" for number in sorted(group)]], silent=silent)

        self.run(work())

    @rule()
    def heal(self) -> None:
        async def work() -> None:
            self.world.network.heal()

        self.run(work())

    @rule(one=nodes, other=nodes)
    def drop(self, one: int, other: int) -> None:
        async def work() -> None:
            self.world.network.drop(f"n{one}", f"n{other}")

        self.run(work())

    @rule(number=nodes, crash=st.booleans())
    def stop(self, number: int, crash: bool) -> None:
        node = self.node(number)
        if node.running:
            self.run(node.crash() if crash else node.stop())

    @precondition(lambda self: not all(node.running for node in self.world.nodes.values()))
    @rule()
    def start_again(self) -> None:
        async def work() -> None:
            for node in self.world.nodes.values():
                if not node.running:
                    await self.start(node)

        self.run(work())

    # --- the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.run(self.all_are_equal())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    async def all_are_equal(self) -> None:
        try:
            self.world.network.heal()
            for node in self.world.nodes.values():
                if not node.running:
                    await self.start(node)
            await asyncio.sleep(300)
            await self.world.settle()
            first, *others = [await everything(node) for node in self.world.nodes.values()]
            for number, other in enumerate(others, 1):
                assert other.keys() == first.keys(), f"n0 and n{number} do not hold the same documents"
                for key, held in first.items():
                    assert other[key] == held, f"n0 and n{number} differ in {key}"
        finally:
            for node in self.world.nodes.values():
                await node.stop()


async def everything(node: DocumentNode) -> dict[tuple[str, str], Any]:
    """Every document, removed ones included: its JSON to the letter, its rank and its version vector."""

    def job(rows: Any) -> dict[tuple[str, str], Any]:
        found = {}
        for collection, document_id, json in rows.connection.execute(
            "SELECT collection, id, json FROM documents"
        ):
            row = rows.get(collection, document_id)
            found[collection, document_id] = (json, row.state.rank, row.state.vector)
        return found

    return await node.store.read(job)


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(
    max_examples=50 * THOROUGH,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
