"""Many small blobs from process to process over loopback, beside small files over a plain WebSocket.

    python -m tests.bench.blobs [--blobs 10000] [--runs 3]

All are fetched at once; each is verified and durable. Prints medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.bench.processes import Processes

SMALLEST, LARGEST = 1024, 16 * 1024


def mesh(folder: Path, count: int) -> dict[str, float]:
    """Blobs a second, and what both ends used."""
    with Processes() as processes:
        holder, fetcher = processes.start("blob_worker"), processes.start("blob_worker")
        address = holder("start", folder=str(folder / "holder"))
        fetcher("start", folder=str(folder / "fetcher"))
        tokens = holder("add_small", count=count, smallest=SMALLEST, largest=LARGEST)
        fetcher("connect", urls=[address])
        before = [end("usage") for end in (holder, fetcher)]
        fetcher("fetch", tokens=tokens)
        seconds = fetcher("fetched")
        after = [end("usage") for end in (holder, fetcher)]
    cpu = sum(end["cpu"] for end in after) - sum(end["cpu"] for end in before)
    return {"rate": count / seconds, "cpu": cpu / count * 1e6, "peak": max(end["peak"] for end in after)}


def raw(folder: Path, count: int) -> dict[str, float]:
    """The same of the plain WebSocket."""
    with Processes() as processes:
        holder, fetcher = processes.start("raw_blob_worker"), processes.start("raw_blob_worker")
        address = holder("start", folder=str(folder / "holder"))
        fetcher("start", folder=str(folder / "fetcher"))
        names = holder("add_small", count=count, smallest=SMALLEST, largest=LARGEST)
        before = [end("usage") for end in (holder, fetcher)]
        seconds = fetcher("fetch", url=address, names=names)
        after = [end("usage") for end in (holder, fetcher)]
    cpu = sum(end["cpu"] for end in after) - sum(end["cpu"] for end in before)
    return {"rate": count / seconds, "cpu": cpu / count * 1e6, "peak": max(end["peak"] for end in after)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {"mesh": [], "raw": []}
    for _ in range(arguments.runs):
        for kind, measure in (("mesh", mesh), ("raw", raw)):
            with tempfile.TemporaryDirectory() as name:
                results[kind].append(measure(Path(name), arguments.blobs))
    print(f"{arguments.blobs} blobs of 1 to 16 KiB, medians of {arguments.runs}")
    for kind, figures in results.items():
        middle = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
        print(
            f"  {kind:5} {middle['rate']:6.0f} blobs/s  {middle['cpu']:5.0f} CPU us each, both ends  "
            f"{middle['peak']:4.0f} MB at most"
        )


if __name__ == "__main__":
    main()
