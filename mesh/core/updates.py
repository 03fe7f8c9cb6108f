"""Reads a Yjs update (version 1) without the CRDT library: to refuse what would harm it, and to save time.

A document of the mesh is one root map, so its updates hold items of that map with JSON values, deleted items
and collected ones, and the set of deletions; nothing else is let through. Nesting is bounded because the
library recurses on its stack, numbers because it believes them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from mesh.core.values import MAX_SAFE_INTEGER, Registers
from mesh.errors import InvalidDocument

MAX_STRUCTS = 20_000
"""Items in one update."""

MAX_NESTING = 64
"""Lists and objects within each other, in one value."""

MAX_CLOCK = 2**31
MAX_CLIENT = 2**53

_GC, _DELETED, _ANY = 0, 1, 8
_LEFT, _RIGHT, _KEY = 0x80, 0x40, 0x20
_CONSTANTS = {126: None, 121: False, 120: True}
_FLOATS = {124: struct.Struct(">f"), 123: struct.Struct(">d")}
_UNDEFINED, _INTEGER, _STRING, _OBJECT, _LIST = 127, 125, 119, 118, 117


class Brought(NamedTuple):
    """What an update brings.

    ``ranges`` are the clocks, from and up to, of its items by client. ``registers`` is the root map, if the
    update is all there is to a document that was written once: nothing in it was overwritten or deleted.
    """

    ranges: dict[int, tuple[int, int]]
    registers: Registers | None


def read_update(update: bytes, root: bytes) -> Brought:
    """What ``update`` brings.

    Args:
        update: from anywhere.
        root: the name of the only root map that items may be in.

    Raises:
        InvalidDocument: the update is malformed, or holds what no document of the mesh does.
    """
    try:
        return _Reader(update, root).update()
    except (IndexError, struct.error):
        raise InvalidDocument("a malformed update: it is cut short") from None


def clocks_of(state_vector: bytes) -> dict[int, int]:
    """What a Yjs state vector says: the clock up to which each client's items are there.

    Raises:
        InvalidDocument: it is malformed.
    """
    try:
        return _Reader(state_vector, b"").clocks()
    except (IndexError, InvalidDocument) as error:
        raise InvalidDocument(f"a malformed state vector: {error}") from None


class _Reader:
    def __init__(self, data: bytes, root: bytes) -> None:
        self._data = data
        self._parent = b"\1" + bytes((len(root),)) + root
        self._at = 0
        self._registers: Registers = {}
        self._plain = True  # whether the registers are all there is to it

    def update(self) -> Brought:
        ranges: dict[int, tuple[int, int]] = {}
        structs = 0
        for _ in self._times():
            count, client, start = self._number(), self._client(), self._number()
            structs += count
            if structs > MAX_STRUCTS:
                raise InvalidDocument(f"more than {MAX_STRUCTS} items in an update")
            if client in ranges:
                raise InvalidDocument("a malformed update: a client occurs twice")
            clock = start
            for _ in range(count):
                clock += self._item()
                if clock > MAX_CLOCK:
                    raise InvalidDocument("a malformed update: a clock is out of bounds")
            self._plain = self._plain and not start
            ranges[client] = (start, clock)
        for _ in self._times():
            self._deletions()
        if self._at != len(self._data):
            raise InvalidDocument("a malformed update: something follows it")
        return Brought(ranges, self._registers if self._plain else None)

    def clocks(self) -> dict[int, int]:
        found = {self._client(): self._number() for _ in self._times()}
        if self._at != len(self._data) or max(found.values(), default=0) > MAX_CLOCK:
            raise InvalidDocument("something is out of bounds")
        return found

    def _item(self) -> int:
        """Read one item; how many clocks it takes."""
        info = self._byte()
        content = info & 0x1F
        if content == _GC:
            self._plain = False
            return self._length()
        key = ""
        if info & (_LEFT | _RIGHT):
            self._plain = False
            for flag in (_LEFT, _RIGHT):
                if info & flag:
                    self._client()
                    self._number()
        elif info & _KEY and self._data.startswith(self._parent, self._at):
            self._at += len(self._parent)
            key = self._text()
        else:
            raise InvalidDocument("an item outside of the document's root map")
        length = self._length()
        if content == _DELETED:
            self._plain = False
        elif content == _ANY:
            for _ in range(length):
                value = self._value(0)
            self._plain = self._plain and length == 1 and key not in self._registers
            self._registers[key] = value
        else:
            raise InvalidDocument(f"an item of kind {content}, which is not a JSON value")
        return length

    def _deletions(self) -> None:
        self._plain = False
        self._client()
        for _ in self._times():
            if self._number() + self._number() > MAX_CLOCK:
                raise InvalidDocument("a malformed update: a deletion is out of bounds")

    def _value(self, depth: int) -> Any:
        kind = self._byte()
        if kind == _STRING:
            return self._text()
        if kind in _FLOATS:
            layout = _FLOATS[kind]
            (number,) = layout.unpack_from(self._data, self._at)
            self._at += layout.size
            if not math.isfinite(number):
                self._plain = False
            elif number.is_integer() and abs(number) <= MAX_SAFE_INTEGER:
                return int(number)
            return number
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if depth >= MAX_NESTING:
            raise InvalidDocument(f"values nested more than {MAX_NESTING} levels deep")
        if kind == _LIST:
            return [self._value(depth + 1) for _ in self._times()]
        if kind == _OBJECT:
            found = {self._text(): self._value(depth + 1) for _ in self._times()}
            return dict(sorted(found.items()))
        if kind == _INTEGER:
            self._plain = False
            while self._byte() & 0x80:
                pass
            return None
        if kind == _UNDEFINED:
            self._plain = False
            return None
        raise InvalidDocument(f"a value of kind {kind}, which JSON does not have")

    # --- the bytes --------------------------------------------------------------------------------

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _number(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        if byte < 0x80:
            return byte
        number = byte & 0x7F
        shift = 7
        while True:
            byte = self._data[self._at]
            self._at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift > 63:
                raise InvalidDocument("a malformed update: a number is too long")

    def _client(self) -> int:
        client = self._number()
        if client >= MAX_CLIENT:
            raise InvalidDocument("a malformed update: a client id is out of bounds")
        return client

    def _length(self) -> int:
        length = self._number()
        if not length:
            raise InvalidDocument("a malformed update: an item of no length")
        return length

    def _times(self) -> Iterator[int]:
        count = self._number()
        if count > len(self._data):
            raise InvalidDocument("a malformed update: it counts more than it holds")
        return iter(range(count))

    def _text(self) -> str:
        size = self._number()
        start = self._at
        self._at += size
        if self._at > len(self._data):
            raise IndexError
        try:
            return self._data[start : self._at].decode()
        except UnicodeDecodeError:
            raise InvalidDocument("a malformed update: a text is not UTF-8") from None
