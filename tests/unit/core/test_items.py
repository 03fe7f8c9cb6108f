"""Registers are written as the CRDT library would write them, and histories stay small."""

from __future__ import annotations

from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import document, library
from mesh.core.document import ABSENT, DocumentState, Merged, arrive
from mesh.core.items import written_once
from mesh.core.library import ROOT
from mesh.core.plans import Writes
from mesh.core.registers import flatten, unflatten
from mesh.core.update_reader import MAX_CLIENT
from mesh.core.updates import fields_of
from mesh.core.values import identical
from mesh.core.versions import VersionVector
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge
from tests.unit.core.test_values import documents
from tests.unit.edits import plan_merge

NAME = ROOT.encode()


class Store:
    """One store's copy of one document."""

    def __init__(self, number: int, state: DocumentState = ABSENT) -> None:
        self.clock = bytes([number]) * 8
        self.counter = 0
        self.client_id = MAX_CLIENT - number
        self.state = state
        self.fields: dict[str, Any] | None = None

    def tick(self) -> tuple[bytes, int]:
        self.counter += 1
        return self.clock, self.counter

    def write(self, writes: Writes) -> Change:
        outcome = document.edit(self.state, lambda _: writes, tick=self.tick, client_id=self.client_id)
        assert outcome is not None
        change, merged = outcome
        self.state, self.fields = merged.state, merged.fields
        return change

    def set(self, fields: dict[str, Any]) -> Change:
        return self.write(plan_merge({}, fields))

    def receive(self, change: Change) -> None:
        outcome = arrive(self.state, change)
        assert isinstance(outcome, Merged)
        self.state, self.fields = outcome.state, outcome.fields


def by_library(writes: list[tuple[int, Writes]]) -> bytes:
    update = library.EMPTY_UPDATE
    for client, write in writes:
        doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client)
        root = doc.get(ROOT, type=pycrdt.Map)
        doc.apply_update(update)
        with doc.transaction():
            for key in write.removes:
                root.pop(key, None)
            for key, value in write.sets.items():
                root[key] = value
        update = doc.get_update()
    return update


def one_key_in_objects(value: Any) -> Any:
    """The library has no order of keys."""
    if isinstance(value, list):
        return [one_key_in_objects(item) for item in value]
    if isinstance(value, dict):
        return {key: one_key_in_objects(item) for key, item in list(value.items())[:1]}
    return value


@given(documents, st.integers(1, MAX_CLIENT - 1))
def test_a_document_that_is_written_once_has_the_bytes_that_the_library_gives_it(
    fields: dict[str, Any], client: int
) -> None:
    registers = {key: one_key_in_objects(value) for key, value in flatten(fields).items()}
    assert written_once(NAME, registers, client) == by_library([(client, Writes(registers))])


keys = st.sampled_from(["/a", "/b", "/long" * 30, "/a/b", "+0.c/a", "/é"])
writes = st.builds(
    lambda sets, removes: Writes(sets, removes - sets.keys()),
    st.dictionaries(
        keys, st.sampled_from([1, 2.5, "x", "é" * 200, None, True, [1, {"k": 2}], {}]), max_size=4
    ),
    st.sets(keys, max_size=2),
).filter(bool)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), writes), min_size=1, max_size=12))
def test_edits_do_what_the_library_does(steps: list[tuple[int, Writes]]) -> None:
    store, peer = Store(1), Store(9)
    for client, write in steps:
        store.client_id = client
        peer.receive(store.write(write))
    expected = library.registers_of(by_library(steps))
    for held in (store, peer):
        registers = library.registers_of(held.state.update)
        assert identical(registers, expected)
        fields = fields_of(held.state.update, NAME)
        assert fields is not None
        assert identical(dict(sorted(fields.registers.items())), dict(sorted(expected.items())))
        assert identical(held.fields, unflatten(expected))


@settings(max_examples=100)
@given(st.data())
def test_concurrent_edits_of_long_histories_merge(data: st.DataObject) -> None:
    stores = [Store(1), Store(2)]
    stores[1].receive(stores[0].set({"a": 0}))
    for i in range(100):  # far enough for a client id per key
        stores[0].set({"a": i, "b": i})
    for step in range(data.draw(st.integers(1, 12))):
        a, b = data.draw(st.permutations(stores))
        if data.draw(st.booleans()):
            a.write(data.draw(writes))
        else:
            since = library.difference(b.state.update, library.state_vector(a.state.update))
            a.receive(Change("", "", b.state.rank, a.state.vector, b.state.vector, since)) if not all(
                a.state.vector.get(clock, 0) >= n for clock, n in b.state.vector.items()
            ) else None
        assert step < 100
    a, b = stores
    a.receive(Change("", "", b.state.rank, {}, {**b.state.vector, b"x" * 8: 1}, b.state.update))
    b.receive(Change("", "", a.state.rank, {}, {**a.state.vector, b"y" * 8: 1}, a.state.update))
    assert identical(a.fields, b.fields)
    assert identical(library.registers_of(a.state.update), library.registers_of(b.state.update))


# --- histories ----------------------------------------------------------------------------------


def test_what_one_store_overwrites_takes_no_space() -> None:
    store = Store(1)
    store.set({f"f{key}": "x" for key in range(10)})
    sizes = []
    for i in range(3000):
        change = store.set({f"f{i % 10}": i})
        sizes.append(len(store.state.update))
    assert store.fields == {f"f{key}": 2990 + key for key in range(10)}
    assert len(change.update) < 100
    assert sizes[-1] < sizes[500] + 200 < 2500


@pytest.fixture(scope="module")
def contended() -> tuple[bytes, VersionVector]:
    """What two writers make of one key in 100,000 turns."""
    docs = [pycrdt.Doc[Any](client_id=MAX_CLIENT - 5 - i) for i in range(2)]
    roots = [doc.get(ROOT, type=pycrdt.Map) for doc in docs]
    updates: list[bytes] = []
    held = [doc.observe(lambda event: updates.append(event.update)) for doc in docs]
    for i in range(100_000):
        updates.clear()
        roots[i % 2]["/n"] = i
        docs[1 - i % 2].apply_update(updates[0])
    assert held
    return docs[0].get_update(), {b"a" * 8: 50_000, b"b" * 8: 50_000}


@pytest.mark.xdist_group("contended")
def test_what_two_stores_overwrite_in_turn_takes_16_bytes_at_most(
    contended: tuple[bytes, VersionVector],
) -> None:
    update, vector = contended
    assert len(update) < 16 * 100_000
    held = arrive(ABSENT, Change("", "", (0, 0), {}, vector, update))
    assert isinstance(held, Merged)
    assert held.fields == {"n": 99_999}
    left, right = Store(1, held.state), Store(2, held.state)
    for i in range(3):
        right.receive(left.set({"n": -i}))
        left.receive(right.set({"n": i, "more": i}))
    assert left.fields == right.fields == {"n": 2, "more": 2}


@pytest.mark.xdist_group("contended")
def test_at_the_end_of_its_history_a_document_says_what_to_do(
    contended: tuple[bytes, VersionVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    update, vector = contended
    monkeypatch.setattr(document, "MAX_WRITTEN_BYTES", len(update))
    store = Store(1, DocumentState((0, 0), update, vector))
    with pytest.raises(DocumentTooLarge, match="remove it and insert it again"):
        store.set({"n": 0})
    assert store.counter == 0
    change, removed = document.remove(store.state, *store.tick())
    assert change.update == library.EMPTY_UPDATE
    store.state = removed.state
    store.set({"n": 0})
    assert len(store.state.update) < 50
