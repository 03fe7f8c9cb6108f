"""Documents: first sync, reconnect (also to a stranger), live fan-out, local writes, memory.

    PYTHONPATH=. python tests/bench/documents.py [--only W1 W3] [--documents N] [--large N] [--runs N]

Prints medians of interleaved runs of real processes. Each figure stands beside that of a raw reference of
the same run: the same libraries (websockets, SQLite, pycrdt) doing the same with the same documents and
without any of our features, which is the limit to approach. The ratio is what survives a busy machine.

W1    first sync into an empty node, durable on arrival. The raw reference deflates, as ours does.
W2    reconnect to a known peer, 10 + 10 documents changed meanwhile
W2p   the same with a peer that has never been met, also with many documents; raw compares 256 buckets
W3    write -> observed through a relay by 8 subscribers; everyone stores everything
hops  write -> observed three hops away
W4    local writes, one commit each and 500 at a time; an indexed query
rest  memory of a process that opens many documents and idles, and the same query there

Ours and ``raw`` let SQLite wait for the disk at every commit (synchronous=FULL), so that what was
acknowledged survives a power cut. The column "raw NORMAL" is the same with synchronous=NORMAL, which
only survives a crash of the process. Bytes and round trips are taken in a run of their own, through a proxy
(see works.Syncs).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.figures import Runs, table
from tests.bench.peer_pouchdb import install, pouchdb
from tests.bench.processes import Processes
from tests.bench.works import OURS, RAW, RAW_NORMAL, Figures, Side, Syncs, at_rest, fan_out, hops, local

WORKS = ["W1", "W2", "W2p", "W3", "hops", "W4", "rest"]
NOT_SYNCED = {"W3", "hops", "W4"}
"""The works that commit so often that it matters what a commit waits for."""


def measure(side: Side, folder: Path, works: set[str], count: int, large: int) -> Figures:
    """One run of one side."""
    figures: Figures = {}
    with Processes() as processes:
        if works & {"W1", "W2", "W2p"}:
            syncs = Syncs(processes, side, folder / "sync", count)
            figures |= syncs.run(known="W2" in works, stranger="W2p" in works)
        if "W2p" in works and large:
            found = Syncs(processes, side, folder / "large", large).run(known=False, stranger=True)
            figures |= {f"{name}, large": value for name, value in found.items()}
        if "W3" in works:
            figures |= fan_out(processes, side, folder)
        if "hops" in works:
            figures |= hops(processes, side, folder)
        if "W4" in works:
            figures |= local(processes, side, folder, count)
        if "rest" in works and large:
            figures |= at_rest(processes, side, folder, large)
    return figures


def disk_wait() -> float:
    """Seconds that the disk takes to keep 4 KiB: what every commit waits for at least."""
    seconds = []
    with tempfile.NamedTemporaryFile(buffering=0) as file:
        for _ in range(100):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=WORKS, metavar="WORK")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000, help='what "many" is; 0 leaves that out')
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-pouchdb", action="store_true", help="do not install and measure PouchDB")
    options = parser.parse_args()
    works = set(options.only)
    runs: Runs = {}
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as installed:
        why_not = "it was not asked for"
        if not options.no_pouchdb and works & {"W1", "W4"}:
            why_not = install(Path(installed)) or ""
        for number in range(1, options.runs + 1):
            waits.append(disk_wait())
            for side in (RAW, OURS, RAW_NORMAL):
                chosen = works & NOT_SYNCED if side is RAW_NORMAL else works
                if chosen:
                    print(f"run {number} of {options.runs}: {side.name}", file=sys.stderr)
                    with tempfile.TemporaryDirectory() as folder:
                        found = measure(side, Path(folder), chosen, options.documents, options.large)
                    runs.setdefault(side.name, []).append(found)
            if not why_not:
                with tempfile.TemporaryDirectory() as folder, Processes() as processes:
                    found = pouchdb(processes, Path(installed), Path(folder), options.documents, works)
                runs.setdefault("PouchDB", []).append(found)
    print(f"{options.documents:,} documents (many: {options.large:,}), medians of {options.runs} runs")
    print(f"the disk takes {statistics.median(waits) * 1e3:.2f} ms to keep a page\n")
    print(table(runs, [side for side in (RAW_NORMAL.name, "PouchDB") if side in runs]))
    if why_not and works & {"W1", "W4"}:
        print(f"\nPouchDB was left out: {why_not}.")


if __name__ == "__main__":
    main()
