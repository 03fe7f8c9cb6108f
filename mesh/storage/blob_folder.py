"""Blobs in a folder; how they lie there, :mod:`mesh.storage.blob_layout` says."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import msgspec

from mesh.core.chunks import HASH_BYTES, Buffer
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import BlobCorrupt, BlobNotFound
from mesh.storage.blob_export import export_file
from mesh.storage.blob_layout import BlobFolder
from mesh.storage.blob_links import Link
from mesh.storage.blob_partial import PartialFile, extent
from mesh.storage.blob_reading import verified_file
from mesh.storage.blob_small import Small, SmallBlobs, SmallPartial
from mesh.storage.blob_sources import (
    Intake,
    SourceFile,
    check_room,
    known_size,
    pieces_of,
    write_all,
    writing,
)
from mesh.storage.blobs import SMALL_BYTES, OnLost, PartialBlob, Source
from mesh.storage.worker import Together, Worker, run_surely
from mesh.storage.write_back import WriteBack, make_durable

_ZEROS = bytes(CHUNK_BYTES)

P = ParamSpec("P")
R = TypeVar("R")


class FolderBlobs:
    """See :class:`~mesh.storage.blobs.BlobStore`."""

    def __init__(
        self, root: str | os.PathLike[str], worker: Worker, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            worker: runs everything that blocks, and is closed with the store.
            clock: seconds since the epoch: when cached blobs were last served.
        """
        self._folder = BlobFolder(Path(root), clock)
        self._worker = worker
        self._together = Together(worker)
        self._exporting = asyncio.Lock()
        self._small = SmallBlobs(self._folder, worker)
        self._lost: OnLost = lambda error, token: None
        self._adding: dict[object, str] = {}  # by what reads or copies it
        self._dropping: set[asyncio.Task[None]] = set()

    def on_lost(self, callback: OnLost) -> None:
        """See the port."""
        self._lost = callback

    async def open(self) -> None:
        """See the port."""
        await self._worker.give_way()  # hashing takes a whole processor, and documents go first
        await self._worker.run(self._folder.load)

    async def close(self) -> None:
        """See the port."""
        for partial in list(self._folder.partials.open.values()):
            await partial.close()
        await self._small.close()
        while self._dropping:
            await asyncio.wait(self._dropping)
        await self._worker.close()

    # --- coming in -----------------------------------------------------------------------------------

    async def add(self, source: Source, metadata: BlobMetadata) -> BlobToken:
        """See the port."""
        copy = _Copy(self._folder, source)
        try:
            async with aclosing(pieces_of(source, self._worker)) as pieces:
                async for piece in pieces:
                    await self._worker.run(copy.append, piece)
            self._adding[copy] = await self._worker.run(copy.finish, metadata)
            return await self._run(copy.take)
        finally:
            # After a cancellation a job may still be using the file: this comes after it on the worker.
            try:
                await run_surely(self._worker, copy.close)
            finally:
                self._adding.pop(copy, None)

    async def link(self, path: str | os.PathLike[str], metadata: BlobMetadata) -> BlobToken:
        """See the port."""
        place = await self._worker.run(os.path.realpath, path)
        file, intake = SourceFile(place), Intake()
        try:
            await self._worker.run(file.open)
            while piece := await self._worker.run(file.read):
                await self._worker.run(intake.update, piece)
            token, hashes = await self._worker.run(intake.finish, metadata)
            self._adding[file] = token.hash
            return await self._run(self._link, Link.of(os.fsdecode(place), file.status), token, hashes)
        finally:
            try:
                await run_surely(self._worker, file.close)
            finally:
                self._adding.pop(file, None)

    def _link(self, link: Link, token: BlobToken, hashes: bytes) -> BlobToken:
        with suppress(BlobNotFound):
            held = self._folder.token(token.hash)
            if not self._folder.is_linked(token.hash):
                self._folder.set_cached(token.hash, cached=False)
                return held  # a copy of its own is better than a link
            token = held
        self._folder.publish(link, token, hashes, cached=False)
        self._folder.partials.remove(token.hash)
        return token

    async def begin(self, token: BlobToken, *, cached: bool) -> PartialBlob:
        """See the port."""
        token.check()
        if token.size_bytes <= SMALL_BYTES:
            small = SmallPartial(self._small, token)
            small.cached = cached
            return small
        partial = PartialFile(self._folder, self._worker, token)
        partial.cached = cached
        try:
            await self._worker.run(self._folder.partials.begin, partial)
        except BaseException:
            await partial.close()
            raise
        return partial

    def take(self, token: BlobToken, data: bytes, *, cached: bool) -> asyncio.Future[None]:
        """See the port."""
        return self._small.take(Small(token, data, cached))

    # --- what is here --------------------------------------------------------------------------------

    def exists(self, hash: str) -> bool:
        """See the port."""
        return hash in self._folder.sizes

    def adding(self, hash: str) -> bool:
        """See the port."""
        return hash in self._adding.values()

    def is_small(self, hash: str) -> bool:
        """See the port."""
        return self._folder.sizes.get(hash, SMALL_BYTES + 1) <= SMALL_BYTES

    async def holds(self, hash: str) -> bool:
        """See the port."""
        return self.exists(hash) and (not self._folder.is_linked(hash) or await self.info(hash) is not None)

    def hashes(self) -> list[str]:
        """See the port."""
        return list(self._folder.sizes)

    def partials(self) -> list[str]:
        """See the port."""
        return list(self._folder.partials.here)

    def has_partial(self, hash: str) -> bool:
        """See the port."""
        return hash in self._folder.partials.here

    async def partial_extent(self, hash: str) -> tuple[int, int] | None:
        """See the port."""
        return await self._worker.run(extent, self._folder.partials.path(hash))

    def linked(self, hash: str) -> bool:
        """See the port."""
        return self._folder.is_linked(hash)

    def damaged(self) -> dict[str, BlobToken]:
        """See the port."""
        return self._folder.partials.damaged.copy()

    def cache(self) -> list[tuple[str, int]]:
        """See the port."""
        sizes = self._folder.sizes
        return [(hash, sizes.get(hash, 0)) for hash in list(self._folder.cached.served)]

    def storage_bytes(self) -> int:
        """See the port."""
        return sum(self._folder.sizes.values())

    async def info(self, hash: str) -> BlobToken | None:
        """See the port."""
        try:
            return await self._run(self._folder.true_token, hash)
        except BlobNotFound:
            return None

    async def cached(self, hash: str) -> bool:
        """See the port."""
        self._folder.size(hash)
        return hash in self._folder.cached.served

    async def keep(self, hash: str) -> None:
        """See the port."""
        self._folder.size(hash)
        if hash in self._folder.cached.served:
            await self._worker.run(self._folder.set_cached, hash, cached=False)

    def pinned(self, hash: str) -> bool:
        """See the port."""
        return hash in self._folder.pins.hashes

    async def pin(self, hash: str, *, pinned: bool) -> None:
        """See the port."""
        await self._worker.run(self._folder.pins.set, hash, pinned=pinned)

    async def delete(self, hash: str) -> None:
        """See the port."""
        await self._worker.run(self._folder.delete, hash)

    # --- reading -------------------------------------------------------------------------------------

    async def chunk_list(self, hash: str) -> bytes:
        """See the port."""
        partial = self._folder.partials.open.get(hash)
        if partial is not None and partial.hashes is not None:
            return partial.hashes
        return await self._run(self._folder.chunk_list, hash)

    async def read_chunk(
        self, hash: str, index: int, headroom: int = 0, *, verified: bool = False
    ) -> bytearray:
        """See the port."""
        small = self._small.open.get(hash)
        if small is not None and index in small.held:
            return bytearray(headroom) + small.data
        with self._noticing():
            return await self._together.run(self._folder.read_chunk, hash, index, headroom, verified=verified)

    async def read(self, hash: str) -> bytes:
        """See the port."""
        return await self._run(self._folder.read, hash)

    def path(self, hash: str) -> Path:
        """See the port."""
        return self._folder.content_path(hash)

    def open_file(self, hash: str) -> BinaryIO:
        """See the port."""
        loop = asyncio.get_running_loop()

        def damaged() -> BlobCorrupt:  # on whatever thread reads the file, perhaps after the store was closed
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._drop, hash)
            return self._folder.rotten_error(hash)

        with self._noticing():
            hashes, token = self._folder.chunk_list(hash), self._folder.token(hash)
            return verified_file(self._folder.open_blob(hash), token, hashes, damaged)

    def _drop(self, hash: str) -> None:
        """What was read from the disk shows that a blob is damaged."""

        async def drop() -> None:
            with suppress(BlobNotFound):
                await self._run(self._folder.drop_rotten, hash)

        if self.exists(hash):
            task = asyncio.get_running_loop().create_task(drop(), name=f"drop {hash[:16]}")
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)

    async def export(self, hash: str, destination: str | os.PathLike[str]) -> None:
        """See the port."""
        async with self._exporting:
            await self._run(self._export, hash, Path(destination))

    def _export(self, hash: str, destination: Path) -> None:
        fd = self._folder.open_blob(hash)
        try:
            if not export_file(fd, destination, hash):
                self._folder.drop_rotten(hash)
        finally:
            os.close(fd)

    async def verify(self, hash: str) -> list[int]:
        """See the port."""
        hashes = await self._run(self._folder.chunk_list, hash)
        damaged: list[int] = []
        index = 0
        while index * HASH_BYTES < len(hashes):
            found, index = await self._run(self._folder.damaged_chunks, hash, hashes, index)
            damaged += found
        if damaged:
            with suppress(BlobCorrupt):
                await self._run(self._folder.drop_rotten, hash)
        return damaged

    async def _run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of a job that may find out that a blob is damaged."""
        with self._noticing():
            return await self._worker.run(job, *args, **kwargs)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BlobCorrupt as error:
            self._lost(error, self._folder.rotten.pop(error.hash, None))
            raise


class _Copy:
    """A source on its way in. All methods are jobs."""

    def __init__(self, folder: BlobFolder, source: Source) -> None:
        self._folder = folder
        self._source = source
        self._intake = Intake()
        self._write_back = WriteBack()
        self._file: tuple[int, Path] | None = None
        self._whole: tuple[BlobToken, bytes] | None = None

    def append(self, data: Buffer) -> None:
        """Hash and write the next bytes; a chunk of zeros becomes a hole."""
        fd = self._fd()
        if data[0] or data[-1] or bytes(data) != _ZEROS[: len(data)]:
            with writing(self._folder.temp, len(data)):
                check_room(self._folder.temp, len(data))
                write_all(fd, data, self._intake.size)
                self._write_back.wrote(fd, self._intake.size, len(data))
        self._intake.update(data)

    def finish(self, metadata: BlobMetadata) -> str:
        """Nothing more comes; the hash."""
        fd = self._fd()
        self._whole = token, _ = self._intake.finish(metadata)
        with writing(self._folder.temp, token.size_bytes):
            os.ftruncate(fd, token.size_bytes)  # a hole at the end was not written
            make_durable(fd)
        return token.hash

    def take(self) -> BlobToken:
        """Keep the copy, also in the place of one that is held: that may have rotted."""
        assert self._whole is not None
        token, hashes = self._whole
        with suppress(BlobNotFound):  # its first metadata stay
            token = msgspec.structs.replace(token, metadata=self._folder.token(token.hash).metadata)
        assert self._file is not None
        self._folder.publish(self._file[1], token, hashes, cached=False)
        self._folder.partials.remove(token.hash)
        return token

    def close(self) -> None:
        """Close the file, and remove it unless it was kept."""
        if self._file is not None:
            os.close(self._file[0])
            self._file[1].unlink(missing_ok=True)

    def _fd(self) -> int:
        if self._file is None:
            self._file = self._folder.create_temp()
            with writing(self._folder.temp, 0):
                check_room(self._folder.temp, known_size(self._source))
        return self._file[0]
