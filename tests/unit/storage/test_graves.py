"""Tombstones that grow old: what their graves refuse, what is told of them, and what the file gives back; and
those that evictions leave."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from mesh.core.access import OPEN
from mesh.core.identity import Identity
from mesh.core.interest import InterestSet
from mesh.core.sync_following import Following
from mesh.core.versions import key_hash
from mesh.core.wire import Change, Changes, Grave, InterestEntry, Version, Want
from mesh.errors import ProtocolViolation
from mesh.storage import finding, graves, replicas, schema, writes
from mesh.storage.ageing import INTERVAL_SECONDS, MANY_GONE, Ageing
from mesh.storage.documents import DocumentStore
from mesh.storage.graves import GRAVE_SECONDS, TOMBSTONE_SECONDS
from mesh.storage.rows import Row, Rows
from mesh.storage.worker import InlineWorker, ThreadWorker
from tests.simulation.virtual_clock import DAY, virtual
from tests.unit.edits import edit, plan_merge
from tests.unit.owned_bodies import node_body
from tests.unit.tables import open_tables

CARS = InterestSet([InterestEntry("cars")])


class Replica:
    """A store in memory, and a clock that is set."""

    def __init__(self, seed: int) -> None:
        self.now = 1.7e9
        self.rows = Rows(open_tables(), random.Random(seed), lambda: self.now, "")

    def write(self, document_id: str, **fields: Any) -> Change:
        edit(self.rows, "cars", document_id, partial(plan_merge, fields=fields))
        return self.rows.take_commits()[0].change

    def remove(self, *document_ids: str) -> list[Change]:
        writes.remove(self.rows, "cars", document_ids)
        return [commit.change for commit in self.rows.take_commits()]

    def bury(self, days: float = 31) -> bool:
        self.now += days * DAY
        return graves.bury(self.rows, self.now)

    def hear(self, *changes: Change, told: list[Grave] | None = None, **more: Any) -> list[Want]:
        return replicas.apply_frame(
            self.rows, "peer", Changes(1, 0, 0, list(changes), graves=told or [], **more)
        )

    def row(self, document_id: str) -> Row:
        row = self.rows.get("cars", document_id)
        assert row is not None
        return row

    def log(self, after: int = 0, limit: int = 500) -> tuple[list[str], int, list[Grave]]:
        entries, upto, found = replicas.read_log(self.rows, "peer", after, self.rows.lineage.seq, limit, CARS)
        return [entry.version.id for entry in entries], upto, found

    @property
    def buried(self) -> int:
        return int(self.rows.connection.execute("SELECT count(*) FROM graves").fetchone()[0])


@pytest.fixture
def a() -> Replica:
    return Replica(1)


@pytest.fixture
def b() -> Replica:
    return Replica(2)


def grave(document_id: str, incarnation: int = 0, version: int = 1) -> Grave:
    return Grave("cars", key_hash("cars", document_id), version, incarnation, 0)


# --- ageing -----------------------------------------------------------------------------------


def test_a_tombstone_lives_a_month_and_its_grave_a_year(a: Replica) -> None:
    a.write("x", n=1)
    a.remove("x")
    end = a.rows.lineage.seq
    a.bury(29)
    assert not a.row("x").buried
    a.bury(1)
    assert a.row("x").buried
    assert a.log() == ([], end, [Grave("cars", key_hash("cars", "x"), a.log()[2][0].version, 0, 0)])
    a.bury(364)
    assert a.log()[2][0].age == 364 * DAY
    a.bury(1)
    assert a.rows.get("cars", "x") is None
    a.write("y")
    assert a.row("y").seq == end + 1


def test_an_old_tombstone_counts_from_when_it_arrived(a: Replica, b: Replica) -> None:
    b.now -= 40 * DAY
    b.write("x")
    [removal] = b.remove("x")
    a.hear(removal)
    a.bury(29)
    assert not a.row("x").buried


def test_many_are_buried_in_batches_and_what_is_owned_stays(a: Replica) -> None:
    ids = [f"car{n}" for n in range(graves.BATCH + 1)]
    for document_id in ids:
        a.write(document_id)
    a.remove(*ids)
    me = Identity(b"1" * 32)
    writes.write_record(a.rows, me, "nodes", me.node_id, node_body(n=1))
    a.rows.connection.execute("UPDATE documents SET json = NULL WHERE collection = 'nodes'")
    assert a.bury(31)
    assert not a.bury(0)
    assert a.buried == graves.BATCH + 1
    assert a.rows.get("nodes", me.node_id) is not None
    ids, upto, found = a.log(limit=200)
    assert not ids
    assert len(found) == 200
    assert len(a.log(after=upto, limit=200)[2]) == 200


# --- what a grave refuses ---------------------------------------------------------------------


def test_a_sleeper_hears_that_its_document_has_died(a: Replica, b: Replica) -> None:
    b.hear(a.write("x", n=1))
    b.rows.take_commits()
    a.remove("x")
    a.bury()
    stale = b.write("x", n=2)
    assert a.hear(stale) == []
    [commit] = a.rows.take_commits()
    assert (commit.change.rank, commit.source, commit.whole) == ((0, 1), None, True)
    assert a.log()[:2] == (["x"], commit.seq)  # for the peer, too
    assert a.buried == 0
    b.hear(commit.change)
    assert b.row("x").json is None
    assert b.row("x").state.vector == a.row("x").state.vector


def test_a_new_life_begins_beyond_the_grave(a: Replica, b: Replica) -> None:
    a.write("x", n=1)
    b.hear(*a.remove("x"))
    a.bury()
    change = a.write("x", n=2)
    assert change.rank == (1, 0)
    assert a.buried == 0
    b.bury()
    b.hear(change)
    assert finding.get(b.rows, "cars", "x") == {"_id": "x", "n": 2}
    assert b.buried == 0


def test_a_tombstone_says_nothing_new_to_a_grave(a: Replica, b: Replica) -> None:
    b.hear(a.write("x"))
    b.rows.take_commits()
    a.remove("x")
    [other] = b.remove("x")
    b.rows.take_commits()
    a.bury()
    assert a.hear(other) == []
    assert a.rows.take_commits() == []
    assert a.row("x").buried


def test_what_is_asked_for_and_buried_is_gone(a: Replica) -> None:
    a.write("x")
    a.remove("x")
    a.bury()
    assert replicas.read_wanted(a.rows, [Want("cars", "x", (-1, 0), {}, b"\0")], []).gone == [("cars", "x")]
    assert replicas.read_wanted(a.rows, [], [a.row("x").seq]).graves == a.log()[2]
    assert writes.evict(a.rows, "cars", ["x"]) == 0
    assert writes.remove(a.rows, "cars", ["x"]) == 0


def test_offers_and_notices_at_a_grave(a: Replica) -> None:
    a.write("x")
    a.remove("x")
    a.bury()

    def version(*rank: int) -> Version:
        return Version("cars", "x", (rank[0], rank[1]), {b"12345678": 1})

    assert a.hear(offers=[version(0, 0)]) != []
    assert a.hear(offers=[version(0, 1)]) == []
    assert a.hear(offers=[version(1, 0)]) != []
    assert a.hear(notices=[version(0, 0)]) != []  # its holder has to hear of it
    assert a.hear(notices=[version(0, 1)]) == []
    assert a.hear(notices=[version(1, 0)]) == []


# --- evictions ---------------------------------------------------------------------------------


def test_what_is_written_in_place_of_an_evicted_document_is_of_its_incarnation(
    a: Replica, b: Replica
) -> None:
    a.write("x", n=0)
    for n in (1, 2):
        a.remove("x")
        b.hear(a.write("x", n=n))
    for field in ("one", "two"):  # evicted twice
        assert writes.evict(a.rows, "cars", ["x"]) == 1
        a.rows.take_commits()
        change = a.write("x", **{field: 3})
        assert change.rank == (2, 0)
        b.hear(change)
    assert b.row("x").document == {"_id": "x", "n": 2, "one": 3, "two": 3}
    a.hear(Change("cars", "x", (2, 0), {}, b.row("x").state.vector, b.row("x").state.update))
    assert a.row("x").document == b.row("x").document


def test_an_evicted_document_comes_back_and_nothing_older_does(a: Replica, b: Replica) -> None:
    a.write("x", n=0)
    [removal] = a.remove("x")
    [first, second] = a.write("x", n=1), a.write("x", n=2)
    writes.evict(a.rows, "cars", ["x"])
    a.rows.take_commits()
    assert [want.rank for want in a.hear(second)] == [(0, 1)], "it builds on what is not here any more"
    assert a.hear(removal) == []
    assert a.row("x").state.vector == removal.until
    b.hear(*[commit.change for commit in a.rows.take_commits()])
    b.rows.take_commits()
    assert b.write("x", n=3).rank == (1, 0), "whoever is told writes on in the same incarnation"
    a.hear(first)
    assert a.row("x").document == {"_id": "x", "n": 1}


def test_the_tombstone_of_an_eviction_becomes_that_of_the_removal(a: Replica, b: Replica) -> None:
    a.write("x", n=0)
    b.hear(*a.remove("x"))
    a.write("x", n=1)
    writes.evict(a.rows, "cars", ["x"])
    *_, tombstone = a.rows.take_commits()
    assert (tombstone.evicted, tombstone.change.rank, tombstone.change.until) == (False, (0, 1), {})
    b.hear(tombstone.change)
    a.hear(Change("cars", "x", (0, 1), {}, b.row("x").state.vector, b.row("x").state.update))
    assert a.row("x").state == b.row("x").state
    assert replicas.key_set(a.rows, CARS).digest(0, 1) == replicas.key_set(b.rows, CARS).digest(0, 1)


def test_of_a_record_an_eviction_leaves_nothing(a: Replica) -> None:
    me = Identity(b"1" * 32)
    for n in range(2):
        writes.write_record(a.rows, me, "nodes", me.node_id, node_body(n=n))
        a.rows.connection.execute("UPDATE documents SET client_id = NULL")  # as if it had been met
    row = a.rows.get("nodes", me.node_id)
    assert row is not None
    assert row.state.rank[0] == 1
    assert writes.evict(a.rows, "nodes", [me.node_id]) == 1
    assert a.rows.get("nodes", me.node_id) is None


def test_of_a_document_never_removed_an_eviction_leaves_nothing(a: Replica) -> None:
    a.write("x")
    writes.evict(a.rows, "cars", ["x"])
    assert a.rows.get("cars", "x") is None


# --- what is told of graves -------------------------------------------------------------------


def test_a_grave_that_is_told_of_removes_what_is_held(a: Replica, b: Replica) -> None:
    b.hear(a.write("x"))
    a.remove("x")
    a.bury()
    b.rows.take_commits()
    b.hear(told=a.log()[2])
    [commit] = b.rows.take_commits()
    assert (commit.change.rank, commit.change.id, commit.before) == ((0, 1), "x", {"_id": "x"})
    b.hear(told=a.log()[2])
    assert b.rows.take_commits() == []


def test_a_grave_that_is_told_of_spares_a_later_life(a: Replica) -> None:
    a.write("x")
    a.remove("x")
    a.write("x")
    a.hear(told=[grave("x", 0)])
    assert finding.get(a.rows, "cars", "x") is not None
    a.hear(told=[grave("x", 1)])
    assert finding.get(a.rows, "cars", "x") is None


def test_a_grave_that_is_told_of_is_kept_and_passed_on(a: Replica) -> None:
    a.now = 2e9
    a.hear(told=[Grave("cars", key_hash("cars", "x"), 7, 3, 100)])
    assert a.log() == ([], 1, [Grave("cars", key_hash("cars", "x"), 7, 3, 100)])
    a.hear(told=[grave("x", 2, version=9), grave("x", 3, version=6)])
    assert a.log()[1:] == (1, [Grave("cars", key_hash("cars", "x"), 7, 3, 100)])
    a.hear(told=[grave("x", 3, version=8)])
    assert (a.log()[1], a.log()[2][0].version) == (1, 8)
    a.hear(told=[grave("x", 4)])
    assert (a.log()[1], a.log()[2][0].incarnation) == (2, 4)
    assert a.write("x").rank == (5, 0)


def test_a_grave_compares_as_its_tombstone_did(a: Replica) -> None:
    a.write("x")
    a.write("y")
    a.remove("x")

    def compared(interest: InterestSet) -> list[tuple[int, int]]:
        keys = replicas.key_set(a.rows, interest)
        return [(keys.key(i), keys.position(i)) for i in range(len(keys))] + [(keys.digest(0, len(keys)), 0)]

    interests = [CARS, InterestSet([InterestEntry("cars", {"n": 1})]), InterestSet([InterestEntry("*")])]
    before = [compared(interest) for interest in interests]
    a.bury()
    assert a.buried == 1
    assert [compared(interest) for interest in interests] == before


@pytest.mark.parametrize(
    "bad",
    [
        Grave("cars", -1, 1, 0, 0),
        Grave("cars", 1 << 63, 1, 0, 0),
        Grave("cars", 1, 1 << 63, 0, 0),
        Grave("cars", 1, 1, -1, 0),
        Grave("cars", 1, 1, 1 << 60, 0),
        Grave("cars", 1, 1, 0, -5),
        Grave("nodes", 1, 1, 0, 0),
        Grave("not a name", 1, 1, 0, 0),
    ],
)
def test_a_grave_that_cannot_be_is_refused(bad: Grave) -> None:
    following = Following(OPEN)
    following.told([InterestEntry("*")])
    with pytest.raises(ProtocolViolation):
        following.on_changes(Changes(1, 0, 0, [], graves=[bad]))


def test_a_grave_of_what_was_not_asked_for_is_refused() -> None:
    following = Following(OPEN)
    following.told([InterestEntry("trains")])
    with pytest.raises(ProtocolViolation):
        following.on_changes(Changes(1, 0, 0, [], graves=[grave("x")]))


# --- the file ---------------------------------------------------------------------------------


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DocumentStore]:
    store = DocumentStore(
        tmp_path / "store.sqlite", ThreadWorker("write"), rng=random.Random(1), clock=lambda: 1.7e9
    )
    await store.open()
    yield store
    await store.close()


def fill(rows: Rows, numbers: range) -> None:
    for n in numbers:
        fields = {"text": random.Random(n).randbytes(1000).hex()}
        edit(rows, "cars", f"car{n}", partial(plan_merge, fields=fields))


def checkpointed(rows: Rows) -> int:
    rows.connection.execute("COMMIT")
    rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    rows.connection.execute("BEGIN IMMEDIATE")
    (pages,) = rows.connection.execute("PRAGMA page_count").fetchone()
    return int(pages) * 4096


@pytest.mark.parametrize("how", [writes.remove, writes.evict])
async def test_the_file_shrinks_when_documents_go(store: DocumentStore, how: Any) -> None:
    for start in range(0, 5000, 500):
        await store.write(partial(fill, numbers=range(start, start + 500)))
    await store.write(checkpointed)
    full = store.disk_bytes()
    ageing = Ageing(store, lambda: 1.7e9)
    ageing.start()
    ids = [f"car{n}" for n in range(5000)]
    await store.write(lambda rows: how(rows, "cars", ids))
    assert ageing._task is not None
    await asyncio.shield(ageing._task)
    await ageing.close()
    await store.write(checkpointed)
    assert full > 5000 * 2000
    assert store.disk_bytes() < full / 8


@virtual
async def test_ageing_goes_on_from_day_to_day() -> None:
    loop = asyncio.get_running_loop()
    store = DocumentStore(None, InlineWorker(), rng=random.Random(1), clock=loop.time)
    await store.open()
    ageing = Ageing(store, loop.time)
    ageing.start()

    async def held() -> tuple[int, int]:
        return await store.read(
            lambda rows: rows.connection.execute(
                "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM graves)"
            ).fetchone()
        )

    await store.write(partial(fill, numbers=range(3)))
    await store.write(lambda rows: writes.remove(rows, "cars", ["car0", "car1"]))
    await asyncio.sleep(TOMBSTONE_SECONDS - 2 * INTERVAL_SECONDS)
    assert await held() == (3, 0)
    await asyncio.sleep(3 * INTERVAL_SECONDS)
    assert await held() == (1, 2)
    await ageing.close()
    assert MANY_GONE > 2
    await store.write(lambda rows: graves.bury(rows, loop.time() + GRAVE_SECONDS))
    assert await held() == (1, 0)
    await store.close()


async def test_a_store_of_an_older_version_is_made_to_shrink(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    old = sqlite3.connect(path)
    old.execute("PRAGMA journal_mode=WAL")
    schema.migrate(sqlite_utils.Database(old, execute_plugins=False))
    old.close()
    store = DocumentStore(path, InlineWorker(), rng=random.Random(1), clock=lambda: 1.7e9)
    await store.open()
    assert await store.read(lambda rows: rows.connection.execute("PRAGMA auto_vacuum").fetchone()) == (2,)
    await store.close()
