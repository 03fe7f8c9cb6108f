"""Chunks of a blob: their hashes, which of them are held, and how one travels.

A blob is cut into chunks of ``CHUNK_BYTES``. The concatenated 32-byte BLAKE3 hashes of its chunks are its
*chunk list*; the token's ``chunks_hash`` is the BLAKE3 of that list. So a list is verified against the token
and every chunk against the list, before anything is written.

On a bulk connection a chunk is one message, or several that follow each other in its order: a 16-byte head,
then bytes. The head is, in network order,

    u8   kind: ``CHUNK_KIND``, distinct from the kinds of wire frames
    u24  where in the chunk the bytes begin
    u32  the number that the downloader gave the blob on this connection (``ChunkGet.blob``)
    u32  index of the chunk
    u32  how many bytes there are
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blake3 import blake3

from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.errors import InvalidToken, ProtocolViolation

Buffer = bytes | bytearray | memoryview

HASH_BYTES = 32
CHUNK_KIND = 3
CHUNK_HEAD_BYTES = 16

EMPTY_HASH = blake3(b"").hexdigest()
"""The hash, and the ``chunks_hash``, of the blob without bytes."""

_HEAD = struct.Struct("!IIII")


def chunk_length(size_bytes: int, index: int) -> int:
    """How many bytes chunk ``index`` of a blob of ``size_bytes`` has."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)


def hash_chunk(data: Buffer) -> bytes:
    """The 32-byte hash of one chunk."""
    digest: bytes = blake3(data).digest()
    return digest


def chunks_hash(hashes: Buffer) -> str:
    """The ``chunks_hash`` of a token whose blob has the chunk list ``hashes``."""
    return blake3(hashes).hexdigest()


def derived_hashes(token: BlobToken) -> bytes | None:
    """The chunk list where the token alone tells it: a blob of at most one chunk. Otherwise ``None``.

    Raises:
        InvalidToken: the hashes of the token contradict each other.
    """
    if token.chunk_count > 1:
        return None
    hashes = bytes.fromhex(token.hash) if token.chunk_count else b""
    if chunks_hash(hashes) != token.chunks_hash or (not hashes and token.hash != EMPTY_HASH):
        raise InvalidToken(f"the hash and the chunks_hash of {token.hash} contradict each other")
    return hashes


def list_matches(token: BlobToken, hashes: Buffer) -> bool:
    """Whether ``hashes`` is the chunk list that ``token`` names."""
    return len(hashes) == token.chunk_count * HASH_BYTES and chunks_hash(hashes) == token.chunks_hash


def chunk_matches(token: BlobToken, hashes: Buffer, index: int, data: Buffer) -> bool:
    """Whether ``data`` is chunk ``index`` of the blob whose verified chunk list is ``hashes``."""
    if not 0 <= index < token.chunk_count or len(data) != chunk_length(token.size_bytes, index):
        return False
    return hash_chunk(data) == hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def pack_head(into: bytearray | memoryview, blob: int, index: int, length: int, offset: int = 0) -> None:
    """Write the head of a chunk message into the first 16 bytes of ``into``."""
    _HEAD.pack_into(into, 0, CHUNK_KIND << 24 | offset, blob, index, length)


def unpack_head(message: Buffer) -> tuple[int, int, int]:
    """(blob number, index, offset in the chunk) of a chunk message.

    Raises:
        ProtocolViolation: it is not a chunk message, or its length is not what its head says.
    """
    if len(message) < CHUNK_HEAD_BYTES:
        raise ProtocolViolation(f"a chunk message of {len(message)} bytes")
    kind, blob, index, length = _HEAD.unpack_from(message)
    kind, offset = kind >> 24, kind & 0xFFFFFF
    if (
        kind != CHUNK_KIND
        or length != len(message) - CHUNK_HEAD_BYTES
        or not 0 < length <= CHUNK_BYTES - offset
    ):
        raise ProtocolViolation(
            f"a malformed chunk message (kind {kind}, length {length} of {len(message)}, offset {offset})"
        )
    return blob, index, offset


class ChunkMap:
    """Which of ``count`` chunks are held: a bit each, lowest bit of the first byte first.

    Takes ``count`` / 8 bytes whatever it holds; ``len()`` is the number of chunks held.
    """

    __slots__ = ("_bits", "_held", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._bits = bytearray(-(-count // 8))
        self._held = 0

    @classmethod
    def from_bytes(cls, count: int, data: Buffer) -> ChunkMap:
        """The map that ``to_bytes()`` gave ``data``; shorter data is filled up with chunks not held.

        Raises:
            ProtocolViolation: ``data`` speaks of chunks that the blob does not have.
        """
        map_ = cls(count)
        if len(data) > len(map_._bits) or (count % 8 and len(data) * 8 > count and data[-1] >> count % 8):
            raise ProtocolViolation(f"a chunk map of {len(data)} bytes for a blob of {count} chunks")
        map_._bits[: len(data)] = data
        map_._held = int.from_bytes(data, "little").bit_count()
        return map_

    def to_bytes(self) -> bytes:
        """The bits, without zero bytes at the end."""
        return bytes(self._bits).rstrip(b"\0")

    def add(self, index: int) -> bool:
        """Hold chunk ``index``; whether it was not held before."""
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of a blob of {self.count} chunks")
        byte, bit = index >> 3, 1 << (index & 7)
        if self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        self._held += 1
        return True

    def remove(self, index: int) -> bool:
        """No longer hold chunk ``index``; whether it was held."""
        if index not in self:
            return False
        self._bits[index >> 3] &= ~(1 << (index & 7))
        self._held -= 1
        return True

    def union(self, other: ChunkMap) -> ChunkMap:
        """What either holds."""
        both = int.from_bytes(self._bits, "little") | int.from_bytes(other._bits, "little")
        return ChunkMap.from_bytes(self.count, both.to_bytes(len(self._bits), "little"))

    def new_in(self, other: ChunkMap) -> list[int]:
        """The chunks that ``other`` holds and this one does not."""
        return [
            (byte << 3) + bit
            for byte, (mine, theirs) in enumerate(zip(self._bits, other._bits, strict=True))
            if theirs & ~mine
            for bit in range(8)
            if (theirs & ~mine) >> bit & 1
        ]

    def missing(self) -> Iterator[int]:
        """The chunks not held, in order."""
        for index in range(self.count):
            if not self._bits[index >> 3] >> (index & 7) & 1:
                yield index

    def __iter__(self) -> Iterator[int]:
        """The chunks held, in order."""
        for index in range(self.count):
            if self._bits[index >> 3] >> (index & 7) & 1:
                yield index

    @property
    def complete(self) -> bool:
        """Whether every chunk is held."""
        return self._held == self.count

    def copy(self) -> ChunkMap:
        """Another map of the same chunks."""
        return ChunkMap.from_bytes(self.count, self._bits)

    def __contains__(self, index: object) -> bool:
        return (
            type(index) is int and 0 <= index < self.count and bool(self._bits[index >> 3] >> (index & 7) & 1)
        )

    def __len__(self) -> int:
        return self._held

    def __bool__(self) -> bool:
        return self._held > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkMap) and (self.count, self._bits) == (other.count, other._bits)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ChunkMap({self._held} of {self.count})"
