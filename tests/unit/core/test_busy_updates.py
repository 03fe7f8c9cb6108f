"""Updates that are well formed and would keep the CRDT library, and with it the process, busy for seconds."""

from __future__ import annotations

import time

import pytest

from mesh.core.document import ABSENT, DocumentState, Merged, arrive
from mesh.core.wire import Change
from mesh.errors import InvalidDocument
from tests.fuzz.bytes_of import number, text

MANY = 16_000
SECONDS = 3.0
"""In Python, where other threads run as well."""


def offered(update: bytes) -> Change:
    return Change("c", "d", (0, 0), {}, {b"k" * 8: 1}, update)


def field(key: str = "/a", values: int = 1) -> bytes:
    return b"\x28" + number(1) + text("doc") + text(key) + number(values) + b"\x7e" * values


def competing(first: int, clients: int = 1500) -> bytes:
    blocks = (number(1) + number(first + i) + number(0) + field() for i in range(clients))
    return number(clients) + b"".join(blocks) + number(0)


def of_one(client: int, items: list[bytes], deletions: list[int] | None = None) -> bytes:
    """An update with the items of one client, which has deleted some of their elements."""
    gone = b"".join(number(clock) + number(1) for clock in deletions or [])
    deleted = number(1) + number(client) + number(len(deletions)) + gone if deletions else number(0)
    return number(1) + number(len(items)) + number(client) + number(0) + b"".join(items) + deleted


def in_list(values: int) -> bytes:
    return b"\x08" + number(1) + text("list") + number(values) + b"\x7e" * values


ODD = list(range(0, 2 * MANY, 2))

BUSY = {
    "every client writes the same field": competing(1000, MANY),
    "one client writes a field for the first time again and again": of_one(5, [field()] * MANY),
    "a field with many values, half of them deleted": of_one(5, [field(values=2 * MANY)], ODD),
    "a list of which every other element is deleted": of_one(5, [in_list(2 * MANY)], ODD),
    "a field before another": of_one(
        5, [field(), b"\x68" + number(5) + number(0) + text("/a") + b"\x01\x7e"]
    ),
}


@pytest.mark.parametrize("name", BUSY)
def test_what_would_take_seconds_is_refused_at_once(name: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidDocument):
        arrive(ABSENT, offered(BUSY[name]))
    assert time.process_time() - started < SECONDS


def test_it_is_refused_as_well_where_it_comes_bit_by_bit() -> None:
    held = ABSENT
    for start in range(1000, 5500, 1500):
        outcome = arrive(held, offered(competing(start)))
        assert isinstance(outcome, Merged)
        held = DocumentState(outcome.state.rank, outcome.state.update, {})
    with pytest.raises(InvalidDocument, match="at once in one place"):
        arrive(held, offered(competing(5500, 2000)))


HONEST = {
    "a thousand clients write the same field": competing(1000, 1000),
    "a form of many fields": of_one(5, [field(f"/{i}") for i in range(20_000)]),
    "two clients write the same many fields": number(2)
    + b"".join(
        number(5_000) + number(client) + number(0) + b"".join(field(f"/{i}") for i in range(5_000))
        for client in (5, 6)
    )
    + number(0),
    "some of a long list is deleted": of_one(5, [in_list(10_000)], list(range(0, 5_000, 2))),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_people_write_is_taken(name: str) -> None:
    assert isinstance(arrive(ABSENT, offered(HONEST[name])), Merged)
