"""A whole blob as a file to read, verified on the way."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable

from mesh.core.chunks import Buffer, chunk_length, chunk_matches
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.errors import BlobCorrupt

_BUFFER_BYTES = 64 * 1024

Damaged = Callable[[], BlobCorrupt]
"""Called when a chunk is not that of the list; gives what to raise."""


def read_at(fd: int, buffer: memoryview, offset: int) -> memoryview:
    """What there is at ``offset`` of a file, read into ``buffer``: nothing where the disk cannot read it,
    which is how many a disk tells that it has lost something."""
    try:
        return buffer[: os.preadv(fd, [buffer], offset)]
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return buffer[:0]


def verified_file(fd: int, token: BlobToken, hashes: bytes, damaged: Damaged) -> io.BufferedReader:
    """The content of the open file ``fd``, which is closed with it."""
    return io.BufferedReader(_Chunks(fd, token, hashes, damaged), _BUFFER_BYTES)


class _Chunks(io.RawIOBase):
    """Holds one chunk. Has no ``fileno()``: what reads from that would get what was not verified."""

    def __init__(self, fd: int, token: BlobToken, hashes: bytes, damaged: Damaged) -> None:
        self._fd = fd
        self._token = token
        self._hashes = hashes
        self._damaged = damaged
        self._position = 0
        self._index = -1  # of the chunk that is held
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._token.size_bytes}
        position = starts[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: Buffer, /) -> int:  # type: ignore[override]
        self._check_open()
        index, start = divmod(self._position, CHUNK_BYTES)
        if self._position >= self._token.size_bytes:
            return 0
        if index != self._index:
            self._load(index)
        view = memoryview(buffer).cast("B")
        part = self._chunk[start : start + len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def readall(self) -> bytes:
        data = io.BytesIO()  # gives what is in it without another copy
        while piece := self.read(CHUNK_BYTES):
            data.write(piece)
        return data.getvalue()

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()

    def _load(self, index: int) -> None:
        chunk = memoryview(bytearray(chunk_length(self._token.size_bytes, index)))
        if not chunk_matches(self._token, self._hashes, index, read_at(self._fd, chunk, index * CHUNK_BYTES)):
            raise self._damaged()
        self._index, self._chunk = index, chunk

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
