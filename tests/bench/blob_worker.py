"""A node of ours, as a process of the benchmarks of blobs."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from typing import Any

from mesh import BlobProgress, BlobToken, Node
from mesh.attachments.memory import tune_allocator
from tests.bench.processes import run


class BlobWorker:
    """Holds a node, and the fetch that is under way."""

    def __init__(self) -> None:
        self._running: Node | None = None
        self._fetching: asyncio.Task[float] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._seen: list[float] = []

    @property
    def _node(self) -> Node:
        assert self._running is not None
        return self._running

    async def start(self, folder: str, upload_limit: float | None = None) -> str | None:
        """Open the node; where it can be dialled."""
        self._running = Node(folder, upload_limit=upload_limit)
        await self._running.start()
        gc.freeze()  # as `mesh up` does
        return self._running.address

    async def connect(self, urls: list[str]) -> None:
        """Link with others."""
        await asyncio.gather(*(self._node.connect(url) for url in urls))

    async def add(self, size: int) -> Any:
        """Add a blob of random bytes; its token."""

        async def pieces() -> Any:
            for at in range(0, size, 1 << 20):
                yield os.urandom(min(1 << 20, size - at))

        return (await self._node.attachments.add(pieces())).to_dict()

    async def add_small(self, count: int, smallest: int, largest: int) -> list[Any]:
        """Add many small blobs; their tokens."""
        rng = random.Random(count)
        found = []
        for _ in range(0, count, 100):
            contents = [rng.randbytes(rng.randint(smallest, largest)) for _ in range(100)]
            found += await asyncio.gather(*(self._node.attachments.add(content) for content in contents))
        return [token.to_dict() for token in found[:count]]

    async def fetch(self, tokens: list[Any], at_once: bool = True) -> None:
        """Begin to fetch blobs, all at once or one after another; :meth:`fetched` waits for them."""

        async def fetch() -> float:
            started = time.perf_counter()
            blobs = [BlobToken.from_dict(token) for token in tokens]
            together = asyncio.Semaphore(len(blobs) if at_once else 1)

            async def one(token: BlobToken) -> None:
                async with together:
                    await self._node.attachments.fetch(token)

            await asyncio.gather(*map(one, blobs))
            return time.perf_counter() - started

        self._fetching = asyncio.create_task(fetch())

    async def fetch_part(self, token: Any, fraction: float) -> float:
        """Begin to fetch a blob; the seconds until so much of it was there. :meth:`fetched` waits for it."""
        enough = asyncio.Event()
        blob = BlobToken.from_dict(token)
        started = time.perf_counter()

        def watch(progress: BlobProgress) -> None:
            if progress.downloaded_bytes >= fraction * progress.total_bytes:
                enough.set()

        async def fetch() -> float:
            await self._node.attachments.fetch(blob, on_progress=watch)
            return time.perf_counter() - started

        self._fetching = asyncio.create_task(fetch())
        await enough.wait()
        return time.perf_counter() - started

    async def received(self) -> int:
        """Bytes of chunks received so far."""
        return self._node.attachments.received_bytes

    async def fetched(self) -> float:
        """The seconds that it took."""
        assert self._fetching is not None
        return await self._fetching

    async def is_fetched(self) -> bool:
        """Whether the fetch is over."""
        return self._fetching is not None and self._fetching.done()

    async def watch(self) -> None:
        """Watch a document from now on; :meth:`latencies` has the seconds from each write to its arrival."""
        changes = self._node.collection("beats").observe()
        await self._node.collection("beats").subscribe()

        async def watch() -> None:
            async with changes:
                async for change in changes:
                    now = time.monotonic()
                    self._seen += [now - one["at"] for one in [*change.inserted, *change.updated]]

        self._watching = asyncio.create_task(watch())

    async def latencies(self) -> list[float]:
        """Of the writes since the last call."""
        found, self._seen = self._seen, []
        return found

    async def beat(self, count: int, interval: float) -> None:
        """Write the document now and then."""
        beats = self._node.collection("beats")
        for _ in range(count):
            await beats.upsert({"_id": "beat", "at": time.monotonic()})
            await asyncio.sleep(interval)

    async def served(self) -> int:
        """Bytes of chunks sent so far."""
        return self._node.attachments.served_bytes

    async def close(self) -> None:
        """Stop it."""
        if self._watching is not None:
            self._watching.cancel()
        if self._running is not None:
            await self._running.close()


if __name__ == "__main__":
    tune_allocator()
    run(BlobWorker())
