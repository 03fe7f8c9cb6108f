"""Chunks that come over a bulk connection in several messages, put together again."""

from __future__ import annotations

from mesh.core.chunks import Buffer

Key = tuple[bytes, int]
"""(hash, index) of a chunk."""


class Parts:
    """What has come of chunks so far."""

    def __init__(self) -> None:
        self._chunks: dict[Key, tuple[bytearray, int]] = {}  # bytes, where the next part begins

    def join(self, key: Key, offset: int, data: Buffer, length: int) -> tuple[bool, bytearray | None]:
        """Put a part of a chunk that should have ``length`` bytes to those before it.

        Returns:
            Whether it follows them (if not, it is of a request that was cancelled before the chunk was asked
            for again), and the chunk once it is whole.
        """
        buffer, so_far = self._chunks.get(key, (None, 0)) if offset else (None, 0)
        end = offset + len(data)
        if offset != so_far:
            return False, None
        buffer = buffer or bytearray(length)
        buffer[offset:end] = data
        if end != length:
            self._chunks[key] = (buffer, end)
            return True, None
        self._chunks.pop(key, None)
        return True, buffer

    def so_far(self, key: Key) -> Buffer:
        """What has come of a chunk that is not whole."""
        buffer, end = self._chunks[key]
        return memoryview(buffer)[:end]

    def drop(self, key: Key) -> None:
        """A chunk is not wanted any more, or does not come."""
        self._chunks.pop(key, None)

    def clear(self) -> None:
        """None comes."""
        self._chunks.clear()
