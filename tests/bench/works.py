"""The works that the benchmark of documents measures: the same sequences for ours and the raw reference."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.processes import Process, Processes

Figures = dict[str, float]
"""What one side needed in one run, by the name of the figure. Seconds, bytes, MB of memory."""

CHANGED = 10
SUBSCRIBERS = 8
LIVE_DOCUMENTS = 1_000
SINGLE_WRITES = 200
WRITE_INTERVAL = 0.02
BURST_ROUNDS = 5
BURST_TOGETHER = 50
ROUND_TRIP = 1.0  # seconds: longer than either side takes to read the keys of many documents
QUERY_ROUNDS = 15


@dataclass(frozen=True)
class Side:
    """Who does the work.

    Attributes:
        store, live: the modules that its processes run.
        synchronous: what SQLite waits for at a commit.
    """

    name: str
    store: str
    live: str
    synchronous: str = "FULL"


OURS = Side("ours", "mesh_worker", "mesh_worker")
RAW = Side("raw", "raw_worker", "raw_live")
RAW_NORMAL = Side("raw NORMAL", "raw_worker", "raw_live", "NORMAL")


class Syncs:
    """W1, W2 and W2': first syncs and reconnects between the peers ``a``, ``b``, ``c`` and ``d``.

    Times are of plain loopback. Bytes (all TCP payload, handshakes included) and round trips (from the link
    being up until both have all) are those of a second time, through :mod:`tests.bench.proxy`.
    """

    def __init__(self, processes: Processes, side: Side, folder: Path, count: int) -> None:
        self._processes = processes
        self._side = side
        self._folder = folder
        self._count = count
        self._running: dict[str, Process] = {}
        self._edited = 0

    def run(self, known: bool, stranger: bool) -> Figures:
        """W1, and what is asked for of W2 and W2'."""
        a = self._start("a")
        a("fill", first=0, last=self._count, together=500)
        url = a("listen")
        figures = self._first_sync(a, url)
        if known:
            figures |= self._timed("W2", "b", "a")
            figures |= self._counted("W2", "b", "a")
        if stranger:
            for name in "cd":
                self._sync(name, url)
            self._stop("c", "d")
            self._start("c")
            figures |= self._timed("W2'", "b", "c")
            for name in "cd":  # and now nobody lacks what was written meanwhile
                self._sync(name, url, again=True)
            self._stop("c", "d")
            self._start("c")
            figures |= self._counted("W2'", "d", "c")
        self._stop(*list(self._running))
        return figures

    def _first_sync(self, a: Process, url: str) -> Figures:
        b = self._start("b")
        before = [process("usage")["cpu"] for process in (a, b)]
        reached = b("sync", url=url, deflate=True)
        after = [process("usage") for process in (a, b)]
        assert b("count") == self._count
        with Processes() as extra:
            proxy = extra.start("proxy")
            self._start("counted")("sync", url=proxy("start", url=url, delay=0.0), deflate=True)
            moved = proxy("moved")
            self._stop("counted")
        return {
            "W1 time": reached["done"] - reached["dialled"],
            "W1 cpu receiver": after[1]["cpu"] - before[1],
            "W1 cpu both": sum(usage["cpu"] for usage in after) - sum(before),
            "W1 bytes": moved,
            "W1 memory": after[1]["peak"],
        }

    def _timed(self, work: str, dialer: str, other: str) -> Figures:
        reached = self._reconnect(dialer, other, None)
        return {
            f"{work} time": reached["arrived"] - reached["linked"],
            f"{work} from dial": reached["arrived"] - reached["dialled"],
            f"{work} settled": reached["done"] - reached["linked"],
        }

    def _counted(self, work: str, dialer: str, other: str) -> Figures:
        with Processes() as extra:
            proxy = extra.start("proxy")
            reached = self._reconnect(dialer, other, proxy)
            trips = proxy("round_trips", since=reached["linked"], until=reached["arrived"])
            self._stop(dialer)
            return {f"{work} bytes": proxy("moved"), f"{work} round trips": trips}

    def _reconnect(self, dialer: str, other: str, proxy: Process | None) -> Figures:
        """Change documents on two peers that have the same, then link them: how long until both have all.

        The peer that dials is a new process, which remembers what is on its disk. The moments when it
        ``dialled``, when its link was up, when all had ``arrived``, and when it knew that all was ``done``.
        """
        here, there = self._restart(dialer), self._running[other]
        hints: dict[str, Any] = {}  # the raw reference remembers nothing about peers: it has to be told
        if self._side is not OURS:
            met = other == "a"  # everybody has
            hints = {"known": [there("position"), here("position")]} if met else {"stranger": True}
        first, self._edited = self._edited, self._edited + 2 * CHANGED
        middle, last = first + CHANGED, first + 2 * CHANGED
        there("edit", first=first, last=middle, title=f"there {first}")
        here("edit", first=middle, last=last, title=f"here {first}")
        here("expect", title=f"there {first}", count=CHANGED)
        there("expect", title=f"here {first}", count=CHANGED)
        url = there("listen")
        if proxy is not None:
            url = proxy("start", url=url, delay=ROUND_TRIP / 2)
        reached = here("sync", url=url, **hints)
        arrived = max(here("result"), there("result"))
        assert here("titles", first=first, last=last) == there("titles", first=first, last=last)
        return {**reached, "arrived": arrived}

    def _sync(self, name: str, url: str, *, again: bool = False) -> None:
        process = self._running.get(name) or self._start(name)
        process("sync", url=url, **({"stranger": True} if again and self._side is not OURS else {}))
        assert process("count") == self._count

    def _start(self, name: str) -> Process:
        process = self._processes.start(self._side.store)
        process("start", folder=str(self._folder / name), synchronous=self._side.synchronous)
        self._running[name] = process
        return process

    def _stop(self, *names: str) -> None:
        self._processes.close(*[self._running.pop(name) for name in names])

    def _restart(self, name: str) -> Process:
        if name in self._running:
            self._stop(name)
        return self._start(name)


def fan_out(processes: Processes, side: Side, folder: Path) -> Figures:
    """W3: a writer, a relay and eight subscribers, all of which store everything."""
    writer, relay, *subscribers = line = [
        _live(processes, side, folder / f"live{i}") for i in range(2 + SUBSCRIBERS)
    ]
    writer("seed", count=LIVE_DOCUMENTS)
    relay("follow", url=writer("listen"), observes=False)
    url = relay("listen")
    for subscriber in subscribers:
        subscriber("follow", url=url, observes=True)
    seconds = sorted(_latencies(writer, subscribers))
    for subscriber in subscribers:
        subscriber("watch_burst", count=LIVE_DOCUMENTS, rounds=BURST_ROUNDS)
    started = writer("write_burst", count=LIVE_DOCUMENTS, rounds=BURST_ROUNDS, together=BURST_TOGETHER)
    ended = max(subscriber("result") for subscriber in subscribers)
    processes.close(*line)
    return {
        "W3 p50": seconds[len(seconds) // 2],
        "W3 p99": seconds[int(len(seconds) * 0.99)],
        "W3 rate": LIVE_DOCUMENTS * BURST_ROUNDS / (ended - started),
    }


def hops(processes: Processes, side: Side, folder: Path) -> Figures:
    """A write that is observed three hops away."""
    line = [_live(processes, side, folder / f"hop{i}") for i in range(4)]
    line[0]("seed", count=LIVE_DOCUMENTS)
    for before, after in pairwise(line):
        after("follow", url=before("listen"), observes=after is line[-1])
    seconds = sorted(_latencies(line[0], line[-1:]))
    processes.close(*line)
    return {"hops p50": seconds[len(seconds) // 2]}


def _live(processes: Processes, side: Side, folder: Path) -> Process:
    process = processes.start(side.live)
    process("start", folder=str(folder), synchronous=side.synchronous)
    return process


def _latencies(writer: Process, subscribers: list[Process]) -> list[float]:
    for subscriber in subscribers:
        subscriber("watch_single", count=LIVE_DOCUMENTS, writes=SINGLE_WRITES)
    writer("write_single", count=LIVE_DOCUMENTS, writes=SINGLE_WRITES, interval=WRITE_INTERVAL)
    return [seconds for subscriber in subscribers for seconds in subscriber("result")]


def local(processes: Processes, side: Side, folder: Path, count: int) -> Figures:
    """W4: writes that are committed one by one, and 500 at a time; an indexed query.

    The raw reference commits on the thread of its event loop, which then stands still with the disk; and, to
    show what it takes to keep the loop free as ours does, on another one.
    """
    process = processes.start(side.store)
    singles = max(count // 5, 100)
    process("start", folder=str(folder / "single"), synchronous=side.synchronous)
    figures = {"W4 single": singles / process("fill", first=0, last=singles, together=1)}
    if side is not OURS:
        figures["W4 thread"] = singles / process("fill_on_thread", first=singles, last=2 * singles)
    else:
        figures["W4 thread"] = figures["W4 single"]
        seconds = process("fill_in_transactions", first=singles, last=singles + count, together=500)
        if seconds is not None:
            figures["W4 transactions"] = count / seconds
    processes.close(process)
    process = processes.start(side.store)
    process("start", folder=str(folder / "batched"), synchronous=side.synchronous)
    figures["W4 batched"] = count / process("fill", first=0, last=count, together=500)
    figures["W4 query"] = _query(process, count)
    processes.close(process)
    return figures


def at_rest(processes: Processes, side: Side, folder: Path, count: int) -> Figures:
    """A process that opens many documents that were stored before, and idles."""
    process = processes.start(side.store)
    process("start", folder=str(folder / "rest"), synchronous=side.synchronous)
    process("fill", first=0, last=count, together=500)
    processes.close(process)
    process = processes.start(side.store)
    seconds = process("start", folder=str(folder / "rest"), synchronous=side.synchronous)
    figures = {"rest open": seconds, "rest memory": process("usage")["rss"]}
    figures["rest query"] = _query(process, count)
    processes.close(process)
    return figures


def _query(process: Process, count: int) -> float:
    found = process("query", count=count, rounds=QUERY_ROUNDS)
    assert found["found"] == (count // 10 if count <= 20_000 else count // 100), found
    seconds: float = found["s"]
    return seconds
