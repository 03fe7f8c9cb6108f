"""A node of ours, as a process of the benchmark of documents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from mesh import Change, Collection, Node, Stream
from tests.bench.processes import run
from tests.bench.sample import name_of, selector_of, tasks

SETTLE_SECONDS = 300.0


class MeshWorker:
    """The commands that :mod:`tests.bench.raw_worker` has too."""

    def __init__(self) -> None:
        self._running: Node | None = None
        self._watching: asyncio.Task[Any] | None = None

    @property
    def _node(self) -> Node:
        assert self._running is not None
        return self._running

    @property
    def _tasks(self) -> Collection:
        return self._node.collection("tasks")

    async def start(self, folder: str, synchronous: str = "FULL") -> float:
        """Open the node; the seconds until it is up."""
        assert synchronous == "FULL", "a node is always durable"
        started = time.perf_counter()
        self._running = Node(folder)
        await self._running.start()
        seconds = time.perf_counter() - started
        await self._tasks.subscribe()
        return seconds

    async def listen(self) -> str | None:
        """Where it can be dialled."""
        return self._node.address

    async def close(self) -> None:
        """Stop it."""
        if self._running is not None:
            await self._running.close()

    # --- local ------------------------------------------------------------------------------------

    async def fill(self, first: int, last: int, together: int) -> float:
        """Insert documents, so many at a time; the seconds that it took."""
        documents = tasks(first, last)
        collection = self._tasks
        started = time.perf_counter()
        if together == 1:
            for document in documents:
                await collection.insert(document)
        else:
            for at in range(0, len(documents), together):
                await asyncio.gather(*[collection.insert(d) for d in documents[at : at + together]])
        return time.perf_counter() - started

    async def fill_in_transactions(self, first: int, last: int, together: int) -> float | None:
        """The same with so many in each transaction; ``None``: this version has none."""
        transaction = getattr(self._node, "transaction", None)
        if transaction is None:
            return None
        documents = tasks(first, last)
        started = time.perf_counter()
        for at in range(0, len(documents), together):
            async with transaction() as writes:
                collection = writes.collection("tasks")
                for document in documents[at : at + together]:
                    await collection.insert(document)
        return time.perf_counter() - started

    async def edit(self, first: int, last: int, title: str) -> None:
        """Change one field of some documents."""
        for number in range(first, last):
            await self._tasks.update(name_of(number), {"title": title})

    async def titles(self, first: int, last: int) -> list[Any]:
        """That field of some documents."""
        found = [await self._tasks.get(name_of(number)) for number in range(first, last)]
        return [document and document["title"] for document in found]

    async def count(self) -> int:
        """How many documents there are."""
        return await self._tasks.count()

    async def query(self, count: int, rounds: int) -> dict[str, float]:
        """Median seconds of an indexed query over ``count`` documents, and what it finds."""
        create_index = getattr(self._tasks, "create_index", None)
        selector = selector_of(count)
        if create_index is not None:
            await create_index(*selector)
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            found = await self._tasks.find(selector)
            seconds.append(time.perf_counter() - started)
        return {"s": sorted(seconds)[rounds // 2], "found": len(found)}

    # --- sync -------------------------------------------------------------------------------------

    async def sync(self, url: str, deflate: bool = True) -> dict[str, float]:
        """Link, and have what the peer has and it what this node has: when each was reached."""
        dialled = time.monotonic()
        await self._node.connect(url)
        linked = time.monotonic()
        await self._node.settled(SETTLE_SECONDS)
        return {"dialled": dialled, "linked": linked, "done": time.monotonic()}

    async def expect(self, title: str, count: int) -> None:
        """Watch for so many documents with this title; :meth:`result` says when they had come."""

        await self._watch("tasks", {"title": title}, 0, lambda changes: _all_here(changes, count))

    # --- live -------------------------------------------------------------------------------------

    async def seed(self, count: int) -> None:
        """Insert the documents that are changed later."""
        live = self._node.collection("live")
        await asyncio.gather(*[live.insert(document | {"n": 0, "t": 0.0}) for document in tasks(0, count)])

    async def follow(self, url: str, observes: bool) -> None:
        """Link with the next node on the way to the writer; a relay that ``observes`` nothing asks for
        nothing itself."""
        if observes:
            await self._node.collection("live").subscribe()
        await self._node.connect(url)

    async def watch_single(self, count: int, writes: int) -> None:
        """Watch single writes from the moment on that all documents are here; :meth:`result` has, for each,
        the seconds from before it was written until it was seen."""

        async def watch(changes: Stream[Change]) -> list[float]:
            seconds: list[float] = []
            async for change in changes:
                now = time.monotonic()
                seconds += [now - document["t"] for document in change.updated]
                if len(seconds) == writes:
                    break
            return seconds

        await self._watch("live", None, count, watch)

    async def watch_burst(self, count: int, rounds: int) -> None:
        """Watch for the last of so many rounds of writes; :meth:`result` says when it had all come."""

        await self._watch("live", {"n": rounds}, 0, lambda changes: _all_here(changes, count))

    async def write_single(self, count: int, writes: int, interval: float) -> None:
        """Write now and then."""
        live = self._node.collection("live")
        for number in range(writes):
            await live.update(name_of(number % count), {"t": time.monotonic()})
            await asyncio.sleep(interval)

    async def write_burst(self, count: int, rounds: int, together: int) -> float:
        """Write as fast as it goes; when that began."""
        live = self._node.collection("live")
        started = time.monotonic()
        for n in range(1, rounds + 1):
            for first in range(0, count, together):
                numbers = range(first, min(first + together, count))
                await asyncio.gather(*[live.update(name_of(number), {"n": n}) for number in numbers])
        return started

    async def result(self) -> Any:
        """What the last watch has found, once it is over."""
        assert self._watching is not None
        return await self._watching

    async def _watch(
        self,
        collection: str,
        selector: dict[str, Any] | None,
        held: int,
        watch: Callable[[Stream[Change]], Coroutine[Any, Any, Any]],
    ) -> None:
        """Begin to watch a query, once it finds ``held`` documents."""
        changes = self._node.collection(collection).observe(selector)
        async for change in changes:
            if len(change.documents) == held:
                break

        async def run() -> Any:
            async with changes:
                return await watch(changes)

        self._watching = asyncio.create_task(run())


async def _all_here(changes: Stream[Change], count: int) -> float:
    """When so many documents had come."""
    seen = 0
    async for change in changes:
        seen += len(change.inserted)
        if seen == count:
            break
    return time.monotonic()


if __name__ == "__main__":
    run(MeshWorker())
