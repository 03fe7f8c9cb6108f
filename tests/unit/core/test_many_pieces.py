"""Updates that are well formed, in so many pieces that the CRDT library would take seconds, or gigabytes."""

from __future__ import annotations

import time
from typing import Any

import pycrdt
import pytest

from mesh.core import library
from mesh.core.document import ABSENT, DocumentState, Merged, arrive
from mesh.core.wire import Change
from mesh.errors import InvalidDocument
from tests.fuzz.bytes_of import number, text

AT_ONCE_SECONDS = 0.25

SECONDS = 5.0
"""In Python, where other threads run as well."""


def offered(update: bytes) -> Change:
    return Change("c", "d", (0, 0), {}, {b"k" * 8: 1}, update)


def letters(value: str) -> bytes:
    return b"\x04" + number(1) + text("notes") + text(value)


def on(client: int, clock: int, kind: int, content: bytes) -> bytes:
    """An item that stands on an element."""
    return bytes((0x80 | kind,)) + number(client) + number(clock) + content


def before(client: int, clock: int) -> bytes:
    """A letter that only says what it comes before."""
    return b"\x44" + number(client) + number(clock) + text("x")


def of(clients: dict[int, list[bytes]], gone: dict[int, list[int]] | None = None) -> bytes:
    blocks = (number(len(i)) + number(c) + number(0) + b"".join(i) for c, i in clients.items())
    gone = gone or {}
    deleted = (
        number(c) + number(len(clocks)) + b"".join(number(clock) + number(1) for clock in clocks)
        for c, clocks in gone.items()
    )
    return number(len(clients)) + b"".join(blocks) + number(len(gone)) + b"".join(deleted)


VALUE = number(1) + b"\x7e"
GONE = number(1)

BUSY = {
    "a list that is cut again and again": of(
        {5: [b"\x08" + number(1) + text("list") + number(20_000) + b"\x7e" * 20_000]},
        {5: list(range(0, 20_000, 2))},
    ),
    "a list of values that come one by one": of(
        {5: [b"\x08" + number(1) + text("list") + VALUE, *(on(5, i, 8, VALUE) for i in range(5_000))]}
    ),
    "a text of letters that come one by one": of(
        {5: [letters("a"), *(on(5, i, 4, text("a")) for i in range(15_000))]}
    ),
    "a text that is cut where nothing stands": of(
        {5: [letters("a" * 40_000)], 3: [before(5, i) for i in range(1, 20_000)]}
    ),
    "a long text that is cut again and again": of(
        {5: [letters("a" * 10**6)]}, {5: list(range(0, 40_000, 2))}
    ),
    "a field of which every other value is overwritten twice": of(
        {
            5: [
                b"\x21" + number(1) + text("doc") + text("/a") + GONE,
                *(on(5, at, 1, GONE) for i in range(40_000) for at in (0, 1 + 2 * i)),
            ]
        }
    ),
    "a field that is cut from behind": of(
        {
            5: [b"\x21" + number(1) + text("doc") + text("/a") + number(70_000)],
            3: [on(5, i, 1, GONE) for i in reversed(range(60_000))],
        }
    ),
}


@pytest.mark.limit("core.pieces.MAX_CUTTING", "core.pieces.MAX_CUTTING_TEXTS")
@pytest.mark.limit("core.pieces.MAX_JOINING", "core.pieces.MAX_MOVES", "core.pieces.MAX_JOINING_MOVES")
@pytest.mark.parametrize("name", BUSY)
def test_what_is_in_too_many_pieces_is_refused(name: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidDocument, match="pieces"):
        arrive(ABSENT, offered(BUSY[name]))
    assert time.process_time() - started < SECONDS


def test_a_text_that_is_known_is_not_cut_where_nothing_stands() -> None:
    outcome = arrive(ABSENT, offered(of({5: [letters("a" * 200_000)]})))
    assert isinstance(outcome, Merged)
    held = DocumentState((0, 0), outcome.state.update, {})
    with pytest.raises(InvalidDocument, match="pieces"):
        arrive(held, offered(of({3: [before(5, i) for i in range(1, 1000)]})))


def test_a_long_text_that_is_edited_in_many_places_is_taken() -> None:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=7)
    notes = doc.get("notes", type=pycrdt.Text)
    notes += "a" * 100_000
    pasted, state = doc.get_update(), doc.get_state()
    with doc.transaction():
        for i in range(1_000):
            notes.insert(99 * i, "b")
            del notes[99 * i + 9]
    held = arrive(ABSENT, offered(pasted))
    assert isinstance(held, Merged)
    for before_it in (ABSENT, DocumentState((0, 0), held.state.update, {})):
        update = doc.get_update() if before_it is ABSENT else doc.get_update(state)
        outcome = arrive(before_it, offered(update))
        assert isinstance(outcome, Merged)
        assert pycrdt.get_state(outcome.state.update) == doc.get_state()


@pytest.mark.parametrize("remove", [True, False])
def test_what_cuts_a_long_text_in_many_places_comes_in_parts(
    monkeypatch: pytest.MonkeyPatch, remove: bool
) -> None:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=7)
    notes = doc.get("notes", type=pycrdt.Text)
    notes += "a" * 1_000_000
    pasted, state = doc.get_update(), doc.get_state()
    with doc.transaction():
        for i in range(20_000 if remove else 15_000):
            if remove:
                del notes[40 * i]
            else:
                notes.insert(40 * i, "b")
    held = arrive(ABSENT, offered(pasted))
    assert isinstance(held, Merged)
    apply, took = library.apply_update, []

    def timed(doc: pycrdt.Doc[Any], update: bytes) -> None:
        started = time.thread_time()
        apply(doc, update)
        took.append(time.thread_time() - started)

    monkeypatch.setattr(library, "apply_update", timed)
    outcome = arrive(DocumentState((0, 0), held.state.update, {}), offered(doc.get_update(state)))
    assert isinstance(outcome, Merged)
    assert max(took) < AT_ONCE_SECONDS, took
    other: pycrdt.Doc[Any] = pycrdt.Doc()
    other.apply_update(outcome.state.update)
    assert str(other.get("notes", type=pycrdt.Text)) == str(notes)
