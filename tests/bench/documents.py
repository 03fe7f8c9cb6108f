"""Documents: first sync, reconnect (also to a stranger), live fan-out and local writes, in real processes.

    python tests/bench/documents.py [--documents 10000] [--runs 3]

Prints medians of interleaved runs, beside a raw reference of the same run: the same libraries (websockets,
SQLite, pycrdt) moving the same documents without any of our features, which is the limit to approach.

W1   first sync into an empty node, durable on arrival
W2   reconnect to a known peer, 10 + 10 documents changed meanwhile; after the link is up
W2'  the same with a peer that has never been met
W3   write -> observed through a relay by 8 subscribers
W4   local writes, one commit each and 500 at a time
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pycrdt
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from mesh import Node

WORDS = [
    "alpha",
    "bravo",
    "carbon",
    "delta",
    "ember",
    "falcon",
    "gamma",
    "harbor",
    "indigo",
    "jungle",
    "kernel",
]
STATES = ["open", "doing", "done", "hold", "new"]
SUBSCRIBERS = 8


def document(i: int) -> dict[str, Any]:
    """A task of about 199 bytes as JSON."""

    def words(count: int) -> str:
        return " ".join(WORDS[(i * 7919 + k * k * 31) % len(WORDS)] for k in range(count))

    return {
        "_id": f"doc{i:07d}",
        "title": f"Task {i:05d} {words(3)}",
        "status": STATES[i % 5],
        "owner": f"user-{i % 97}",
        "priority": i % 10,
        "due": f"2025-0{1 + i % 9}-1{i % 10}",
        "body": words(13),
    }


# --- the worker process -----------------------------------------------------------------------------


class MeshWorker:
    """A node."""

    def __init__(self) -> None:
        self.node: Node | None = None

    async def start(self, folder: str, listen: bool = True, name: str = "n") -> Any:
        self.node = Node(folder, name=name, listen="127.0.0.1:0" if listen else None)
        await self.node.start()
        await self.node.collection("tasks").subscribe()
        return self.node.address

    @property
    def _node(self) -> Node:
        assert self.node is not None
        return self.node

    async def fill(self, count: int, together: int) -> float:
        tasks = self._node.collection("tasks")
        started = time.perf_counter()
        for first in range(0, count, together):
            batch = [tasks.insert(document(i)) for i in range(first, min(count, first + together))]
            if together == 1:
                await batch[0]
            else:
                await asyncio.gather(*batch)
        return time.perf_counter() - started

    async def edit(self, first: int, last: int, value: str) -> None:
        for i in range(first, last):
            await self._node.collection("tasks").update(f"doc{i:07d}", {"title": value})

    async def sync(self, url: str) -> dict[str, float]:
        """Link, and settle: seconds since the link was up, and bytes on it."""
        before = self._node.stats()
        await self._node.connect(url)
        started = time.perf_counter()
        await self._node.settled(120)
        seconds = time.perf_counter() - started
        after = self._node.stats()
        moved = after.document_bytes_in + after.document_bytes_out
        return {"s": seconds, "bytes": moved - before.document_bytes_in - before.document_bytes_out}

    async def pause(self) -> None:
        await self._node.pause()

    async def check(self, i: int) -> Any:
        found = await self._node.collection("tasks").get(f"doc{i:07d}")
        return found and found["title"]

    async def count(self) -> int:
        return await self._node.collection("tasks").count()

    async def query(self) -> float:
        tasks = self._node.collection("tasks")
        started = time.perf_counter()
        for _ in range(10):
            await tasks.find({"status": "done"})
        return (time.perf_counter() - started) / 10

    async def watch(self, writes: int) -> list[float]:
        """Latencies of ``writes`` updates of the document ``clock``, then of the last of a burst."""
        latencies: list[float] = []
        async with self._node.collection("live").observe() as changes:
            async for change in changes:
                for seen in change.documents:
                    latencies.append(time.time() - seen["t"])
                    if seen["n"] >= writes:
                        return latencies[-writes:]
        return latencies

    async def follow(self, url: str) -> None:
        await self._node.collection("live").subscribe()
        await self._node.connect(url)

    async def write(self, writes: int, interval: float) -> None:
        live = self._node.collection("live")
        for n in range(1, writes + 1):
            await live.upsert({"_id": "clock", "n": n, "t": time.time()})
            await asyncio.sleep(interval)

    async def burst(self, documents: int, rounds: int) -> float:
        """Updates per second written here; each subscriber's ``drain`` tells when all have come."""
        live = self._node.collection("burst")
        started = time.time()
        for n in range(rounds):
            await asyncio.gather(*[live.upsert({"_id": f"b{i}", "n": n}) for i in range(documents)])
        return started

    async def drain(self, documents: int, rounds: int) -> float:
        last = rounds - 1
        burst = self._node.collection("burst")
        await burst.subscribe()
        async with burst.observe({"n": last}) as changes:
            async for change in changes:
                if len(change.documents) == documents:
                    return time.time()
        return 0.0


class RawWorker:
    """The same work with the libraries alone."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:")

    async def start(self, folder: str) -> None:
        Path(folder).mkdir(parents=True)
        self._db = sqlite3.connect(f"{folder}/raw.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE d(id TEXT PRIMARY KEY, state BLOB, json TEXT) WITHOUT ROWID")

    async def fill(self, count: int, together: int) -> float:
        started = time.perf_counter()
        for first in range(0, count, together):
            rows = []
            for i in range(first, min(count, first + together)):
                fields = document(i)
                doc: pycrdt.Doc[Any] = pycrdt.Doc()
                root = doc.get("doc", type=pycrdt.Map)
                with doc.transaction():
                    for key, value in fields.items():
                        root[key] = value
                rows.append((fields["_id"], doc.get_update(), json.dumps(fields)))
            self._put(rows)
        return time.perf_counter() - started

    def _put(self, rows: list[tuple[str, bytes, str]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO d VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")

    async def listen(self) -> str:
        self._server = await serve(self._serve, "127.0.0.1", 0, max_size=None)
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, socket: ServerConnection) -> None:
        cursor = self._db.execute("SELECT id, state FROM d ORDER BY id")
        while rows := cursor.fetchmany(500):
            parts = [struct.pack("!HI", len(id), len(state)) + id.encode() + state for id, state in rows]
            await socket.send(b"".join(parts))
        await socket.send(b"")
        await socket.wait_closed()

    async def sync(self, url: str) -> dict[str, float]:
        moved = 0
        async with connect(url, max_size=None) as socket:
            started = time.perf_counter()
            while frame := await socket.recv(decode=False):
                moved += len(frame)
                rows, at = [], 0
                while at < len(frame):
                    id_size, size = struct.unpack_from("!HI", frame, at)
                    id = frame[at + 6 : at + 6 + id_size].decode()
                    state = frame[at + 6 + id_size : at + 6 + id_size + size]
                    at += 6 + id_size + size
                    doc: pycrdt.Doc[Any] = pycrdt.Doc()
                    root = doc.get("doc", type=pycrdt.Map)
                    doc.apply_update(state)
                    rows.append((id, state, json.dumps(root.to_py())))
                self._put(rows)
            return {"s": time.perf_counter() - started, "bytes": moved}


async def work(kind: str) -> None:
    """Carry out the commands that come as JSON lines on stdin."""
    worker: Any = MeshWorker() if kind == "mesh" else RawWorker()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command, arguments = json.loads(line)
        if command == "usage":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            result: Any = {"cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}
        else:
            result = await getattr(worker, command)(**arguments)
        print(json.dumps(result), flush=True)
    if kind == "mesh" and worker.node is not None:
        await worker.node.close()


class Worker:
    """One worker process, as the bench sees it."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.ask(command, **arguments)
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# --- what is measured -------------------------------------------------------------------------------


def timed(worker: Worker, others: list[Worker], act: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``act`` says, with the CPU seconds of the process that does it and of the others."""
    before = [w("usage")["cpu"] for w in (worker, *others)]
    result = act()
    after = [w("usage") for w in (worker, *others)]
    result["cpu"] = after[0]["cpu"] - before[0]
    result["cpu_other"] = sum(u["cpu"] for u in after[1:]) - sum(before[1:])
    result["rss"] = after[0]["rss"]
    return result


def sync_work(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """W1, W2, W2' and W4 for the mesh and, where it can, for the raw reference."""
    found: dict[str, dict[str, float]] = {}
    raw_a, raw_b = Worker("raw"), Worker("raw")
    raw_a("start", folder=str(folder / "ra"))
    raw_b("start", folder=str(folder / "rb"))
    found["W4 raw"] = {"single/s": count / raw_a("fill", count=count, together=1)}
    found["W4 raw"]["batched/s"] = count / raw_a("fill", count=count, together=500)
    url = raw_a("listen")
    found["W1 raw"] = timed(raw_b, [raw_a], lambda: raw_b("sync", url=url))
    raw_a.close()
    raw_b.close()

    single = Worker("mesh")
    single("start", folder=str(folder / "single"))
    found["W4"] = {"single/s": count / single("fill", count=count, together=1)}
    found["W4"]["query ms"] = single("query") * 1e3
    single.close()
    a, b, c = Worker("mesh"), Worker("mesh"), Worker("mesh")
    a_url = a("start", folder=str(folder / "a"))
    b("start", folder=str(folder / "b"))
    found["W4"]["batched/s"] = count / a("fill", count=count, together=500)
    found["W1"] = timed(b, [a], lambda: b("sync", url=a_url))
    assert b("count") == count
    b("pause")
    a("edit", first=0, last=10, value="from a")
    b("edit", first=10, last=20, value="from b")
    b.close()  # a new process: nothing is remembered but what is on the disk
    b = Worker("mesh")
    b("start", folder=str(folder / "b"))
    found["W2"] = timed(b, [a], lambda: b("sync", url=a_url))
    assert (a("check", i=10), b("check", i=0)) == ("from b", "from a")
    c_url = c("start", folder=str(folder / "c"))
    c("sync", url=a_url)
    c("pause")
    b("pause")
    c("edit", first=20, last=30, value="from c")
    b("edit", first=30, last=40, value="from b")
    c.close()
    c = Worker("mesh")
    c_url = c("start", folder=str(folder / "c"))
    b.close()
    b = Worker("mesh")
    b("start", folder=str(folder / "b"))
    found["W2'"] = timed(b, [c], lambda: b("sync", url=c_url))
    assert (b("check", i=20), c("check", i=30)) == ("from c", "from b")
    for worker in (a, b, c):
        worker.close()
    return found


def fan_out(folder: Path) -> dict[str, float]:
    """W3: a writer, a relay and eight subscribers."""
    relay, writer = Worker("mesh"), Worker("mesh")
    url = relay("start", folder=str(folder / "relay"))
    writer("start", folder=str(folder / "writer"))
    writer("follow", url=url)
    subscribers = [Worker("mesh") for _ in range(SUBSCRIBERS)]
    for i, subscriber in enumerate(subscribers):
        subscriber("start", folder=str(folder / f"s{i}"))
        subscriber("follow", url=url)
    for subscriber in subscribers:
        subscriber.ask("watch", writes=200)
    writer("write", writes=200, interval=0.02)
    latencies = sorted(x for subscriber in subscribers for x in subscriber.answer())
    documents, rounds = 500, 10
    for subscriber in subscribers:
        subscriber.ask("drain", documents=documents, rounds=rounds)
    time.sleep(1)
    started = writer("burst", documents=documents, rounds=rounds)
    ended = max(subscriber.answer() for subscriber in subscribers)
    for worker in (relay, writer, *subscribers):
        worker.close()
    return {
        "p50 ms": latencies[len(latencies) // 2] * 1e3,
        "p99 ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "updates/s": documents * rounds / (ended - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--worker", choices=["mesh", "raw"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(work(options.worker))
        return
    runs: list[dict[str, dict[str, float]]] = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            found = sync_work(Path(folder), options.documents)
            found["W3"] = fan_out(Path(folder))
            runs.append(found)
    print(f"{options.documents} documents, medians of {options.runs} runs")
    for name in ("W1 raw", "W1", "W2", "W2'", "W3", "W4 raw", "W4"):
        figures = {k: statistics.median(run[name][k] for run in runs) for k in runs[0][name]}
        print(f"{name:7}", "  ".join(f"{k} {v:,.3f}" for k, v in figures.items()))
    ratio = statistics.median(run["W1"]["s"] / run["W1 raw"]["s"] for run in runs)
    print(f"W1: {ratio:.2f} x the time of the raw reference")


if __name__ == "__main__":
    main()
