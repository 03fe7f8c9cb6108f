"""Small blobs on their way into a folder: in memory, then on disk many at a time.

What a file costs is the syncing, and a disk syncs a hundred files in hardly more time than one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.core.chunks import Buffer, ChunkMap, derived_hashes
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.errors import MeshError
from mesh.storage.blob_sources import check_room, write_all, writing
from mesh.storage.blobs import CorruptChunk, verified_hashes
from mesh.storage.folders import sync_folder
from mesh.storage.worker import Worker
from mesh.storage.write_back import make_durable, start

if TYPE_CHECKING:
    from mesh.storage.blob_layout import BlobFolder

MAX_TOGETHER = 256
"""So many are written in one job of the worker: 16 MiB."""

SYNCS_AT_ONCE = 8
"""A journal that is asked by several threads at once writes once for all of them."""

Problem = MeshError | OSError | None
"""What became of one of several blobs; ``None``: it is there."""

_NO_METADATA = BlobMetadata()


@dataclass(frozen=True, slots=True)
class Small:
    """A small blob that came whole."""

    token: BlobToken
    data: bytes
    cached: bool


class SmallBlobs:
    """Publishes small blobs: those that come while others are being written go together after them.

    Attributes:
        open: the small blobs that are on their way in.
    """

    def __init__(self, folder: BlobFolder, worker: Worker) -> None:
        self._folder = folder
        self._worker = worker
        self._syncing = ThreadPoolExecutor(SYNCS_AT_ONCE, "mesh-sync")
        self._waiting: list[tuple[Small, asyncio.Future[None]]] = []
        self.open: dict[str, SmallPartial] = {}
        self._task: asyncio.Task[None] | None = None

    def take(self, small: Small) -> asyncio.Future[None]:
        """See :meth:`~mesh.storage.blobs.BlobStore.take`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((small, done))
        if self._task is None:
            self._task = loop.create_task(self._work(), name="write small blobs")
        return done

    async def close(self) -> None:
        """Wait until what was begun is written."""
        if self._task is not None:
            await asyncio.wait({self._task})
        self._syncing.shutdown()  # none of its threads is at work any more, so this does not block

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
                batch = [(small, done) for small, done in batch if not done.done()]
                small = [one for one, _ in batch]
                problems: list[Problem]
                try:
                    problems = await self._worker.run(publish_together, self._folder, self._syncing, small)
                except OSError as error:
                    problems = [error] * len(batch)
                for (_, done), problem in zip(batch, problems, strict=True):
                    if done.done():
                        continue  # who waited for it was cancelled
                    if problem is None:
                        done.set_result(None)
                    else:
                        done.set_exception(problem)
        finally:
            self._task = None


class SmallPartial:
    """See :class:`~mesh.storage.blobs.PartialBlob`. What has arrived is lost when it is closed.

    Attributes:
        data: what has arrived: nothing, or everything.
    """

    def __init__(self, blobs: SmallBlobs, token: BlobToken) -> None:
        self.token = token
        self.hashes = derived_hashes(token)
        self.held = ChunkMap(token.chunk_count)
        self.cached = False
        self._blobs = blobs
        self.data = b""
        blobs.open[token.hash] = self

    async def set_hashes(self, hashes: bytes) -> None:
        """See the port."""
        if hashes != self.hashes:
            raise CorruptChunk(self.token.hash, None)

    async def write(self, index: int, data: Buffer) -> None:
        """See the port."""
        if index in self.held:
            return
        verified_hashes(self.token, data)
        self.data = bytes(data)
        self.held.add(index)

    async def finish(self) -> list[int]:
        """See the port."""
        await self._blobs.take(Small(self.token, self.data, self.cached))
        await self.close()
        return []

    async def close(self) -> None:
        """See the port."""
        if self._blobs.open.get(self.token.hash) is self:
            del self._blobs.open[self.token.hash]


def publish_together(folder: BlobFolder, syncing: Executor, blobs: Sequence[Small]) -> list[Problem]:
    """Verify small blobs and make them visible, syncing all of them at once; what became of each. A job of
    the worker."""
    problems = [_refused(small) for small in blobs]
    good = [small for small, problem in zip(blobs, problems, strict=True) if problem is None]
    written = iter(_write_together(folder, syncing, good))
    return [problem or next(written) for problem in problems]


def _refused(small: Small) -> Problem:
    try:
        verified_hashes(small.token, small.data)
    except MeshError as error:
        return error
    return None


def _write_together(folder: BlobFolder, syncing: Executor, blobs: Sequence[Small]) -> list[Problem]:
    size = sum(small.token.size_bytes for small in blobs)
    temps: list[tuple[int, str]] = []
    done = False
    try:
        with writing(folder.temp, size):
            check_room(folder.temp, size)
            for small in blobs:
                temps.append(folder.open_temp())
                write_all(temps[-1][0], small.data, 0)
            _make_all_durable([fd for fd, _ in temps], syncing)
            # All into one folder: each that is written to has to be synced.
            shelf = blobs[0].token.hash[:2] if blobs else ""
            places = {_put(folder, path, small, shelf) for (_, path), small in zip(temps, blobs, strict=True)}
            for place in places:
                sync_folder(place)
            done = True
    except MeshError as error:
        for small in blobs:  # some may be in their places
            if small.token.hash not in folder.sizes:
                with suppress(OSError):
                    folder.clear(small.token.hash)
        if len(blobs) == 1:
            return [error]
        return [problem for small in blobs for problem in _write_together(folder, syncing, [small])]
    finally:
        for fd, path in temps:
            os.close(fd)
            if not done:
                with suppress(FileNotFoundError):
                    os.unlink(path)
    for small in blobs:
        folder.show(None, small.token)
        if small.token.hash in folder.partials.here or small.token.hash in folder.partials.damaged:
            folder.partials.remove(small.token.hash)
    return [None] * len(blobs)


def _put(folder: BlobFolder, temp: str, small: Small, shelf: str) -> str:
    """Move durable content to its place; the folder that has to be synced before it is shown."""
    token = small.token
    if token.hash not in folder.sizes:
        folder.shelve(token.hash, shelf)
        if token.metadata == _NO_METADATA and not small.cached:  # nothing is beside it: one call
            place = f"{folder.blobs}/{shelf}"
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                os.rename(temp, f"{place}/{token.hash}")
                return place
    hashes = derived_hashes(token) or b""
    return str(folder.put_in_place(Path(temp), token, hashes, cached=small.cached, durable=False))


def _make_all_durable(fds: Sequence[int], syncing: Executor) -> None:
    """Sync files, many by several threads."""

    def sync(some: Sequence[int]) -> None:
        for fd in some:
            start(fd, 0, 0)  # all are on their way before one is waited for
        for fd in some:
            make_durable(fd)

    if len(fds) < SYNCS_AT_ONCE:
        sync(fds)
        return
    parts = [syncing.submit(sync, fds[first::SYNCS_AT_ONCE]) for first in range(SYNCS_AT_ONCE)]
    wait(parts)  # for all of them: the files are closed next, whatever has failed
    for part in parts:
        part.result()
