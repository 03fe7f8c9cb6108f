"""Reads the structure of a Yjs update (version 1) without the CRDT library, to refuse what would harm it.

A document of the mesh is one root map, so its updates hold items of that map with JSON values, deleted items
and collected ones, and the set of deletions; nothing else is let through. Nesting is bounded because the
library recurses on its stack, numbers because it believes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.errors import InvalidDocument

MAX_STRUCTS = 20_000
"""Items in one update."""

MAX_NESTING = 64
"""Lists and objects within each other, in one value."""

MAX_CLOCK = 2**31
MAX_CLIENT = 2**53

_GC, _DELETED, _ANY = 0, 1, 8
_LEFT, _RIGHT, _KEY = 0x80, 0x40, 0x20
_SIZES = {127: 0, 126: 0, 124: 4, 123: 8, 121: 0, 120: 0}  # undefined, null, floats, booleans
_INTEGER, _STRING, _OBJECT, _LIST = 125, 119, 118, 117


def ranges_of(update: bytes, root: bytes) -> dict[int, tuple[int, int]]:
    """The clocks, from and up to, of the items that ``update`` brings of each client.

    Args:
        update: from anywhere.
        root: the name of the only root map that items may be in.

    Raises:
        InvalidDocument: the update is malformed, or holds what no document of the mesh does.
    """
    try:
        return _Reader(update, root).ranges()
    except IndexError:
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

    def ranges(self) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        structs = 0
        for _ in self._times():
            count, client, start = self._number(), self._client(), self._number()
            structs += count
            if structs > MAX_STRUCTS:
                raise InvalidDocument(f"more than {MAX_STRUCTS} items in an update")
            if client in found:
                raise InvalidDocument("a malformed update: a client occurs twice")
            clock = start
            for _ in range(count):
                clock += self._item()
                if clock > MAX_CLOCK:
                    raise InvalidDocument("a malformed update: a clock is out of bounds")
            found[client] = (start, clock)
        for _ in self._times():  # deletions
            self._client()
            for _ in self._times():
                if self._number() + self._number() > MAX_CLOCK:
                    raise InvalidDocument("a malformed update: a deletion is out of bounds")
        if self._at != len(self._data):
            raise InvalidDocument("a malformed update: something follows it")
        return found

    def clocks(self) -> dict[int, int]:
        found = {self._client(): self._number() for _ in self._times()}
        if self._at != len(self._data) or max(found.values(), default=0) > MAX_CLOCK:
            raise InvalidDocument("a malformed state vector")
        return found

    def _item(self) -> int:
        """Skip one item; how many clocks it takes."""
        info = self._byte()
        content = info & 0x1F
        if content == _GC:
            return self._length()
        if info & (_LEFT | _RIGHT):
            for flag in (_LEFT, _RIGHT):
                if info & flag:
                    self._client()
                    self._number()
        elif info & _KEY and self._data.startswith(self._parent, self._at):
            self._at += len(self._parent)
            self._text()
        else:
            raise InvalidDocument("an item outside of the document's root map")
        if content == _DELETED:
            return self._length()
        if content != _ANY:
            raise InvalidDocument(f"an item of kind {content}, which is not a JSON value")
        length = self._length()
        if length > 1 or not self._scalar(self._byte()):
            self._at -= length == 1
            self._values(length)
        return length

    def _scalar(self, kind: int) -> bool:
        """Skip a scalar value; false if it is none."""
        if kind == _STRING:
            self._text()
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _INTEGER:
            while self._byte() & 0x80:
                pass
        else:
            return False
        return True

    def _values(self, count: int) -> None:
        """Skip JSON values, however they nest, without recursion."""
        open_ones = [(count, False)]  # values to come, whether they have keys
        while open_ones:
            left, keyed = open_ones.pop()
            if not left:
                continue
            open_ones.append((left - 1, keyed))
            if keyed:
                self._text()
            kind = self._byte()
            if kind in (_OBJECT, _LIST):
                open_ones.append((self._number(), kind == _OBJECT))
                if len(open_ones) > MAX_NESTING:
                    raise InvalidDocument(f"values nested more than {MAX_NESTING} levels deep")
            elif not self._scalar(kind):
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

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise IndexError

    def _text(self) -> None:
        size = self._number()
        self._at += size
        if self._at > len(self._data):
            raise IndexError
