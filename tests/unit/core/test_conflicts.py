"""What was written at once into one text, list or field: what people write is taken, what would keep the CRDT
library busy is not, and nothing keeps it for long at a time."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import pycrdt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.core.conflicts import Conflicts, waits
from mesh.core.library import EMPTY_UPDATE, ROOT, ROOT_NAME, contributed, joined
from mesh.core.searching import MAX_AT_ONCE, known_of, parts_of
from mesh.core.update_reader import STRING, Id, Item
from mesh.core.updates import clocks_of, items_of, read_update
from mesh.errors import InvalidDocument
from tests.fuzz.bytes_of import number, text

MANY = 4000
LOW, HIGH = 1, 10**9
AT_ONCE_SECONDS = 0.25
LARGE_BYTES = 400_000


def steps_of(update: bytes) -> int:
    """The steps that are counted for a document, in whatever order it comes."""
    return Conflicts(items_of(update, ROOT_NAME)[0]).cost().steps


def longest(state: bytes) -> float:
    """The CPU seconds for which the library is kept at most, at a time."""
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    found = 0.0
    with doc.transaction():
        for part in parts_of(state, ROOT_NAME):
            started = time.process_time()
            doc.apply_update(part)
            found = max(found, time.process_time() - started)
    assert clocks_of(doc.get_state()) == clocks_of(pycrdt.get_state(state))
    return found


# --- hostile ------------------------------------------------------------------------------------


def piece(written: str = "x", left: Id | None = None, right: Id | None = None) -> bytes:
    near = [element for element in (left, right) if element is not None]
    info = 4 | 0x80 * (left is not None) | 0x40 * (right is not None)
    where = b"".join(number(client) + number(clock) for client, clock in near)
    return bytes((info,)) + (where or number(1) + text("notes")) + text(written)


def written(by: dict[int, list[bytes]], start: int = 0) -> bytes:
    blocks = [
        number(len(by[client])) + number(client) + number(start) + b"".join(by[client])
        for client in sorted(by, reverse=True)
    ]
    return number(len(by)) + b"".join(blocks) + number(0)


def crowd(author: int, many: int = MANY, *, far: bool) -> dict[int, list[bytes]]:
    """Many clients, each of which writes one character into the text of ``author``: after different ones and
    before its end, if it is ``far``, or after its beginning and before different ones."""
    return {
        100 + i: [piece(left=(author, i * 7919 % many)) if far else piece(right=(author, i * 7919 % many))]
        for i in range(many)
    }


def prepending(many: int) -> dict[int, list[bytes]]:
    """One puts each character before the last one, and two others write one behind the other's."""
    by = {50: [piece()], 10: [piece()], 11: []}
    by[50] += [piece(right=(50, i)) for i in range(many)]
    last = (10, 0)
    for i in range(many):
        client = 10 + (i + 1) % 2
        by[client].append(piece(left=last))
        last = (client, len(by[client]) - 1)
    return by


def overwriting(many: int) -> bytes:
    """Many clients overwrite one value; each waits for the one before, so that the lowest comes first."""
    root = bytes((0x28,)) + number(1) + text(ROOT)
    by = {LOW: [root + text("/a") + b"\1\x7e", root + text("/b") + b"\1\x7e"]}
    for client in range(2, many):
        before = (client - 1, 1 if client == 2 else 0)
        by[client] = [
            bytes((0x88,)) + b"".join(map(number, element)) + b"\1\x7e" for element in (before, (LOW, 0))
        ]
    return written(by)


KILLERS = {
    "before different characters": written({LOW: [piece("a" * MANY)]} | crowd(LOW, far=False)),
    "before those of a client that comes last": written({HIGH: [piece("a" * MANY)]} | crowd(HIGH, far=False)),
    "after different characters": written({LOW: [piece("a" * MANY)]} | crowd(LOW, far=True)),
    "over one value, each after having waited for the one before": overwriting(3000),
}
MISORDERED = {
    "each client waits for the one before": written(
        {LOW: [piece()]} | {client: [piece(left=(client - 1, 0))] for client in range(LOW + 1, 12_000)}
    ),
    "each before the last, and others after each other": written(prepending(MANY)),
}


@pytest.mark.parametrize("name", KILLERS)
def test_what_takes_long_in_any_order_is_refused(name: str) -> None:
    with pytest.raises(InvalidDocument, match="at once in one place"):
        joined(EMPTY_UPDATE, KILLERS[name], read_update(KILLERS[name], ROOT_NAME))


@pytest.mark.parametrize("name", MISORDERED)
def test_what_takes_long_in_the_order_of_the_library_is_taken_in_another(name: str) -> None:
    state = taken(EMPTY_UPDATE, MISORDERED[name])
    assert state is not None
    assert longest(state) < AT_ONCE_SECONDS


def test_it_is_refused_as_well_where_it_comes_bit_by_bit() -> None:
    crowded = list(crowd(LOW, far=False).items())
    parts = [written(dict(crowded[start : start + 250])) for start in range(0, MANY, 250)]
    state = taken(EMPTY_UPDATE, written({LOW: [piece("a" * MANY)]}))
    assert state is not None
    for count, part in enumerate(parts):
        outcome = taken(state, part)
        if outcome is None:
            assert count > 2, "little of it is harmless"
            break
        state = outcome
    assert outcome is None
    assert longest(state) < AT_ONCE_SECONDS


def taken(state: bytes, update: bytes) -> bytes | None:
    """The state with the update; ``None``: it is refused."""
    try:
        return joined(state, update, read_update(update, ROOT_NAME))[0]
    except InvalidDocument:
        return None


class Search:
    """A text of single characters, put together as the library does it."""

    def __init__(self) -> None:
        self.order: list[Item] = []
        self.steps = 0

    def index(self, element: Id | None, otherwise: int) -> int:
        found = (at for at, item in enumerate(self.order) if (item.client, item.clock) == element)
        return next(found, otherwise)

    def place(self, item: Item) -> None:
        at = self.index(item.left, -1) + 1
        end = self.index(item.right, len(self.order))
        end = end if end >= at else len(self.order)
        passed: set[Id] = set()
        open_: set[Id] = set()
        for next_at, other in enumerate(self.order[at:end], at + 1):
            self.steps += 1
            passed.add((other.client, other.clock))
            open_.add((other.client, other.clock))
            if other.left == item.left:
                if other.client > item.client and other.right == item.right:
                    break
                ends = other.client < item.client
            elif other.left in passed:
                ends = other.left not in open_
            else:
                break
            if ends:
                at = next_at
                open_.clear()
        self.order.insert(at, item)


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_the_search_never_takes_more_steps_than_are_counted(seed: int) -> None:
    rng = random.Random(seed)
    first, clocks, honest = Search(), Counter[int](), rng.random()
    for _ in range(40):
        client = rng.randint(1, 8)
        ids = [None, *((item.client, item.clock) for item in first.order), None]
        at = rng.randrange(len(ids) - 1)
        until = at + 1 if rng.random() < honest else rng.randrange(at + 1, len(ids))
        first.place(Item(client, clocks[client], 1, STRING, ids[at], ids[until]))
        clocks[client] += 1
    by: dict[int, list[bytes]] = {client: [] for client in clocks}
    for item in sorted(first.order):
        by[item.client].append(piece("x", item.left, item.right))
    counted = steps_of(written(by))

    again, waiting = Search(), sorted(first.order)  # in another order
    there: set[Id | None] = {None}
    while waiting:
        clocks = Counter(item.client for item in again.order)
        ready = [
            item for item in waiting if clocks[item.client] == item.clock and {item.left, item.right} <= there
        ]
        item = rng.choice(ready)
        again.place(item)
        waiting.remove(item)
        there.add((item.client, item.clock))
    for search in (first, again):
        assert search.steps <= counted + len(search.order), "one each, and those that are counted"


# --- honest -------------------------------------------------------------------------------------


class Writer:
    """Somebody who writes into a text and a list, mostly where the last of it went."""

    def __init__(self, rng: random.Random, state: bytes = EMPTY_UPDATE) -> None:
        self.doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=rng.randrange(1, 2**32))
        self.notes = self.doc.get("notes", type=pycrdt.Text)
        self.list = self.doc.get("list", type=pycrdt.Array)
        self.doc.apply_update(state)
        self.rng, self.at = rng, 0

    def write(self, times: int, *, jumping: float, listing: bool = False) -> None:
        with self.doc.transaction():
            length = len(str(self.notes))
            for _ in range(times):
                if self.rng.random() < jumping:
                    self.at = self.rng.randint(0, length)
                at = self.at = min(self.at, length)
                if listing:
                    self.list.insert(self.rng.randint(0, len(self.list)), 1)
                if at < length and self.rng.random() < 0.2:
                    del self.notes[at : at + 1]
                    length -= 1
                else:
                    self.notes.insert(at, "x")
                    length += 1
                    self.at = at + 1
            if length and self.rng.random() < 0.3:
                self.notes.format(0, length, {"bold": True})


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_who_writes_alone_makes_it_search_for_nothing(seed: int, jumping: float) -> None:
    rng, state = random.Random(seed), EMPTY_UPDATE
    for _ in range(3):  # one after the other
        writer = Writer(rng, state)
        writer.write(100, jumping=jumping)
        state = writer.doc.get_update()
        assert steps_of(state) <= len(state) // 10, "but for a look at who waits for whom"


@given(st.integers(0, 2**32), st.integers(2, 6), st.floats(0, 1))
@settings(max_examples=6, deadline=None)
def test_what_some_write_apart_and_together_is_taken(seed: int, people: int, jumping: float) -> None:
    rng, state = random.Random(seed), EMPTY_UPDATE
    writers = [Writer(rng) for _ in range(people)]
    for _ in range(3):
        for writer in writers:
            if rng.random() < 0.7:
                writer.doc.apply_update(state)
            before = writer.doc.get_state()
            writer.write(60, jumping=jumping, listing=True)
            update = writer.doc.get_update(before)
            outcome = contributed(state, update, read_update(update, ROOT_NAME))
            assert outcome is not None
            state = outcome[0]
    assert joined(EMPTY_UPDATE, state, read_update(state, ROOT_NAME))[0] == state


def texts(people: int, times: int, jumping: float, length: int) -> list[bytes]:
    """What some have typed without each other into a text that was there."""
    rng = random.Random(1)
    first = Writer(rng)
    first.notes += "a" * length
    states = [first.doc.get_update()]
    for _ in range(people):
        writer = Writer(rng, states[0])
        writer.write(times, jumping=jumping)
        states.append(writer.doc.get_update())
    return states


def fields(devices: int, times: int, *, there: bool) -> list[bytes]:
    """What devices have written into one field without each other."""
    rng = random.Random(2)
    first: pycrdt.Doc[Any] = pycrdt.Doc(client_id=rng.randrange(1, 2**32))
    if there:
        first.get(ROOT, type=pycrdt.Map)["/a"] = 0
    states = [first.get_update()]
    for _ in range(devices):
        doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=rng.randrange(1, 2**32))
        root = doc.get(ROOT, type=pycrdt.Map)
        doc.apply_update(states[0])
        for n in range(times):
            root["/a"] = n
        states.append(doc.get_update())
    return states


HONEST = {
    "50 type 1,000 characters each at random into an empty text": lambda: texts(50, 1000, 1.0, 0),
    "200 type 50 each": lambda: texts(200, 50, 1.0, 0),
    "50 type 100 each into a text of 3,000": lambda: texts(50, 100, 1.0, 3000),
    "two type for long": lambda: texts(2, 4000, 0.05, 0),
    "1,000 devices overwrite one field": lambda: fields(1000, 1, there=True),
    "1,000 devices write one field first": lambda: fields(1000, 1, there=False),
    "200 devices write one field 100 times each": lambda: fields(200, 100, there=True),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_people_have_written_without_each_other_is_taken_and_they_go_on(name: str) -> None:
    states = HONEST[name]()
    state = taken(EMPTY_UPDATE, pycrdt.merge_updates(*states))
    assert state is not None
    assert longest(state) < AT_ONCE_SECONDS
    if len(state) > LARGE_BYTES:
        return
    half = len(states) // 2  # and where both halves of them have met before
    first = taken(EMPTY_UPDATE, pycrdt.merge_updates(*states[:half]))
    second = taken(EMPTY_UPDATE, pycrdt.merge_updates(*states[half:]))
    assert first is not None
    assert second is not None
    merged = taken(first, second)
    assert merged is not None
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    doc.apply_update(state)
    other: pycrdt.Doc[Any] = pycrdt.Doc()
    other.apply_update(merged)
    assert str(doc.get("notes", type=pycrdt.Text)) == str(other.get("notes", type=pycrdt.Text))
    assert doc.get(ROOT, type=pycrdt.Map).to_py() == other.get(ROOT, type=pycrdt.Map).to_py()
    # Whoever has the highest id writes on at places of all others, and so has their items come first.
    doc = pycrdt.Doc(client_id=max(read_update(state, ROOT_NAME).ranges))
    notes = doc.get("notes", type=pycrdt.Text)
    doc.apply_update(state)
    before, rng, length = doc.get_state(), random.Random(3), len(str(notes))
    with doc.transaction():
        for at in range(200):
            notes.insert(rng.randint(0, length + at), "y")
        doc.get(ROOT, type=pycrdt.Map)["/b"] = 1
    update = doc.get_update(before)
    said = contributed(state, update, read_update(update, ROOT_NAME))
    assert said is not None
    assert longest(said[0]) < AT_ONCE_SECONDS
    assert contributed(said[0], update, read_update(update, ROOT_NAME)) is None
    elsewhere = taken(state, said[1])
    assert elsewhere is not None
    assert clocks_of(pycrdt.get_state(elsewhere)) == clocks_of(pycrdt.get_state(said[0]))


@given(st.integers(0, 2**32), st.integers(1, 4))
@example(117, 3)
@settings(max_examples=6, deadline=None)
def test_what_is_known_of_a_document_stays_true_as_it_grows(seed: int, people: int) -> None:
    """Without another look, it is never less than what a look would find.

    But for what items wait: those that were looked at may since have become fewer and longer ones, which come
    in more rounds, if not in more than there are people.
    """
    rng = random.Random(seed)
    writers = [Writer(rng) for _ in range(people)]
    for writer in writers:
        writer.write(300, jumping=1.0)
    state = taken(EMPTY_UPDATE, pycrdt.merge_updates(*(writer.doc.get_update() for writer in writers)))
    assert state is not None
    for _ in range(60):
        writer = rng.choice(writers)
        if rng.random() < 0.5:
            writer.doc.apply_update(state)
        before = writer.doc.get_state()
        writer.write(rng.choice((1, 1, 5)), jumping=0.5)
        update = writer.doc.get_update(before)
        outcome = taken(state, update)
        assert outcome is not None
        state = outcome
        if rng.random() < 0.2:
            cost = known_of(state, ROOT_NAME).cost
            assert cost.steps + waits(cost.pieces, people) >= min(steps_of(state), MAX_AT_ONCE)
