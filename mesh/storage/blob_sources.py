"""Reading what is to be added as a blob, and hashing it on the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from mesh.core.chunks import Buffer, chunks_hash
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import (
    DataDirUnusable,
    SourceChanged,
    SourceNotAFile,
    SourceNotFound,
    SourceUnreadable,
    StorageFull,
)
from mesh.storage.blobs import Source
from mesh.storage.worker import Worker, run_surely

_MAX_RESERVE = 1 << 30

_CALL_BYTES = 128 << 10
"""Bytes that are written by one call: many kernels let nothing else on the processor before it returns, and
fresh memory for a megabyte of file can take several milliseconds."""

WRITE_BACK_BYTES = 4 << 20
"""So much of a growing file may be on its way to the disk: whoever syncs another file of the same disk, as
every commit of a document does, waits for it."""


class Intake:
    """Hashes bytes as they pass: the whole and every chunk, in constant memory but for the chunk list."""

    def __init__(self) -> None:
        self.size = 0
        self._whole = blake3()
        self._chunk = blake3()
        self._hashes = bytearray()

    def update(self, data: Buffer) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while len(view):
            room = CHUNK_BYTES - self.size % CHUNK_BYTES
            piece, view = view[:room], view[room:]
            self._whole.update(piece)
            self._chunk.update(piece)
            self.size += len(piece)
            if self.size % CHUNK_BYTES == 0:
                self._end_chunk()

    def finish(self, metadata: BlobMetadata) -> tuple[BlobToken, bytes]:
        """The token of everything that passed, and its chunk list."""
        if self.size % CHUNK_BYTES:
            self._end_chunk()
        hashes = bytes(self._hashes)
        return BlobToken(self._whole.hexdigest(), self.size, chunks_hash(hashes), metadata), hashes

    def _end_chunk(self) -> None:
        self._hashes += self._chunk.digest()
        self._chunk = blake3()


async def pieces_of(source: Source, worker: Worker) -> AsyncGenerator[Buffer, None]:
    """The bytes of ``source``, at most 1 MiB at a time; a piece is valid until the next is asked for.

    Raises:
        SourceError: it cannot be read, or changed meanwhile.
        TypeError: it is neither bytes, a path nor an async iterable of bytes.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        for piece in _slices(source):
            yield piece
    elif isinstance(source, str | os.PathLike):
        file = SourceFile(source)
        try:
            await worker.run(file.open)
            while piece := await worker.run(file.read):
                yield piece
        finally:
            await run_surely(worker, file.close)
    elif isinstance(source, AsyncIterable):
        async for item in source:
            if not isinstance(item, bytes | bytearray | memoryview):
                raise TypeError(f"a stream to add must give bytes, not {type(item).__name__}")
            for piece in _slices(item):
                yield piece
    else:
        raise TypeError(
            f"add() takes a path, bytes or an async iterable of bytes, not {type(source).__name__}"
        )


def known_size(source: Source) -> int:
    """How many bytes ``source`` has, where that can be told before it is read; otherwise 0."""
    if isinstance(source, str | os.PathLike):
        try:
            return os.stat(source).st_size
        except (OSError, ValueError):
            return 0  # opening it says what is wrong
    return memoryview(source).nbytes if isinstance(source, bytes | bytearray | memoryview) else 0


def _slices(data: Buffer) -> Iterator[memoryview]:
    view = memoryview(data).cast("B")
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


class SourceFile:
    """A regular file that is read once, from start to end, and must not change meanwhile."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._fd = -1
        self._read = 0

    def open(self) -> None:
        """Open it; to be followed by :meth:`close`, whatever comes of it."""
        try:
            # Looked at before it is opened: opening a device can have effects of its own.
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise SourceNotAFile(self._path, _kind(os.stat(self._path).st_mode))
            # Not blocking, should it have become a FIFO in between.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceNotFound(self._path, "there is no such file") from error
        except OSError as error:
            raise SourceUnreadable(self._path, error.strerror or str(error)) from error
        except ValueError as error:  # a NUL in the path
            raise SourceNotFound(repr(self._path), str(error)) from error
        self._before = os.fstat(self._fd)
        if not stat.S_ISREG(self._before.st_mode):
            raise SourceNotAFile(self._path, _kind(self._before.st_mode))
        self._buffer = memoryview(bytearray(min(CHUNK_BYTES, self._before.st_size + 1)))

    @property
    def status(self) -> os.stat_result:
        """What was known of the file when it was opened; still true when all of it has been read."""
        return self._before

    def read(self) -> memoryview:
        """The next bytes; empty at the end."""
        try:
            count = os.readv(self._fd, [self._buffer])
        except OSError as error:
            raise SourceUnreadable(self._path, error.strerror or str(error)) from error
        self._read += count
        if not count or self._read > self._before.st_size:
            self._check_unchanged()
        return self._buffer[:count]

    def _check_unchanged(self) -> None:
        now = os.fstat(self._fd)
        if now.st_nlink == 0:
            raise SourceChanged(self._path, "it was removed while it was read: add it again")
        if self._read != self._before.st_size or now.st_size != self._before.st_size:
            raise SourceChanged(
                self._path,
                f"it had {self._before.st_size} bytes at first and then {max(now.st_size, self._read)}: "
                "add it again when nobody writes to it",
            )
        if now.st_mtime_ns != self._before.st_mtime_ns:
            raise SourceChanged(self._path, "it was written to while it was read: add it again")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return f"it is {name}; only regular files can be added"
    return "it is not a regular file"


@contextmanager
def storage_full(folder: Path, needed: int) -> Iterator[None]:
    """Turn "no space left" into :class:`StorageFull`; ``needed`` bytes were to be written to ``folder``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        disk, free = _disk(folder)
        raise StorageFull(str(folder), needed, free, capacity=disk) from error


@contextmanager
def writing(folder: Path, needed: int) -> Iterator[None]:
    """As :func:`storage_full`, in a folder of the data directory: whatever else fails makes that unusable."""
    try:
        with storage_full(folder, needed):
            yield
    except OSError as error:
        raise DataDirUnusable(str(folder), error.strerror or str(error)) from error


def check_room(folder: Path, needed: int, *, beside_documents: bool = True, beside: int = 0) -> None:
    """Refuse to write ``needed`` bytes of a blob where they do not fit, or would leave no room for documents
    on their disk.

    What stays free there is 5 % of the disk, at most 1 GiB.

    Args:
        beside: bytes that are on the disk for as long as these are wanted.

    Raises:
        StorageFull: ``needed`` in it is with what has to stay free.
    """
    disk, free = _disk(folder)
    reserve = min(disk // 20, _MAX_RESERVE) if beside_documents else 0
    if free < needed + reserve:
        raise StorageFull(str(folder), needed + reserve, free, reserve, capacity=disk - beside)


def _disk(folder: Path) -> tuple[int, int]:
    """(bytes of the disk of ``folder``, those that are free)."""
    room = os.statvfs(folder)
    return room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """Write all of ``data`` (at most 1 MiB) at ``offset``."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(fd, view[:_CALL_BYTES], offset)
        view = view[written:]
        offset += written
