"""Five replicas, whatever happens to them: once everybody can reach everybody again, all are equal.

Each has its store in a file, and is stopped, crashed, cut off and started again between random writes. Links
break in the middle of a transfer; any change that was ever made, and any document as it once was, may arrive
anywhere once more. At the end all hold the same documents at the same versions, and beyond that:

- a counter is the sum of all increments,
- what was removed stays removed, though others went on updating it,
- a field that was unset stays unset, though its write arrives later,
- what is written in place of an evicted document stays, however often that had been removed.

A run is 300 schedules; ``MESH_TEST_THOROUGH=34`` tries so many times as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mesh.collections.transactions import transaction
from mesh.core.commits import Commit
from mesh.core.wire import Change, Changes, InterestEntry
from mesh.errors import DocumentExists, DocumentNotFound, InvalidDocument
from mesh.network.memory import Path as NetworkPath
from mesh.storage import replicas
from tests.simulation.virtual_clock import VirtualClockLoop
from tests.unit.collections.mesh_of_stores import DocumentNode, MeshOfStores
from tests.unit.owned_bodies import node_body

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))
COUNT = 5
MEMORY_DISK = next(filter(os.path.isdir, ["/dev/shm"]), None)
"""Here a file costs no disk access."""

nodes = st.integers(0, COUNT - 1)
ids = st.sampled_from(["a", "b", "c", "d"])
values = st.sampled_from([1, 2.5, "x", None, True, [1, [2]], {}, {"in": 1}, {"in": {"er": 2}, "n": 3}])
fields = st.dictionaries(st.sampled_from(["f", "g", "n"]), values, max_size=2)
how_it_ends = st.sampled_from(["at once", "late", "fails"])
pointers = st.sampled_from(["f", "g", "n", "f.in", "f.in.er", "g.n"])


class Undone(Exception):
    pass


class Replicas(RuleBasedStateMachine):
    """Each rule is something that happens; the end heals everything and compares.

    ``cars`` are documents that everybody fights over. Of ``kept`` the machine knows what has to become.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY_DISK))
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.changes: list[Change] = []  # every one that was ever made, and documents as they once were
        self.total = 0
        self.alive: set[str] = set()
        self.removed: set[str] = set()
        self.marks: set[str] = set()
        self.unset: set[str] = set()
        self.replaced: dict[str, int] = {}
        self.world = MeshOfStores(1, self.folder)

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        self.runner.run(work)

    @initialize(
        delay=st.sampled_from([0.0, 0.05]),
        jitter=st.sampled_from([0.0, 0.1]),
        loss=st.sampled_from([0.0, 0.0, 0.02]),
        late=st.booleans(),
    )
    def set_up(self, delay: float, jitter: float, loss: float, late: bool) -> None:
        async def work() -> None:
            self.world.late = late
            for i in range(COUNT):
                await self.start(await self.world.add(f"n{i}"))

        self.set_paths(delay, jitter, loss)
        self.run(work())

    def node(self, number: int) -> DocumentNode:
        return self.world.nodes[f"n{number}"]

    async def start(self, node: DocumentNode) -> None:
        """A ring and one chord, so that there is more than one way."""
        number = int(node.name[1:])
        if not node.running:
            await node.start()
        node.store.follow(self.note)
        for other in {(number + 1) % COUNT, (number * 3 + 2) % COUNT} - {number}:
            node.peers.dialer.add(f"ws://n{other}:1")
        node.want(InterestEntry("nodes"))
        await self.subscribe(node)

    async def subscribe(self, node: DocumentNode) -> None:
        for name in ("cars", "kept"):
            await node.collection(name).subscribe()

    def note(self, commits: list[Commit]) -> None:
        self.changes += [commit.change for commit in commits if commit.source is None and not commit.evicted]

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
            self.run(node.owned.write("nodes", node.node_id, node_body(name=name)))

    @rule(number=nodes, by=st.integers(1, 9), document_ids=st.lists(ids, max_size=3), ends=how_it_ends)
    def transaction(self, number: int, by: int, document_ids: list[str], ends: str) -> None:
        """Removals, writes and an increment, of which all or none stand."""

        async def work() -> None:
            node = self.node(number)
            async with transaction(node.store, lambda: "unused") as opened:
                cars, kept = opened.collection("cars"), opened.collection("kept")
                for document_id in document_ids:
                    await cars.remove(document_id)
                    await cars.upsert({"_id": document_id, "f": by})
                if ends == "late":
                    await asyncio.sleep(0.3)
                await kept.upsert({"_id": "tally"})
                await kept.increment("tally", "sum", by)
                if ends == "fails":
                    raise Undone
            self.total += by

        if self.node(number).running:
            with contextlib.suppress(Undone):
                self.run(work())

    # --- writes of which it is known what they come to ---------------------------------------------

    @rule(number=nodes, by=st.integers(-3, 9))
    def count(self, number: int, by: int) -> None:
        """Never removed, replaced or unset: its value is the sum."""

        async def work() -> None:
            kept = self.node(number).collection("kept")
            await kept.upsert({"_id": "tally"})
            await kept.increment("tally", "sum", by)
            self.total += by

        if self.node(number).running:
            self.run(work())

    @rule(number=nodes)
    def bear(self, number: int) -> None:
        """A document with an id that is never used again."""

        async def work() -> None:
            document_id = f"life{len(self.alive) + len(self.removed)}"
            await self.node(number).collection("kept").insert({"_id": document_id, "age": 0})
            self.alive.add(document_id)

        if self.node(number).running:
            self.run(work())

    @rule(number=nodes, data=st.data())
    def age(self, number: int, data: st.DataObject) -> None:
        """Updates of what may have been removed elsewhere."""

        async def work(document_id: str) -> None:
            kept = self.node(number).collection("kept")
            with contextlib.suppress(DocumentNotFound):
                await kept.increment(document_id, "age")
                await kept.update(document_id, {f"by{number}": "still here"})

        if self.node(number).running and self.alive | self.removed:
            self.run(work(data.draw(st.sampled_from(sorted(self.alive | self.removed)))))

    @rule(number=nodes, data=st.data())
    def end(self, number: int, data: st.DataObject) -> None:
        async def work(document_id: str) -> None:
            if await self.node(number).collection("kept").remove(document_id):
                self.alive.discard(document_id)
                self.removed.add(document_id)

        if self.node(number).running and self.alive | self.removed:
            self.run(work(data.draw(st.sampled_from(sorted(self.alive | self.removed)))))

    @rule(number=nodes, nested=st.booleans())
    def mark(self, number: int, nested: bool) -> None:
        """A field that is written only once."""

        async def work() -> None:
            field = f"mark{len(self.marks) + len(self.unset)}"
            value = {"deep": {"er": number}} if nested else number
            await self.node(number).collection("kept").upsert({"_id": "marks", field: value})
            self.marks.add(field)

        if self.node(number).running:
            self.run(work())

    @rule(number=nodes, data=st.data())
    def rub_out(self, number: int, data: st.DataObject) -> None:
        """Only where it can be seen: what is not there yet cannot be unset."""

        async def work(field: str) -> None:
            kept = self.node(number).collection("kept")
            if field in (await kept.get("marks") or {}):
                await kept.unset("marks", field)
                self.marks.discard(field)
                self.unset.add(field)

        if self.node(number).running and self.marks:
            self.run(work(data.draw(st.sampled_from(sorted(self.marks)))))

    @rule(number=nodes, lives=st.integers(1, 3), seconds=st.sampled_from([0.0, 0.3, 5.0]))
    def evict_and_write(self, number: int, lives: int, seconds: float) -> None:
        """A document of a later incarnation than its first, which others hold as well if there is time."""

        async def work() -> None:
            kept = self.node(number).collection("kept")
            document_id = f"again{len(self.replaced)}"
            for _ in range(lives):
                await kept.insert({"_id": document_id})
                await kept.remove(document_id)
            await kept.insert({"_id": document_id, "by": "others"})
            await asyncio.sleep(seconds)
            await (await kept.subscribe()).cancel()
            await kept.evict(document_id)
            await kept.upsert({"_id": document_id, "late": number})
            await kept.subscribe()
            self.replaced[document_id] = number

        if self.node(number).running:
            self.run(work())

    # --- what a node does for itself ----------------------------------------------------------------

    @rule(number=nodes, evict=st.booleans(), again=st.booleans())
    def unsubscribe(self, number: int, evict: bool, again: bool) -> None:
        async def work() -> None:
            cars = self.node(number).collection()
            await (await cars.subscribe()).cancel()
            if evict:
                await cars.evict({})
            if again:
                await cars.subscribe()

        if self.node(number).running:
            self.run(work())

    # --- the world --------------------------------------------------------------------------------

    def set_paths(self, delay: float, jitter: float, loss: float) -> None:
        for one in range(COUNT):
            for other in range(one):
                path = NetworkPath(delay * (one + 1), jitter, loss)
                self.world.network.set_path(f"n{one}", f"n{other}", path)

    @rule(number=nodes)
    def take_snapshot(self, number: int) -> None:
        """What a node holds now may arrive somewhere much later."""

        async def work() -> None:
            def job(rows: Any) -> list[Change]:
                changes = []
                for collection, document_id in rows.connection.execute(
                    "SELECT collection, id FROM documents"
                ):
                    held = rows.get(collection, document_id).state
                    changes.append(Change(collection, document_id, held.rank, {}, held.vector, held.update))
                return changes

            self.changes += await self.node(number).store.read(job)

        if self.node(number).running:
            self.run(work())

    @rule(number=nodes, sender=nodes, count=st.integers(1, 20), seed=st.integers(0, 1000))
    def deliver_again(self, number: int, sender: int, count: int, seed: int) -> None:
        """Any changes of the past, twice, late, out of order, or without what lies between."""

        async def work() -> None:
            changes = random.Random(seed).choices(self.changes, k=count)
            frame = Changes(1, 0, 0, changes)
            await self.node(number).store.write(
                lambda rows: replicas.apply_frame(rows, self.node(sender).node_id, frame)
            )

        if self.node(number).running and self.changes and sender != number:
            self.run(work())

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
            self.set_paths(0, 0, 0)
            self.world.network.heal()
            for node in self.world.nodes.values():
                if node.running:
                    await self.subscribe(node)
                else:
                    await self.start(node)
            await asyncio.sleep(300)
            await self.world.settle()
            first, *others = [await everything(node) for node in self.world.nodes.values()]
            for number, other in enumerate(others, 1):
                for key in first.keys() | other.keys():
                    assert first.get(key) == other.get(key), f"n0 and n{number} differ in {key}"
            await self.kept_is_as_it_has_to_be(self.node(0))
        finally:
            for node in self.world.nodes.values():
                await node.stop()

    async def kept_is_as_it_has_to_be(self, node: DocumentNode) -> None:
        kept = await node.contents("kept")
        assert kept.pop("tally", {}).get("sum", 0) == self.total
        assert kept.pop("marks", {}).keys() == self.marks
        assert {document_id: kept.pop(document_id)["late"] for document_id in self.replaced} == self.replaced
        assert kept.keys() == self.alive


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


TestReplicas = pytest.mark.timeout(600 * THOROUGH)(Replicas.TestCase)
TestReplicas.settings = settings(
    max_examples=300 * THOROUGH,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_who_evicts_what_nobody_else_has_met_agrees_with_the_others_on_its_removal() -> None:
    state = Replicas()
    state.set_up(delay=0.0, jitter=0.0, loss=0.02, late=True)
    state.transaction(number=4, by=6, document_ids=["a", "a", "a"], ends="at once")
    state.unsubscribe(number=4, evict=True, again=False)
    state.transaction(number=1, by=6, document_ids=["a"], ends="late")
    state.teardown()
