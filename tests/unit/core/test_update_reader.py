"""Yjs updates, byte by byte: one spelling for each number, and nothing that comes to nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pycrdt
import pytest

from mesh.core.document import ABSENT, DocumentState, Merged, arrive, edit
from mesh.core.library import ROOT_NAME
from mesh.core.update_reader import MAX_CLOCK, MAX_NESTING
from mesh.core.updates import clocks_of, fields_of, items_of, read_update
from mesh.core.wire import Change
from mesh.errors import InvalidDocument
from tests.fuzz.bytes_of import number
from tests.unit.edits import plan_merge

CLIENT = 2**32 - 1
RUN = 100
TEXT, INTEGER, LIST, OBJECT, NULL = b"\x77", b"\x7d", b"\x75", b"\x76", b"\x7e"

# An update as its numbers, and the bytes between them; every sort of number is in it.
PARTS: list[int | bytes] = [
    *(2, RUN + 3, CLIENT, 0),
    *(b"\x28\x01", 3, b"doc", 2, b"/a", 1, TEXT, 3, b"one"),
    *(b"\x08\x01", 4, b"list", 2, LIST, 1, NULL, OBJECT, 1, 1, b"k", INTEGER, 200),
    *(b"\xc4", CLIENT, 1, CLIENT, 2, 1, b"x"),
    *(part for clock in range(RUN) for part in (b"\xa1", CLIENT, clock and clock + 3, 1)),
    *(1, 7, 5, b"\x00", 300),
    *(1, 7, 2, 5, 10, 30, 200),
]
NUMBERS = [at for at, part in enumerate(PARTS) if isinstance(part, int)]


def spelled(parts: list[int | bytes], longer: int | None = None, zeros: int = 1) -> bytes:
    """The update of ``parts``; the number ``longer`` has more bytes than it needs."""
    out = b""
    for at, part in enumerate(parts):
        data = part if isinstance(part, bytes) else number(part)
        if at == longer:
            data = data[:-1] + bytes((data[-1] | 0x80,)) + b"\x80" * (zeros - 1) + b"\0"
        out += data
    return out


def read_in_every_way(update: bytes) -> None:
    read_update(update, ROOT_NAME)
    fields_of(update, ROOT_NAME)
    items_of(update, ROOT_NAME)


@pytest.mark.parametrize("zeros", [1, 2, 7, 12])
def test_a_number_is_written_in_one_way_only(zeros: int) -> None:
    read_in_every_way(spelled(PARTS))
    for at in NUMBERS:
        update = spelled(PARTS, at, zeros)
        for read in (read_update, fields_of, items_of):
            with pytest.raises(InvalidDocument, match="malformed"):
                read(update, ROOT_NAME)


def test_what_clients_write_is_read() -> None:
    for value in [0, -1, 63, 64, -64, 2**31 - 1, 2**53 - 1, 1 - 2**53, 1.5, [1, -200], {"a": [2**40]}]:
        doc: pycrdt.Doc[Any] = pycrdt.Doc()
        doc.get("doc", type=pycrdt.Map)["/a"] = value
        read_in_every_way(doc.get_update())
    for spelling in ["00", "40", "3f", "7f", "8001", "c001", "bf" + "ff" * 6 + "1f"]:
        read_in_every_way(bytes.fromhex("01010100280103646f63022f61017d" + spelling + "00"))


@pytest.mark.parametrize(
    "update",
    [
        "0100010000",
        "02000200" + "010100280103646f63022f61017e00",
        "01010100280103646f63022f61017e" + "02" + "01010001" * 2,
        "01010100280103646f63022f61017e" + "01" + "01010000",
        "01010100280103646f63022f61017e00" + "00",
        "010101008001" + "00",
        "01010100280103646f63022f61017d" + "80" * 8 + "0100",
        "01010100280103646f63022f61017dc0" + "80" * 6 + "8040" + "00",
        "01010100280103646f63022f6101" + "7501" * (MAX_NESTING + 1) + "7e00",
    ],
    ids=[
        "a client with nothing",
        "a client with nothing before another",
        "deletions of one client twice",
        "a deletion of nothing",
        "something behind it",
        "something collected after something",
        "an integer beyond all",
        "an integer beyond those of JSON",
        "lists within each other",
    ],
)
def test_what_no_client_writes_is_refused(update: str) -> None:
    for read in (read_update, fields_of, items_of):
        with pytest.raises(InvalidDocument):
            read(bytes.fromhex(update), ROOT_NAME)


def test_state_vectors() -> None:
    assert clocks_of(b"\0") == {}
    assert clocks_of(b"\2\1\4\xff\1\0") == {1: 4, 255: 0}
    for wrong in [
        "",
        "0101",
        "018100",
        "01818000",
        "0201040104",
        "01010400",
        "0101ffffffff0f",
        "01ffffffffffffff7f00",
    ]:
        with pytest.raises(InvalidDocument, match="a malformed state vector"):
            clocks_of(bytes.fromhex(wrong))


def taken(held: DocumentState, change: Change) -> Merged:
    arrived = arrive(held, change)
    assert isinstance(arrived, Merged)
    return arrived


def test_who_has_its_clocks_used_up_by_somebody_else_writes_on() -> None:
    ticks = itertools.count(1)
    writer = other = ABSENT

    def write(n: int) -> None:
        nonlocal writer, other
        edited = edit(
            writer,
            lambda held: plan_merge(held, {"a": n, "b": -n}),
            tick=lambda: (b"c" * 8, next(ticks)),
            client_id=42,
        )
        assert edited is not None
        change, merged = edited
        arrived = taken(other, change)
        assert arrived.fields == merged.fields == {"a": n, "b": -n}
        writer, other = merged.state, arrived.state

    for n in range(6):
        write(2 * n)
        write(2 * n + 1)
        for client, (_, end) in read_update(writer.update, ROOT_NAME).ranges.items():
            if end < MAX_CLOCK:
                rest = number(1) + number(client) + number(end) + b"\0" + number(MAX_CLOCK - end)
                burning = Change("", "", (0, 0), {}, {number(client).ljust(8, b"x"): 1}, b"\1" + rest + b"\0")
                writer, other = (taken(held, burning).state for held in (writer, other))
