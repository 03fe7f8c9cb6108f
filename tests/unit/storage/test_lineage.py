"""Under which identity a store goes on: after a stop, a crash, a power cut, and when it is a copy."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from mesh.storage import writes
from mesh.storage.file_birth import born
from mesh.storage.lineage import ERA_BYTES, MAX_FORMER, host_of
from mesh.storage.rows import Rows
from tests.unit.edits import edit, plan_merge
from tests.unit.tables import open_tables


class Store:
    """A file that is opened and left in all sorts of ways."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rng = random.Random(1)

    def open(self, host: str = "here", boot: str = "today") -> None:
        self.connection = open_tables(self.path)
        self.rows = Rows(self.connection, self.rng, lambda: 0.0, host, boot)
        self.lineage = self.rows.lineage
        self.identity = (self.lineage.log_id, self.lineage.clock)

    def write(self, document_id: str, **fields: object) -> dict[bytes, int]:
        edit(self.rows, "c", document_id, partial(plan_merge, fields=fields))
        self.rows.finish()
        self.rows.take_commits()
        row = self.rows.get("c", document_id)
        assert row is not None
        return row.state.vector

    def evict(self, document_id: str) -> None:
        writes.evict(self.rows, "c", [document_id])
        self.rows.finish()
        self.rows.take_commits()

    def stop(self) -> None:
        self.rows.close()
        self.connection.close()

    def crash(self) -> None:
        self.connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store.sqlite")
    made.open()
    made.write("1", n=1)
    return made


def test_a_stop_and_a_crash_change_nothing(store: Store) -> None:
    before = store.identity
    for end in (store.stop, store.crash, store.crash):
        end()
        store.open()
        assert store.identity == before


def test_a_reboot_after_a_stop_changes_nothing(store: Store) -> None:
    before = store.identity
    store.stop()
    store.open(boot="tomorrow")
    assert store.identity == before


@pytest.mark.parametrize("boot", ["tomorrow", ""])
def test_a_power_cut_makes_it_another(store: Store, boot: str, caplog: pytest.LogCaptureFixture) -> None:
    log_id, clock = store.identity
    store.crash()
    store.open(boot=boot)
    assert store.lineage.log_id != log_id
    assert store.lineage.clock != clock
    assert "the machine went down" in caplog.text
    renewed = store.identity
    store.stop()
    store.open(boot="the day after")
    assert store.identity == renewed


def test_what_was_evicted_is_written_again_under_another_clock_and_nothing_else_is(store: Store) -> None:
    [first] = store.write("1", n=2)
    store.write("2", n=1)
    store.evict("1")
    assert store.write("2", n=2).keys() == {first}, "versions do not grow"
    [second] = store.write("1", n=1)
    assert second != first
    store.stop()
    store.open()
    assert store.write("1", n=2).keys() == {second}
    assert store.write("3", n=1).keys() == {second}
    store.evict("2")
    assert store.write("4", n=1).keys() == {second}, "nothing was evicted that was written under it"
    assert store.lineage.log_id == store.identity[0]
    for clock in (first, second):
        assert store.lineage.unknown({clock: store.lineage.seq}) is None
        assert store.lineage.unknown({clock: store.lineage.seq + 1}) == store.lineage.seq + 1


def test_a_store_that_has_evicted_too_often_is_another(store: Store) -> None:
    log_id, clock = store.identity
    store.lineage.clock = clock[:-ERA_BYTES] + b"\xff" * ERA_BYTES
    store.write("2", n=1)
    store.evict("2")
    assert store.lineage.log_id != log_id
    assert store.lineage.clock[:-ERA_BYTES] != clock[:-ERA_BYTES]


def test_a_copy_is_another(store: Store) -> None:
    before = store.identity
    store.stop()
    store.open(host="there")
    assert store.identity != before


def test_a_file_in_the_place_of_another_is_not_the_same(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    if not born(tmp_path):
        pytest.skip("this file system does not say when a file was made")
    seen = set()
    for _ in range(3):  # the inode is most often the former one
        path.unlink(missing_ok=True)
        path.write_text("x")
        seen.add(host_of(path))
        path.write_text("y")
        assert host_of(path) in seen
    assert len(seen) == 3


def test_a_file_whose_birth_was_not_noted_stays_the_same(store: Store) -> None:
    store.stop()
    store.open(host="machine:7")
    before = store.identity
    store.stop()
    store.open(host="machine:7:1.5")
    assert store.identity == before
    store.stop()
    store.open(host="machine:7:1.6")
    assert store.identity != before


def test_the_logs_that_a_store_has_had_are_remembered(store: Store) -> None:
    known = frozenset([store.lineage.log_id])
    assert store.lineage.logs == known
    store.stop()
    store.open(host="there")
    second = store.lineage.log_id
    store.lineage.renew(b"of another life.")
    known |= {second, store.lineage.log_id, b"of another life."}
    store.rows.finish()
    store.crash()
    store.open(host="there")
    assert store.lineage.logs == known
    for _ in range(2 * MAX_FORMER):
        store.lineage.renew()
    assert store.lineage.logs is not None
    assert len(store.lineage.logs) == MAX_FORMER + 1
    assert store.lineage.logs.isdisjoint(known)
    store.lineage.forget_former()
    store.stop()
    store.open(host="there")
    store.lineage.renew(b"of another life.")
    assert store.lineage.logs is None, "nobody knows what was before"


def test_no_number_is_given_twice_whatever_becomes_of_the_rows(store: Store) -> None:
    clock = store.lineage.clock
    given = [1]
    for end in (store.crash, store.stop, store.crash):
        store.write("2")
        store.evict("2")
        given.append(store.lineage.seq)
        end()
        store.open()
        assert store.lineage.seq > max(given), "a gap"
        counter = store.write("1", n=store.lineage.seq)[clock]
        assert counter == store.lineage.seq > max(given)
        given.append(counter)
        assert all(store.lineage.numbering.issued(number, store.lineage.seq) for number in given)


def test_a_commit_writes_nothing_but_the_document(store: Store) -> None:
    statements: list[str] = []
    store.connection.set_trace_callback(statements.append)
    store.write("1", n=2)
    assert not [statement for statement in statements if "store" in statement.lower()]


def test_what_another_life_wrote_is_recognised(store: Store) -> None:
    clock = store.lineage.clock
    store.stop()
    backup = store.path.read_bytes()
    store.open()
    others = [store.write("1", n=n)[clock] for n in range(10)]
    store.stop()
    store.path.write_bytes(backup)
    store.open()
    for _ in range(100):
        mine = store.write("1", n=random.random())[clock]
        assert store.lineage.unknown({clock: mine}) is None
    assert [store.lineage.unknown({clock: number}) for number in others] == others
