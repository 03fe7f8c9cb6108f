"""The raw reference of live changes: a writer, relays and subscribers in a tree of WebSockets.

As with ours everything is committed before it is passed on or shown: the writer and relays append changes to
a log and send frames on as they came, a subscriber stores each document whole, and as JSON.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pycrdt
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve

from tests.bench.processes import run
from tests.bench.raw_store import RawStore, Record, make
from tests.bench.sample import name_of, tasks

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode

Seen = Callable[[dict[str, Any]], bool]
"""Is shown a document that has changed; whether it was the last that is waited for."""


class RawLive:
    """The commands that :mod:`tests.bench.mesh_worker` has too."""

    def __init__(self) -> None:
        self._opened: RawStore | None = None
        self._server: Server | None = None
        self._followers: set[ServerConnection] = set()
        self._reading: asyncio.Task[None] | None = None
        self._documents: dict[str, pycrdt.Doc[Any]] = {}
        self._seen: Seen = lambda fields: False
        self._done = asyncio.Event()
        self._result: Any = None

    @property
    def _store(self) -> RawStore:
        assert self._opened is not None
        return self._opened

    async def start(self, folder: str, synchronous: str = "FULL") -> None:
        """Open the store."""
        self._opened = RawStore(folder, synchronous)

    async def listen(self) -> str:
        """Accept followers; where."""
        self._server = await serve(
            self._serve, "127.0.0.1", 0, max_size=None, ping_interval=None, compression=None
        )
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._opened is not None:
            self._opened.close()

    async def _serve(self, socket: ServerConnection) -> None:
        """Whoever connects is sent all that there is, then what comes."""
        await socket.send(_encode(self._store.logged()))
        self._followers.add(socket)
        await socket.wait_closed()
        self._followers.discard(socket)

    # --- the writer -------------------------------------------------------------------------------

    async def seed(self, count: int) -> None:
        """Make the documents that are changed later."""
        for fields in tasks(0, count):
            self._documents[fields["_id"]] = make(fields | {"n": 0, "t": 0.0})
        self._publish([(name, document.get_update()) for name, document in self._documents.items()])

    async def write_single(self, count: int, writes: int, interval: float) -> None:
        """Write now and then."""
        for number in range(writes):
            self._publish([self._change(name_of(number % count), "t", time.monotonic())])
            await asyncio.sleep(interval)

    async def write_burst(self, count: int, rounds: int, together: int) -> float:
        """Write as fast as it goes; when that began."""
        started = time.monotonic()
        for n in range(1, rounds + 1):
            for first in range(0, count, together):
                numbers = range(first, min(first + together, count))
                self._publish([self._change(name_of(number), "n", n) for number in numbers])
                await asyncio.sleep(0)  # lets the frame go
        return started

    def _change(self, name: str, field: str, value: Any) -> Record:
        document = self._documents[name]
        before = document.get_state()
        document.get("doc", type=pycrdt.Map)[field] = value
        return name, document.get_update(before)

    def _publish(self, records: list[Record]) -> None:
        self._store.log(records)
        broadcast(self._followers, _encode(records))

    # --- relays and subscribers -------------------------------------------------------------------

    async def follow(self, url: str, observes: bool) -> None:
        """Take what the next peer on the way to the writer has; ``observes``: store it as documents."""
        take = self._take if observes else self._relay
        linked = asyncio.Event()

        async def read() -> None:
            async with connect(url, max_size=None, ping_interval=None, compression=None) as socket:
                async for data in socket:
                    assert isinstance(data, bytes)
                    take(data)
                    linked.set()

        self._reading = asyncio.create_task(read())
        await linked.wait()

    def _relay(self, frame: bytes) -> None:
        self._store.log(_decode(frame))
        broadcast(self._followers, frame)

    def _take(self, frame: bytes) -> None:
        names = []
        for name, update in _decode(frame):
            document = self._documents.setdefault(name, pycrdt.Doc())
            document.apply_update(update)
            names.append(name)
        rows = []
        for name in dict.fromkeys(names):
            document = self._documents[name]
            fields: dict[str, Any] = document.get("doc", type=pycrdt.Map).to_py() or {}
            rows.append((name, document.get_update(), fields))
        self._store.put(rows)
        for _, _, fields in rows:
            if self._seen(fields):
                self._done.set()

    async def watch_single(self, count: int, writes: int) -> None:
        """See :meth:`tests.bench.mesh_worker.MeshWorker.watch_single`."""
        seconds: list[float] = []

        def seen(fields: dict[str, Any]) -> bool:
            seconds.append(time.monotonic() - fields["t"])
            return len(seconds) == writes

        self._watch(count, seen, lambda: seconds)

    async def watch_burst(self, count: int, rounds: int) -> None:
        """See :meth:`tests.bench.mesh_worker.MeshWorker.watch_burst`."""
        ends: list[float] = []

        def seen(fields: dict[str, Any]) -> bool:
            if fields["n"] == rounds:
                ends.append(time.monotonic())
            return len(ends) == count

        self._watch(count, seen, lambda: ends[-1])

    def _watch(self, count: int, seen: Seen, result: Callable[[], Any]) -> None:
        assert len(self._documents) == count, "following begins with everything"
        self._seen, self._result = seen, result
        self._done.clear()

    async def result(self) -> Any:
        """What the last watch has found, once it is over."""
        await self._done.wait()
        return self._result()


if __name__ == "__main__":
    run(RawLive())
