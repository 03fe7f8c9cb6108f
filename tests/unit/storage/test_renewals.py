"""How often others can make a store take itself for a backup that was put back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mesh.core.document import ABSENT, edit
from mesh.core.wire import Change, Changes
from mesh.storage import replicas, restored
from mesh.storage.lineage import RENEW_SECONDS
from mesh.storage.rows import Rows
from tests.unit import edits
from tests.unit.tables import open_tables


class Store:
    """A file that is opened again and again; ``now`` is its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1e9
        self.open()

    def open(self) -> None:
        self.rows = Rows(open_tables(self.path), random.Random(1), lambda: self.now, "here", "today")

    def clock(self) -> bytes:
        clock: bytes = self.rows.lineage.clock
        return clock

    def lie(self, document_id: str) -> Changes:
        """A change that knows of a write of this store that it never made."""
        tick = (self.clock(), self.rows.lineage.seq + 1000)
        edited = edit(ABSENT, lambda held: edits.plan_merge(held, {"n": 1}), tick=lambda: tick, client_id=5)
        assert edited is not None
        change, _ = edited
        return Changes(1, 0, 0, [Change("c", document_id, change.rank, {}, change.until, change.update)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


def test_an_identity_that_is_new_is_not_changed(store: Store) -> None:
    clock = store.clock()
    assert replicas.apply_frame(store.rows, "peer", store.lie("1")) == []
    assert store.clock() == clock
    assert store.rows.get("c", "1") is None, "it would make what this store writes look as if it were known"
    assert [row[0] for row in store.rows.connection.execute("SELECT id FROM quarantine")] == ["1"]


@pytest.mark.limit("storage.lineage.RENEW_SECONDS")
def test_an_old_one_is_changed_once_a_day(store: Store) -> None:
    store.open()  # the file may have been put back before
    renewed = 0
    for hour in range(72):
        store.now = 1e9 + 3600.0 * hour
        clock = store.clock()
        replicas.apply_frame(store.rows, "peer", store.lie(str(hour)))
        assert (store.rows.get("c", str(hour)) is not None) == (store.clock() != clock)
        renewed += store.clock() != clock
    assert renewed == 72 * 3600 / RENEW_SECONDS


def test_a_failed_renewal_does_not_count(store: Store) -> None:
    store.open()
    edits.edit(store.rows, "c", "1", lambda held: edits.plan_merge(held, {"n": 1}))
    store.rows.finish()
    restored.renew(store.rows, None)
    assert not store.rows.lineage.may_renew()
    store.rows.lineage.undo_all()
    assert store.rows.lineage.may_renew()
