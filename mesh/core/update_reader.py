"""Reads the bytes of a Yjs update (version 1), item by item; :mod:`mesh.core.updates` says what they come to.

Nothing is let through but what a document of the mesh may hold. Nesting is bounded because the CRDT library
recurses on its stack, numbers because it believes them. Each number has one spelling, the shortest.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from typing import Any, NamedTuple

import msgspec

from mesh.core.values import MAX_SAFE_INTEGER
from mesh.errors import InvalidDocument

MAX_STRUCTS = 500_000
"""Items in one update."""

MAX_UNLIKE_STRUCTS = 100_000
"""Items in one update that are not in a run of overwritten values; such runs are skipped quickly."""

EASILY_READ = 512
"""Items up to which it is told here, and not by the library, which values stand."""

MAX_NESTING = 32
"""Lists and objects within each other, in one value."""

MAX_CLOCK = 2**29
MAX_CLIENT = 2**53

GC, DELETED, STRING, EMBED, FORMAT, TYPE, ANY = 0, 1, 4, 5, 6, 7, 8
"""Kinds of content."""

_LEFT, _RIGHT, _KEY = 0x80, 0x40, 0x20
_CONSTANTS = {126: None, 121: False, 120: True}
_FLOATS = {124: struct.Struct(">f"), 123: struct.Struct(">d")}
_MORE, _FIRST_BITS = 0x80, 6
"""An integer begins with whether there is more of it, its sign and so many bits; the rest is a number."""

_UNDEFINED, _INTEGER, _TEXT, _OBJECT, _LIST = 127, 125, 119, 118, 117
_TYPES = 3
"""Arrays, maps and texts are the types 0, 1 and 2."""

_NUMBER = rb"(?:[\x00-\x7f]|[\x80-\xff]{1,7}[\x01-\x7f])"
_AFTER = rb"[\x81\xa1]" + _NUMBER + _NUMBER
_OVERWRITTEN = _AFTER + rb"[\x01-\x7f]"
_RUNS = [(many, re.compile(rb"(?:" + _OVERWRITTEN + rb"){%d}" % many, re.DOTALL)) for many in (64, 8)]
_lengths = re.compile(_AFTER + rb"([\x01-\x7f])", re.DOTALL)

_MAX_NUMBER_BYTES = 9  # after the first one
_long_number = re.compile(rb"[\x80-\xff]{0,8}[\x00-\x7f]", re.DOTALL)

Id = tuple[int, int]
"""Client and clock of one element of an item."""


class Item(NamedTuple):
    """One item of an update.

    Attributes:
        detail: the text of a string, or which type a nested one is.
        at, until: where it is in the bytes of the update.
    """

    client: int
    clock: int
    length: int
    kind: int
    left: Id | None = None
    right: Id | None = None
    parent: str | Id | None = None
    key: str | None = None
    detail: Any = None
    at: int = 0
    until: int = 0

    @property
    def end(self) -> int:
        return self.clock + self.length


class Reader:
    """Reads one update.

    Args:
        data: the update.
        root: the name of the root map that holds the fields.
        items: filled with every item.
        chains: whether it matters what was overwritten by what, and not only what stands.

    Attributes:
        chains: as given.
        ranges: the clocks, from and up to, of the items by client.
        deletions: (client, from, up to) of what is said to be deleted.
        values: the element that holds a value -> the value.
        above: the last element of an item -> its key, or what is left of it.
        plain: whether the registers are all there is to it.
        known: whether the values are surely those that the library reads.
        finite: whether every number is one.
        rich: whether there is anything that belongs to a collaborative root.
        structs: how many items there are.
        listed: whether an item has several values or stands before another, as in a list.
    """

    def __init__(
        self, data: bytes, root: bytes, items: list[Item] | None = None, *, chains: bool = False
    ) -> None:
        self._data = data
        self._first = bytes((_KEY | ANY, 1, len(root))) + root
        self._root = root.decode()
        self._at = 0
        self._items = items
        self.chains = chains
        self.ranges: dict[int, tuple[int, int]] = {}
        self.deletions: list[tuple[int, int, int]] = []
        self.values: dict[Id, Any] = {}
        self.above: dict[Id, str | Id] = {}
        self.plain = True
        self.known = True
        self.finite = True
        self.rich = False
        self.structs = 0
        self.listed = False

    def read(self) -> None:
        """Read the whole update.

        Raises:
            InvalidDocument: it is malformed, or holds what no document of the mesh does.
            IndexError, struct.error, UnicodeDecodeError: it is malformed.
        """
        unlike = 0
        for _ in range(self._times()):
            count, client, start = self._number(), self._client(), self._number()
            self.structs += count
            if self.structs > MAX_STRUCTS:
                raise InvalidDocument(f"more than {MAX_STRUCTS} items in an update")
            if client in self.ranges or not count:
                raise InvalidDocument("a malformed update: a client occurs twice, or with nothing")
            clock = start
            while count:
                skipped, clocks = self._skip(count, client, clock)
                if not skipped:
                    skipped, clocks = 1, self._item(client, clock)
                    unlike += self._items is None  # who asks for all has them skipped before
                count -= skipped
                clock += clocks
                if clock > MAX_CLOCK or unlike > MAX_UNLIKE_STRUCTS:
                    raise InvalidDocument("a malformed update: a clock or its structure is out of bounds")
            self.plain = self.plain and not start
            self.ranges[client] = (start, clock)
        deleting = self._times()
        if len({self._read_deletions() for _ in range(deleting)}) != deleting:
            raise InvalidDocument("a malformed update: a client occurs twice among the deletions")
        if self._at != len(self._data):
            raise InvalidDocument("a malformed update: something follows it")

    def clocks(self) -> dict[int, int]:
        """Read a state vector instead."""
        count = self._times()
        found = {self._client(): self._number() for _ in range(count)}
        if len(found) != count or self._at != len(self._data) or max(found.values(), default=0) > MAX_CLOCK:
            raise InvalidDocument("something is out of bounds, twice there or behind it")
        return found

    # --- items ------------------------------------------------------------------------------------

    def _skip(self, count: int, client: int, clock: int) -> tuple[int, int]:
        """Read some of ``count`` items, of the two most common sorts; how many, and their clocks."""
        if self._items is not None:
            return 0, 0
        info = self._data[self._at]
        if info == _KEY | ANY:
            read = self._first_registers(count, client, clock)
            return read, read
        if info & 0x1F == DELETED and not (self.chains and self.structs <= EASILY_READ):
            for many, run in _RUNS:
                if count > many and (found := run.match(self._data, self._at)) is not None:
                    self._at = found.end()
                    self.plain = self.known = False
                    return many, sum(map(ord, _lengths.findall(self._data, found.start(), found.end())))
        return 0, 0

    def _first_registers(self, count: int, client: int, clock: int) -> int:
        """Read the registers that follow here and were written for the first time; how many there are."""
        data, at, first, above, values = self._data, self._at, self._first, self.above, self.values
        length = len(first) + 1
        for read in range(count):
            start = at + length
            if not data.startswith(first, at):
                break
            end = start + data[start - 1]
            if end - start >= 0x80 or data[end] != 1:
                break
            last = (client, clock + read)
            above[last] = data[start:end].decode()
            if data[end + 1] == _TEXT and data[end + 2] < 0x80:
                start = end + 3
                at = start + data[end + 2]
                values[last] = data[start:at].decode()
            else:
                self._at = end + 1
                values[last] = self._value(0)
                at = self._at
        else:
            read = count
        self._at = at
        return read

    def _item(self, client: int, clock: int) -> int:
        """Read one item; how many clocks it takes."""
        at = self._at
        info = self._byte()
        kind = info & 0x1F
        if info == GC:
            self.plain = self.known = False
            length = self._length()
            if self._items is not None:
                self._items.append(Item(client, clock, length, GC, at=at, until=self._at))
            return length
        left = right = parent = key = None
        if info & _LEFT:
            left = (self._client(), self._number())
        if info & _RIGHT:
            right = (self._client(), self._number())
            self.known, self.listed = False, True
        if left is None and right is None:
            parent = self._parent_of_item()
            key = self._text() if info & _KEY else None
            if parent != self._root:
                self.rich = True
            elif key is None or kind not in (DELETED, ANY):
                raise InvalidDocument("an item of the root map that is not a field with a JSON value")
        else:
            self.plain = False
        detail = None
        if kind == DELETED:
            length = self._length()
            self.plain = False
        elif kind == ANY:
            length = self._length()
            if length > 1:
                self.known, self.listed = False, True
            for _ in range(length):
                value = self._value(0)
            self.values[client, clock + length - 1] = value
        else:
            self.rich = True
            length, detail = self._rich_content(kind)
        last = (client, clock + length - 1)
        if key is not None:
            self.above[last] = key
        elif left is not None:
            self.above[last] = left
        if self._items is not None:
            self._items.append(
                Item(client, clock, length, kind, left, right, parent, key, detail, at, self._at)
            )
        return length

    def _parent_of_item(self) -> str | Id:
        named = self._byte()
        if named == 1:
            return self._text()
        if named:
            raise InvalidDocument("a malformed update: an item in nothing")
        return (self._client(), self._number())

    def _rich_content(self, kind: int) -> tuple[int, Any]:
        """The length of an item's content, and the detail that matters."""
        if kind == STRING:
            text = self._text()
            length = len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
            if not length:
                raise InvalidDocument("a malformed update: an item of no length")
            return length, text
        if kind == EMBED:
            self._json()
            return 1, None
        if kind == FORMAT:
            self._text()
            self._json()
            return 1, None
        if kind == TYPE and (which := self._number()) < _TYPES:
            return 1, which
        raise InvalidDocument(f"an item of kind {kind}, which no document of the mesh holds")

    def _json(self) -> None:
        text = self._text()
        depth = deepest = 0
        for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
            depth += (bracket in "[{") - (bracket in "]}")
            deepest = max(deepest, depth)
        if deepest > MAX_NESTING:
            raise InvalidDocument(f"values nested more than {MAX_NESTING} levels deep")
        try:
            msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            raise InvalidDocument("a malformed update: an attribute or embed that is not JSON") from None

    def _read_deletions(self) -> int:
        """Read what is deleted of one client; whose."""
        self.plain = False
        client = self._client()
        for _ in range(self._times()):
            start = self._number()
            end = start + self._length()
            if end > MAX_CLOCK:
                raise InvalidDocument("a malformed update: a deletion is out of bounds")
            self.deletions.append((client, start, end))
        return client

    # --- values -----------------------------------------------------------------------------------

    def _value(self, depth: int) -> Any:
        kind = self._byte()
        if kind == _TEXT:
            return self._text()
        if kind in _FLOATS:
            layout = _FLOATS[kind]
            (number,) = layout.unpack_from(self._data, self._at)
            self._at += layout.size
            if not math.isfinite(number):
                self.known = self.finite = False
            elif number.is_integer() and abs(number) <= MAX_SAFE_INTEGER:
                return int(number)
            return number
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if depth >= MAX_NESTING:
            raise InvalidDocument(f"values nested more than {MAX_NESTING} levels deep")
        if kind == _LIST:
            return [self._value(depth + 1) for _ in range(self._times())]
        if kind == _OBJECT:
            found = {self._text(): self._value(depth + 1) for _ in range(self._times())}
            return dict(sorted(found.items()))
        if kind == _INTEGER:
            self.known = False
            if self._byte() & _MORE and not 0 < self._number() <= MAX_SAFE_INTEGER >> _FIRST_BITS:
                raise InvalidDocument("a malformed update: an integer is out of bounds")
            return None
        if kind == _UNDEFINED:
            self.known = False
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
        found = _long_number.match(self._data, self._at)
        if found is None:
            if len(self._data) - self._at < _MAX_NUMBER_BYTES:
                raise IndexError
            raise InvalidDocument("a malformed update: a number is too long")
        self._at = found.end()
        return _long(byte, found[0])

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

    def _times(self) -> int:
        count = self._number()
        if count > len(self._data):
            raise InvalidDocument("a malformed update: it counts more than it holds")
        return count

    def _text(self) -> str:
        size = self._number()
        start = self._at
        self._at = end = start + size
        if end > len(self._data):
            raise IndexError
        return self._data[start:end].decode()


@functools.lru_cache(4096)
def _long(first: int, following: bytes) -> int:
    """The number that these bytes stand for; the same client ids come again and again."""
    if not following[-1]:
        raise InvalidDocument("a malformed update: a number is longer than it has to be")
    number = first & 0x7F
    for place, byte in enumerate(following, 1):
        number |= (byte & 0x7F) << 7 * place
    return number
