"""Small blobs on their way into a folder: in memory, then on disk many at a time.

What a file costs is the syncing, and a disk syncs a hundred files in hardly more time than one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mesh.core.chunks import Buffer, ChunkMap, chunk_matches, derived_hashes
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.errors import MeshError
from mesh.storage.blob_sources import check_room, sync_folder, write_all, writing
from mesh.storage.blobs import CorruptChunk
from mesh.storage.worker import Worker

if TYPE_CHECKING:
    from mesh.storage.blob_layout import BlobFolder

SMALL_BYTES = 64 * 1024
"""Blobs of up to so many bytes come in this way."""

MAX_TOGETHER = 256
"""So many are written in one job of the worker, and may wait for the next: 16 MiB."""


SYNCS_AT_ONCE = 8
"""A journal that is asked by several threads at once writes once for all of them."""

Problem = MeshError | None
"""What became of one of several blobs; ``None``: it is there."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Small:
    """A small blob, verified."""

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
        self._waiting: list[tuple[Small, asyncio.Future[None]]] = []
        self.open: dict[str, SmallPartial] = {}
        self._room = asyncio.Semaphore(MAX_TOGETHER)
        self._task: asyncio.Task[None] | None = None

    async def publish(self, small: Small) -> None:
        """Make it visible, durably.

        Raises:
            StorageFull: there is no room for it.
            DataDirUnusable: the folder cannot be written to.
        """
        async with self._room:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()
            self._waiting.append((small, done))
            if self._task is None:
                self._task = loop.create_task(self._work(), name="write small blobs")
            await done

    async def close(self) -> None:
        """Wait until what was begun is written."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                batch = [(small, done) for small, done in batch if not done.done()]
                problems = await self._worker.run(publish_together, self._folder, [one for one, _ in batch])
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
        assert self.hashes is not None
        if not chunk_matches(self.token, self.hashes, index, data):
            raise CorruptChunk(self.token.hash, index)
        self.data = bytes(data)
        self.held.add(index)

    async def finish(self) -> list[int]:
        """See the port."""
        await self._blobs.publish(Small(self.token, self.data, self.cached))
        await self.close()
        return []

    async def close(self) -> None:
        """See the port."""
        if self._blobs.open.get(self.token.hash) is self:
            del self._blobs.open[self.token.hash]


def publish_together(folder: BlobFolder, blobs: Sequence[Small]) -> list[Problem]:
    """Make small blobs visible, syncing all of them at once; what became of each. A job of the worker."""
    size = sum(small.token.size_bytes for small in blobs)
    temps: list[tuple[int, Path]] = []
    done = False
    try:
        with writing(folder.temp, size):
            check_room(folder.temp, size)
            for small in blobs:
                temps.append(folder.create_temp())
                write_all(temps[-1][0], small.data, 0)
            _each_at_once(os.fdatasync, [fd for fd, _ in temps])
            places = [_put(folder, path, small) for (_, path), small in zip(temps, blobs, strict=True)]
            _each_at_once(sync_folder, set(places))
            done = True
    except MeshError as error:
        if len(blobs) == 1:
            return [error]
        return [problem for small in blobs for problem in publish_together(folder, [small])]
    finally:
        for fd, path in temps:
            os.close(fd)
            if not done:
                path.unlink(missing_ok=True)
    for small in blobs:
        folder.show(None, small.token)
        if small.token.hash in folder.partial:  # left here by a version that had files for small ones too
            folder.remove_partial(small.token.hash)
    return [None] * len(blobs)


def _put(folder: BlobFolder, temp: Path, small: Small) -> str:
    """Move durable content to its place; the folder that has to be synced before it is shown."""
    token = small.token
    plain = token.metadata == BlobMetadata() and not small.cached and token.hash not in folder.sizes
    place = f"{folder.blobs}/{token.hash[:2]}"
    if plain:  # nothing is beside it: one call
        with suppress(FileNotFoundError):
            os.rename(temp, f"{place}/{token.hash}")
            return place
    folder.put_in_place(temp, token, derived_hashes(token) or b"", cached=small.cached, durable=False)
    return place


def _each_at_once(sync: Callable[[T], object], targets: Collection[T]) -> None:
    """Call ``sync`` with each; many on a few threads, which end with this."""
    if len(targets) < SYNCS_AT_ONCE:
        for target in targets:
            sync(target)
        return

    def sync_some(some: Sequence[T]) -> None:
        for target in some:
            sync(target)

    every = list(targets)
    with ThreadPoolExecutor(SYNCS_AT_ONCE, "mesh-sync") as pool:
        for _ in pool.map(sync_some, [every[start::SYNCS_AT_ONCE] for start in range(SYNCS_AT_ONCE)]):
            pass
