"""Chunks asked for piece by piece: where nobody can dial, and until a holder has shown how fast it is.

A whole chunk on its way over a slow connection would hold up whatever shares it for minutes, and look like
silence. So no more is under way than arrives within about two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.core.chunks import Buffer
from mesh.core.tokens import CHUNK_BYTES

Key = tuple[bytes, int]
"""(hash, index) of a chunk."""

START_BYTES = 32 * 1024
MIN_BYTES = 4 * 1024
MAX_BYTES = 256 * 1024
"""What is under way at once."""

QUICK_SECONDS = 1.5
SLOW_SECONDS = 3.0
"""A piece that came sooner lets more be asked for; one that took longer, less."""


QUICK_RATE = 175_000.0
QUICK_BYTES = 64 * 1024
"""A holder is quick once so many bytes that were under way together came at so many bytes a second: then a
chunk takes a few seconds."""

SLOW_CHUNK_SECONDS = 15.0
"""A holder that was quick is not any more once a whole chunk took so long: that looks like silence."""


class Piece(NamedTuple):
    """A part of a chunk."""

    key: Key
    offset: int
    length: int


class _Asked(NamedTuple):
    length: int
    at: float
    together: int  # bytes under way then, with it


@dataclass(slots=True)
class _Chunk:
    buffer: bytearray
    asked: int = 0
    under_way: set[int] = field(default_factory=set)  # offsets


class Pieces:
    """What was asked for in pieces, in that order, and what came of it. Times are arguments.

    Attributes:
        quick: whether the holder has shown that whole chunks may be asked of it.
    """

    def __init__(self) -> None:
        self.quick = False
        self._lengths: dict[Key, int] = {}  # chunks not begun
        self._chunks: dict[Key, _Chunk] = {}
        self._under_way: dict[tuple[Key, int], _Asked] = {}  # by (key, offset)
        self._room = START_BYTES
        self._bytes = 0
        self._narrowed = float("-inf")
        self._whole_since: float | None = None  # while whole chunks are waited for: when the last one came

    def add(self, key: Key, length: int) -> None:
        """A chunk of ``length`` bytes is wanted."""
        if key not in self._chunks:
            self._lengths[key] = length

    def drop(self, key: Key) -> None:
        """A chunk is not wanted any more, or does not come."""
        self._lengths.pop(key, None)
        chunk = self._chunks.pop(key, None)
        for offset in chunk.under_way if chunk is not None else ():
            self._bytes -= self._under_way.pop((key, offset)).length

    def go_on(self, key: Key, data: Buffer) -> None:
        """``data`` is not all there is of a chunk: ask for as much as there can be."""
        self._chunks[key] = _Chunk(bytearray(data).ljust(CHUNK_BYTES, b"\0"), len(data))

    def take_unbegun(self) -> list[Key]:
        """The chunks of which nothing was asked for yet: they are no longer wanted here."""
        keys = list(self._lengths)
        self._lengths.clear()
        return keys

    def next(self, now: float) -> Piece | None:
        """What to ask for now, if there is room for more."""
        size = max(MIN_BYTES, self._room // 4)
        if self._bytes and self._bytes + size > self._room:
            return None
        key = next((key for key, chunk in self._chunks.items() if chunk.asked < len(chunk.buffer)), None)
        if key is None:
            key = next(iter(self._lengths), None)
            if key is None:
                return None
            self._chunks[key] = _Chunk(bytearray(self._lengths.pop(key)))
        chunk = self._chunks[key]
        piece = Piece(key, chunk.asked, min(size, len(chunk.buffer) - chunk.asked))
        chunk.asked += piece.length
        chunk.under_way.add(piece.offset)
        self._bytes += piece.length
        self._under_way[key, piece.offset] = _Asked(piece.length, now, self._bytes)
        return piece

    def came(self, key: Key, offset: int, data: Buffer, now: float) -> tuple[bool, bytearray | None]:
        """(whether it was asked for and is as long as that, the chunk if this was the last of it)."""
        asked = self._under_way.get((key, offset))
        if asked is None or len(data) != asked.length:
            return False, None
        del self._under_way[key, offset]
        self._bytes -= asked.length
        self._pace(asked, now)
        chunk = self._chunks[key]
        chunk.under_way.discard(offset)
        chunk.buffer[offset : offset + asked.length] = data
        if chunk.under_way or chunk.asked < len(chunk.buffer):
            return True, None
        return True, self._chunks.pop(key).buffer

    def so_far(self, key: Key, offset: int, data: Buffer) -> Buffer:
        """What has come of a chunk whose piece at ``offset`` is ``data``; nothing if an earlier has not."""
        chunk = self._chunks[key]
        return chunk.buffer[:offset] + data if offset == min(chunk.under_way) else b""

    def whole_asked(self, now: float) -> None:
        """A whole chunk was asked for."""
        if self._whole_since is None:
            self._whole_since = now

    def whole_came(self, now: float, *, last: bool) -> bool:
        """A whole chunk came; ``last``: no other is waited for. Whether it shows that the holder has become
        slow: then it is asked for pieces again, a few at first."""
        since, self._whole_since = self._whole_since, None if last else now
        if since is None or now < since + SLOW_CHUNK_SECONDS or not self.quick:
            return False
        self.quick, self._room = False, START_BYTES
        return True

    def asked(self, key: Key, offset: int) -> bool:
        """Whether a piece is under way."""
        return (key, offset) in self._under_way

    def _pace(self, asked: _Asked, now: float) -> None:
        took = now - asked.at
        if asked.together >= QUICK_BYTES and asked.together >= QUICK_RATE * took:
            self.quick = True
        if took < QUICK_SECONDS:
            self._room = min(MAX_BYTES, self._room + asked.length)
        elif took > SLOW_SECONDS and asked.at >= self._narrowed:
            self._room, self._narrowed = max(MIN_BYTES, self._room // 2), now
