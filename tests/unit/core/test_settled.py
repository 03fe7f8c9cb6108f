"""Whole states from anywhere that are read without the CRDT library, and taken in place of what is held."""

from __future__ import annotations

from typing import Any

import pycrdt
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import document
from mesh.core.document import DocumentState
from mesh.core.items import any_value, encode_number
from mesh.core.library import ROOT_NAME, registers_of
from mesh.core.plans import Writes
from mesh.core.updates import clocks_of, read_update, settled
from mesh.core.wire import Change

State = dict[int, list[tuple[str | tuple[int, int], int | None]]]

ids = st.tuples(st.integers(1, 3), st.integers(0, 3))
items = st.tuples(st.sampled_from("ab") | ids, st.none() | st.integers(0, 9))
states = st.dictionaries(st.integers(1, 3), st.lists(items, min_size=1, max_size=4), min_size=1)
removals = st.lists(ids, max_size=2, unique=True)
writes = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=12
)


def encoded(state: State, removed: list[tuple[int, int]]) -> bytes:
    """An update of items, each in a key or on another one, with a value or (None) an overwritten one."""
    parts = [encode_number(len(state))]
    for client, written in state.items():
        parts += (encode_number(len(written)), encode_number(client), b"\0")
        for left, value in written:
            kind = 1 if value is None else 8
            content = b"\1" if value is None else b"\1" + any_value(value)
            if isinstance(left, str):
                parts.append(
                    bytes((0x20 | kind, 1, len(ROOT_NAME))) + ROOT_NAME + b"\1" + left.encode() + content
                )
            else:
                parts.append(bytes((0x80 | kind, *left)) + content)
    by: dict[int, list[int]] = {}
    for client, clock in removed:
        by.setdefault(client, []).append(clock)
    parts.append(encode_number(len(by)))
    for client, clocks in by.items():
        parts += (bytes((client, len(clocks))), *(bytes((clock, 1)) for clock in sorted(clocks)))
    return b"".join(parts)


@given(states, removals)
def test_what_is_read_of_a_state_is_what_the_library_makes_of_it(
    state: State, removed: list[tuple[int, int]]
) -> None:
    update = encoded(state, removed)
    registers = settled(read_update(update, ROOT_NAME, chains=True))
    if registers is None:
        return
    assert registers == registers_of(update)
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    doc.apply_update(update)
    assert clocks_of(doc.get_state()) == {client: len(written) for client, written in state.items()}
    assert registers == registers_of(doc.get_update())


@given(writes)
def test_a_state_whose_writers_knew_all_that_was_written_before_takes_no_library(
    written: list[tuple[int, str, int]],
) -> None:
    state: State = {}
    tips: dict[str, tuple[int, int]] = {}
    overwritten: list[tuple[int, int]] = []
    for client, key, value in written:
        own = state.setdefault(client, [])
        tip = tips.get(key)
        if tip is not None:
            left, _ = state[tip[0]][tip[1]]
            state[tip[0]][tip[1]] = (left, None)
            overwritten.append(tip)
        tips[key] = (client, len(own))
        own.append((tip or key, value))
    update = encoded(state, overwritten)
    expected = {key: value for _, key, value in written}
    assert settled(read_update(update, ROOT_NAME, chains=True)) == expected == registers_of(update)


def test_a_state_that_waits_for_itself_is_left_to_the_library() -> None:
    states: list[State] = [
        {1: [((1, 1), 1), ("a", 2)]},
        {1: [((2, 0), 1)], 2: [((1, 0), 1)]},
        {1: [((2, 1), 1), ("a", 2)], 2: [((1, 1), 3), ("b", 4)]},
        {1: [("a", 1), ("a", 2)]},
        {1: [("a", 1), ((1, 0), 2)], 2: [((1, 0), 3)]},
    ]
    for state in states:
        assert settled(read_update(encoded(state, []), ROOT_NAME, chains=True)) is None
    written: State = {1: [("a", None), ((2, 0), 2)], 2: [((1, 0), None)]}
    assert settled(read_update(encoded(written, [(1, 0), (2, 0)]), ROOT_NAME, chains=True)) == {"a": 2}


class Store:
    """A replica of one document."""

    def __init__(self, number: int) -> None:
        self.clock = bytes((number,)) * 8
        self.number = number
        self.counter = 0
        self.state = document.ABSENT

    def write(self, **registers: Any) -> None:
        def tick() -> tuple[bytes, int]:
            self.counter += 1
            return self.clock, self.counter

        sets = {f"/{key}": value for key, value in registers.items()}
        outcome = document.edit(self.state, lambda held: Writes(sets), tick=tick, client_id=self.number)
        assert outcome is not None
        self.state = outcome[1].state

    def take(self, state: DocumentState) -> Any:
        outcome = document.arrive(self.state, Change("c", "i", state.rank, {}, state.vector, state.update))
        if not isinstance(outcome, str):
            self.state = outcome.state
            assert outcome.fields == {k[1:]: v for k, v in registers_of(self.state.update).items()}
        return outcome


def pair() -> tuple[Store, Store]:
    a, b = Store(1), Store(2)
    a.write(title="one", year=1)
    b.take(a.state)
    return a, b


def test_a_state_that_includes_what_is_held_takes_its_place() -> None:
    a, b = pair()
    b.write(title="two")
    a.take(b.state)
    a.write(title="three", year=2)
    b.take(a.state)
    assert b.state == a.state
    b.write(year=3)  # it goes on where it was
    a.take(b.state)
    assert registers_of(a.state.update) == {"/title": "three", "/year": 3}


def test_a_state_that_does_not_include_what_is_held_is_merged_with_it() -> None:
    a, b = pair()
    a.write(title="a's")
    b.write(year=2)
    b.take(a.state)
    assert registers_of(b.state.update) == {"/title": "a's", "/year": 2}
    assert b.state.vector == {a.clock: 2, b.clock: 1}


def test_a_state_that_only_says_it_includes_what_is_held_takes_nothing_away() -> None:
    a, b = pair()
    b.write(year=2, more=True)
    b.take(a.state)
    a.write(title="a's")
    b.take(DocumentState(a.state.rank, a.state.update, {a.clock: 2, b.clock: 7}))
    assert registers_of(b.state.update) == {"/title": "a's", "/year": 2, "/more": True}
