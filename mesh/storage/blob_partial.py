"""A blob on its way into a folder: chunks written where they belong, verified before and after."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from mesh.core.chunks import Buffer, ChunkMap, chunk_length, chunk_matches, list_matches
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.errors import InvalidToken, StorageFull
from mesh.storage.blob_reading import read_at
from mesh.storage.blob_sources import check_room, write_all, writing
from mesh.storage.blob_strays import is_file, remove
from mesh.storage.blobs import CorruptChunk
from mesh.storage.worker import Worker, run_surely
from mesh.storage.write_back import WriteBack, make_durable

if TYPE_CHECKING:
    from mesh.storage.blob_layout import BlobFolder

_CHUNKS_PER_JOB = 8
"""Chunks read back in one job of the worker: others wait for a few milliseconds at most."""


class PartialFile:
    """See :class:`~mesh.storage.blobs.PartialBlob`.

    Which chunks are held is known in memory only and never written down. After a restart those are held that
    have no hole in the file, so that the others can be asked for at once. They were verified before they were
    written, but nothing is synced per chunk: what a power cut left half written is found when such a chunk is
    served, or by the hash of the whole at the end.

    What is written goes to the disk at once nevertheless, for the sake of what else is on it.
    """

    def __init__(self, folder: BlobFolder, worker: Worker, token: BlobToken) -> None:
        self.token = token
        self.hashes: bytes | None = None
        self.held = ChunkMap(token.chunk_count)
        self._found = ChunkMap(token.chunk_count)  # of those, what an earlier attempt left
        self.cached = False
        self._folder = folder
        self._worker = worker
        self._fd: int | None = None
        self._write_back = WriteBack()
        self._whole = blake3()  # the first _followed chunks
        self._followed = 0

    # --- the port, on the event loop ----------------------------------------------------------------

    async def set_hashes(self, hashes: bytes) -> None:
        """See the port."""
        if not list_matches(self.token, hashes):
            raise CorruptChunk(self.token.hash, None)
        await self._worker.run(self._folder.partials.save_list, self.token, hashes)
        await self._worker.run(self.find, hashes)

    async def write(self, index: int, data: Buffer) -> None:
        """See the port."""
        await self._worker.run(self._write, index, data)

    async def finish(self) -> list[int]:
        """See the port."""
        while not await self._worker.run(self._follow):
            pass
        if await self._worker.run(self._finish):
            return []
        self._look_again()
        damaged: list[int] = []
        for index in range(0, self.token.chunk_count, _CHUNKS_PER_JOB):
            damaged += await self._worker.run(self._damaged, index)
        if damaged:
            self._look_again()
            return damaged
        if await self._worker.run(self._finish):  # it was not read as it is before
            return []
        await self._worker.run(self._drop)
        raise InvalidToken(
            f"every chunk is as the token of {self.token.hash} says, and the whole is not: "
            "whoever made the token must make it again"
        )

    async def close(self) -> None:
        """See the port."""
        await run_surely(self._worker, self.release)

    # --- jobs, on the worker -------------------------------------------------------------------------

    def acquire(self) -> None:
        """Open the file, with its full length and no bytes that take room.

        Raises:
            StorageFull: what is missing of the blob would not fit.
        """
        path = self._folder.partials.path(self.token.hash)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(path.parent, self.token.size_bytes):
            self._folder.make_folders()
            if not is_file(path):
                remove(path)
            fd = os.open(path, flags, 0o600)
            try:
                os.ftruncate(fd, self.token.size_bytes)
                taken = os.fstat(fd).st_blocks * 512
                check_room(path.parent, max(0, self.token.size_bytes - taken))
            except BaseException:
                if not os.fstat(fd).st_blocks:
                    path.unlink()
                os.close(fd)
                raise
        self._fd = fd

    def release(self) -> None:
        """Close the file. May be repeated."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            self._folder.partials.closed(self)

    def read_into(self, view: memoryview, index: int) -> bool:
        """Read chunk ``index`` into ``view``; ``False`` if it is not held."""
        if self._fd is None or index not in self.held:
            return False
        data = read_at(self._fd, view, index * CHUNK_BYTES)
        if index in self._found or len(data) != len(view):
            assert self.hashes is not None
            if not chunk_matches(self.token, self.hashes, index, data):
                self.held.remove(index)
                if index < self._followed:
                    self._whole, self._followed = blake3(), 0
                return False
            self._found.remove(index)
        return True

    def find(self, hashes: bytes) -> None:
        """Take the verified chunk list, and hold the chunks that are in the file."""
        self.hashes = hashes
        if self._fd is None:
            return  # it was closed meanwhile
        size = self.token.size_bytes
        position = 0
        while position < size:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole from here on
                return
            position = os.lseek(self._fd, start, os.SEEK_HOLE)
            end = self.token.chunk_count if position >= size else position // CHUNK_BYTES
            for index in range(-(-start // CHUNK_BYTES), end):
                self.held.add(index)
                self._found.add(index)

    def _write(self, index: int, data: Buffer) -> None:
        if index in self.held or self._fd is None:
            return
        if self.hashes is None or not chunk_matches(self.token, self.hashes, index, data):
            raise CorruptChunk(self.token.hash, index)
        with writing(self._folder.partials.folder, len(data)):
            check_room(self._folder.partials.folder, len(data))
            write_all(self._fd, data, index * CHUNK_BYTES)
        self.held.add(index)
        if index == self._followed:
            self._whole.update(data)
            self._followed += 1
        elif self._followed in self.held:
            self._follow()
        self._to_disk(self._write_back.wrote, index * CHUNK_BYTES, len(data))

    def _to_disk(self, step: Callable[..., None], *args: int) -> None:
        assert self._fd is not None
        try:
            with writing(self._folder.partials.folder, self.token.size_bytes):
                step(self._fd, *args)
        except StorageFull:  # which bytes are on the disk, nobody can tell any more
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.token.size_bytes)
            self.held = ChunkMap(self.token.chunk_count)
            self._look_again()
            raise

    def _look_again(self) -> None:
        """What is held was verified since it was opened, and the whole is to be hashed from its start."""
        self._found = ChunkMap(self.token.chunk_count)
        self._whole, self._followed = blake3(), 0

    def _each_chunk(self, index: int, limit: int, see: Callable[[int, memoryview], bool]) -> int:
        """Show up to ``limit`` chunks from ``index`` on to ``see`` until it says no; the next index."""
        assert self._fd is not None
        buffer = memoryview(bytearray(min(CHUNK_BYTES, self.token.size_bytes)))
        for index in range(index, min(index + limit, self.token.chunk_count)):  # noqa: B020
            view = buffer[: chunk_length(self.token.size_bytes, index)]
            if not see(index, read_at(self._fd, view, index * CHUNK_BYTES)):
                return index
        return index + 1

    def _follow(self) -> bool:
        """Hash what has become contiguous, a few chunks at a time; whether nothing is left to do."""

        def see(index: int, view: memoryview) -> bool:
            if index not in self.held:
                return False
            self._whole.update(view)
            self._followed = index + 1
            return True

        if self._followed in self.held:
            self._each_chunk(self._followed, _CHUNKS_PER_JOB, see)
        return self._followed not in self.held

    def _finish(self) -> bool:
        assert self.hashes is not None
        self._to_disk(make_durable)
        if self._whole.hexdigest() != self.token.hash:
            return False
        partial = self._folder.partials.path(self.token.hash)
        self._folder.publish(partial, self.token, self.hashes, cached=self.cached)
        self._drop()
        return True

    def _drop(self) -> None:
        self.release()
        self._folder.partials.remove(self.token.hash)

    def _damaged(self, index: int) -> list[int]:
        """Which of a few chunks from ``index`` on are not those of the list: they are no longer held. The
        others are hashed again."""
        assert self.hashes is not None
        hashes = self.hashes
        damaged: list[int] = []

        def see(index: int, view: memoryview) -> bool:
            if not chunk_matches(self.token, hashes, index, view):
                damaged.append(index)
                self.held.remove(index)
            self._whole.update(view)
            return True

        self._each_chunk(index, _CHUNKS_PER_JOB, see)
        return damaged


def extent(path: Path) -> tuple[int, int] | None:
    """What the file of a partial blob takes of its length, which is about what is held; and its length."""
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return min(status.st_blocks * 512, status.st_size), status.st_size
