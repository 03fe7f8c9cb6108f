"""What a document costs that is overwritten again and again: 100,000 updates, beside pycrdt.

    PYTHONPATH=. python tests/bench/history.py [--updates N]

For each way of writing it prints the bytes of the document's state, the bytes per overwritten value, how long
a state takes to load, the size of a store's SQLite file that holds it, and what the last updates took. One
writer goes through the product for every update; two that take turns start from the history that pycrdt gives
them and go on through the product, since each of their updates takes as long as their history.

The figures: after 100,000 updates by one writer the state has 56 bytes where it is one key, and 1.4 kB where
it is ten in turn (pycrdt: 1.3 MB), loads in under 0.1 ms, and the file does not grow. Two writers that take
turns at one key cost 12.7 bytes of state and of file for each overwritten value: 1.27 MB, which load in about
50 ms and make an update take about 0.2 s. A local write may take the state to 2 MiB, 160,000 turns, and is
then refused with DocumentTooLarge; removing the document and inserting it again starts without a history.
States of up to 4 MiB are taken from peers, so that what two writers have made apart always merges.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pycrdt

from mesh.core import document, library
from mesh.core.document import ABSENT, DocumentState, Merged
from mesh.core.library import ROOT
from mesh.core.plans import merge_registers
from mesh.core.registers import flatten
from mesh.core.update_reader import MAX_CLIENT
from mesh.core.wire import Change, Changes
from mesh.storage.documents import DocumentStore
from mesh.storage.replicas import apply_frame
from mesh.storage.worker import InlineWorker

TURNS = 10
"""Updates through the product after two writers' history."""


class Writer:
    """One store's copy of the document, without the store."""

    def __init__(self, number: int, state: DocumentState = ABSENT) -> None:
        self.clock = bytes([number]) * 8
        self.counter = 1 << 20
        self.client_id = MAX_CLIENT - number
        self.state = state

    def tick(self) -> tuple[bytes, int]:
        self.counter += 1
        return self.clock, self.counter

    def set(self, fields: dict[str, Any]) -> Change:
        wanted = flatten(fields)
        outcome = document.edit(
            self.state, lambda held: merge_registers(held, wanted), tick=self.tick, client_id=self.client_id
        )
        assert outcome is not None
        self.state = outcome[1].state
        return outcome[0]

    def receive(self, change: Change) -> None:
        outcome = document.arrive(self.state, change)
        assert isinstance(outcome, Merged)
        self.state = outcome.state


def by_pycrdt(updates: int, keys: int, writers: int) -> bytes:
    """The state after ``updates`` by live documents that hear of each other at once."""
    docs = [pycrdt.Doc[Any](client_id=MAX_CLIENT - 1 - i) for i in range(writers)]
    roots = [doc.get(ROOT, type=pycrdt.Map) for doc in docs]
    events: list[bytes] = []
    subscriptions = [doc.observe(lambda event: events.append(event.update)) for doc in docs]
    for i in range(updates):
        events.clear()
        roots[i % writers][f"/f{i % keys}"] = i
        for doc in docs:
            if doc is not docs[i % writers]:
                doc.apply_update(events[0])
    assert subscriptions
    return docs[0].get_update()


def by_one(updates: int, keys: int) -> tuple[bytes, float]:
    """The state after ``updates`` by one writer, and the seconds that one took in the end."""
    writer = Writer(1)
    for i in range(updates - TURNS):
        writer.set({f"f{i % keys}": i})
    started = time.perf_counter()
    for i in range(updates - TURNS, updates):
        writer.set({f"f{i % keys}": i})
    return writer.state.update, (time.perf_counter() - started) / TURNS


def by_two(updates: int, raw: bytes) -> tuple[bytes, float]:
    """The same by two writers in turn, the first of them by pycrdt; each update crosses to the other."""
    arrived = document.arrive(ABSENT, Change("", "", (0, 0), {}, {b"rawrawra": updates}, raw))
    assert isinstance(arrived, Merged)
    pair = [Writer(1, arrived.state), Writer(2, arrived.state)]
    started = time.perf_counter()
    for i in range(TURNS):
        pair[1 - i % 2].receive(pair[i % 2].set({"f0": -i}))
    return pair[0].state.update, (time.perf_counter() - started) / TURNS


def load_seconds(update: bytes) -> float:
    """What it takes to read the fields of a state."""
    best = 9.0
    for _ in range(5):
        started = time.perf_counter()
        library.registers_of(update)
        best = min(best, time.perf_counter() - started)
    return best


async def file_bytes(folder: Path, name: str, update: bytes) -> int:
    """The size of a store that holds nothing but the document, which came from a peer."""
    store = DocumentStore(folder / name, InlineWorker(), rng=random.Random(1), clock=time.time)
    await store.open()
    change = Change("c", "d", (0, 0), {}, {b"rawrawra": 1}, update)
    await store.write(lambda rows: apply_frame(rows, "peer", Changes(1, 0, 0, [change])))
    assert store.documents == 1
    await store.close()
    return (folder / name).stat().st_size


async def run(updates: int) -> None:
    print(f"{updates:,} updates of one document")
    print(f"{'':28}{'state':>12}{'each':>9}{'load':>10}{'file':>12}{'update':>11}{'pycrdt':>12}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = await file_bytes(folder, "empty", b"\1\1\1\0\x28\1\3doc\2/a\1\x7e\0")
        for what, keys, writers in (
            ("one writer, one key", 1, 1),
            ("one writer, 10 keys in turn", 10, 1),
            ("two writers in turn, one key", 1, 2),
        ):
            raw = by_pycrdt(updates, keys, writers)
            update, each = by_one(updates, keys) if writers == 1 else by_two(updates, raw)
            size = await file_bytes(folder, f"{keys}-{writers}", update)
            print(
                f"{what:28}{len(update):10,} B{len(update) / updates:7.2f} B"
                f"{load_seconds(update) * 1e3:7.2f} ms{size - empty:10,} B{each * 1e3:8.2f} ms"
                f"{len(raw):10,} B"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--updates", type=int, default=100_000)
    asyncio.run(run(parser.parse_args().updates))


if __name__ == "__main__":
    main()
