"""The raw reference as a process of the benchmark: the libraries alone, over WebSockets.

It has the guarantees of ours where they cost something (what is acknowledged or passed on was committed), and
none of the features: one collection, nobody checks anything, cursors are positions that somebody knows.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pycrdt
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve

from tests.bench.processes import run
from tests.bench.raw_store import BUCKETS, RawStore, Record, load, make
from tests.bench.sample import name_of, selector_of, tasks

FRAME_DOCUMENTS = 500


class Since(msgspec.Struct, tag=True, array_like=True):
    """Asks for what has changed after a position, whole documents."""

    position: int


class Give(msgspec.Struct, tag=True, array_like=True):
    """Updates; the other side answers with :class:`Done` once they are committed."""

    records: list[Record]


class Done(msgspec.Struct, tag=True, array_like=True):
    """All was sent that was asked for, or all is committed that was given."""


class Sums(msgspec.Struct, tag=True, array_like=True):
    """A fingerprint of each bucket; the answer is :class:`Members`."""

    sums: list[int]


class Members(msgspec.Struct, tag=True, array_like=True):
    """The digests of all documents in the buckets that differ."""

    buckets: dict[int, dict[str, int]]


class Want(msgspec.Struct, tag=True, array_like=True):
    """Asks for documents; the answer is :class:`Give`."""

    names: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Since | Give | Done | Sums | Members | Want).decode


class RawWorker:
    """The commands that :mod:`tests.bench.mesh_worker` has too."""

    def __init__(self) -> None:
        self._opened: RawStore | None = None
        self._server: Server | None = None
        self._merged_at = 0.0

    @property
    def _store(self) -> RawStore:
        assert self._opened is not None
        return self._opened

    async def start(self, folder: str, synchronous: str = "FULL") -> float:
        """Open the store; the seconds until it is up."""
        started = time.perf_counter()
        self._opened = RawStore(folder, synchronous)
        return time.perf_counter() - started

    async def listen(self) -> str:
        """Accept connections; where."""
        if self._server is None:
            self._server = await serve(self._serve, "127.0.0.1", 0, max_size=None, ping_interval=None)
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._opened is not None:
            self._opened.close()

    # --- local ------------------------------------------------------------------------------------

    async def fill(self, first: int, last: int, together: int) -> float:
        """Insert documents, so many in each commit; the seconds that it took."""
        documents = tasks(first, last)
        started = time.perf_counter()
        for at in range(0, len(documents), together):
            self._store.put(
                [
                    (fields["_id"], make(fields).get_update(), fields)
                    for fields in documents[at : at + together]
                ]
            )
        return time.perf_counter() - started

    async def fill_on_thread(self, first: int, last: int) -> float:
        """Insert documents, each in a commit that another thread makes; the seconds that it took."""
        documents = tasks(first, last)
        store = self._store
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            started = time.perf_counter()
            for fields in documents:
                row = (fields["_id"], make(fields).get_update(), fields)
                await loop.run_in_executor(thread, store.put, [row])
            return time.perf_counter() - started

    async def edit(self, first: int, last: int, title: str) -> None:
        """Change one field of some documents."""
        for number in range(first, last):
            state = self._store.state(name_of(number))
            assert state is not None
            document = load(state)
            root = document.get("doc", type=pycrdt.Map)
            root["title"] = title
            self._store.put([(name_of(number), document.get_update(), root.to_py() or {})])

    async def titles(self, first: int, last: int) -> list[Any]:
        """That field of some documents."""
        found = [self._store.fields(name_of(number)) for number in range(first, last)]
        return [fields and fields["title"] for fields in found]

    async def count(self) -> int:
        """How many documents there are."""
        return self._store.count()

    async def query(self, count: int, rounds: int) -> dict[str, float]:
        """Median seconds of an indexed query over ``count`` documents, and what it finds."""
        ((field, value),) = selector_of(count).items()
        self._store.index(field)
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            found = self._store.find(field, value)
            seconds.append(time.perf_counter() - started)
        return {"s": sorted(seconds)[rounds // 2], "found": len(found)}

    # --- sync -------------------------------------------------------------------------------------

    async def position(self) -> int:
        """The position of the last change: what a peer that has all of it remembers."""
        return self._store.position

    async def sync(
        self, url: str, deflate: bool = False, known: tuple[int, int] | None = None, stranger: bool = False
    ) -> dict[str, float]:
        """Link, and have what the peer has and it what this side has: when each was reached.

        Args:
            deflate: compress.
            known: how far this side has the peer's changes, and the peer this side's; ``None``: from nothing.
            stranger: both may have documents, and nobody knows how far.
        """
        dialled = time.monotonic()
        compression = "deflate" if deflate else None
        async with connect(url, max_size=None, ping_interval=None, compression=compression) as socket:
            linked = time.monotonic()
            if stranger:
                await self._reconcile(socket)
            else:
                await self._resume(socket, *(known or (0, self._store.position)))
            done = time.monotonic()
        return {"dialled": dialled, "linked": linked, "done": done}

    async def _resume(self, socket: ClientConnection, theirs: int, mine: int) -> None:
        strangers = not self._store.position
        await socket.send(_encode(Since(theirs)))
        answers = 1
        for records in self._store.since(mine, FRAME_DOCUMENTS):
            await socket.send(_encode(Give(records)))
            answers += 1
        while answers:
            message = _decode(await socket.recv(decode=False))
            if isinstance(message, Give):
                self._merge(message.records, strangers=strangers)
            else:
                answers -= 1

    async def _reconcile(self, socket: ClientConnection) -> None:
        sums, members = self._store.buckets()
        await socket.send(_encode(Sums(sums)))
        differing = _decode(await socket.recv(decode=False))
        assert isinstance(differing, Members)
        want: list[str] = []
        give: list[str] = []
        for bucket, theirs in differing.buckets.items():
            mine = members[bucket]
            want += [name for name, digest in theirs.items() if mine.get(name) != digest]
            give += [name for name, digest in mine.items() if theirs.get(name) != digest]
        records = self._store.records(give)
        await socket.send(_encode(Want(want)))
        await socket.send(_encode(Give(records)))
        wanted = _decode(await socket.recv(decode=False))
        assert isinstance(wanted, Give)
        self._merge(wanted.records)
        assert isinstance(_decode(await socket.recv(decode=False)), Done)

    async def _serve(self, socket: ServerConnection) -> None:
        async for data in socket:
            assert isinstance(data, bytes)
            match _decode(data):
                case Since(position):
                    for records in self._store.since(position, FRAME_DOCUMENTS):
                        await socket.send(_encode(Give(records)))
                    await socket.send(_encode(Done()))
                case Give(records):
                    self._merge(records)
                    await socket.send(_encode(Done()))
                case Sums(theirs):
                    sums, members = self._store.buckets()
                    differing = {i: members[i] for i in range(BUCKETS) if sums[i] != theirs[i]}
                    await socket.send(_encode(Members(differing)))
                case Want(names):
                    await socket.send(_encode(Give(self._store.records(names))))

    def _merge(self, records: list[Record], *, strangers: bool = False) -> None:
        self._store.merge(records, strangers=strangers)
        self._merged_at = time.monotonic()

    async def expect(self, title: str, count: int) -> None:
        """What is merged next is what :meth:`result` tells the time of."""

    async def result(self) -> float:
        """When something was last merged and committed."""
        return self._merged_at


if __name__ == "__main__":
    run(RawWorker())
