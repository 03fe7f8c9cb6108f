"""Small blobs on their way into a folder: in memory, then on disk many at a time.

What a file costs is the syncing, and a disk syncs a hundred files in hardly more time than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mesh.core.chunks import Buffer, ChunkMap, chunk_matches, derived_hashes
from mesh.core.tokens import BlobToken
from mesh.errors import MeshError
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
                problems = await self._worker.run(self._folder.publish_together, [one for one, _ in batch])
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


def each_at_once(sync: Callable[[T], object], targets: Collection[T]) -> None:
    """Call ``sync`` with each; many on a few threads, which end with this."""
    if len(targets) < SYNCS_AT_ONCE:
        for target in targets:
            sync(target)
        return
    with ThreadPoolExecutor(SYNCS_AT_ONCE, "mesh-sync") as pool:
        for _ in pool.map(sync, targets):
            pass
