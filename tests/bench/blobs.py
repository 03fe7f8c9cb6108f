"""Many small blobs from process to process over loopback, beside small files over a plain WebSocket.

    python -m tests.bench.blobs [--blobs 10000] [--runs 3]
    python -m tests.bench.blobs --resume [--mib 256] [--runs 3]

All are fetched at once; each is verified and durable. Prints medians of interleaved runs. ``--resume``: one
large blob instead, whose receiver is killed with -9 at half of it and started anew: what the rest costs
beside the whole.
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
    return _figures(count, seconds, before, after)


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
    return _figures(count, seconds, before, after)


def _figures(
    count: int, seconds: float, before: list[dict[str, float]], after: list[dict[str, float]]
) -> dict[str, float]:
    holder, fetcher = (
        (now["cpu"] - then["cpu"]) / count * 1e6 for then, now in zip(before, after, strict=True)
    )
    peak = max(end["peak"] for end in after)
    return {"rate": count / seconds, "holder": holder, "fetcher": fetcher, "peak": peak}


def resumed(folder: Path, size: int) -> dict[str, float]:
    """Seconds of a whole fetch and of the rest after a kill at half; what was received for the rest."""
    with Processes() as processes:
        holder, fetcher = processes.start("blob_worker"), processes.start("blob_worker")
        address = holder("start", folder=str(folder / "holder"))
        token = holder("add", size=size)
        fetcher("start", folder=str(folder / "whole"))
        fetcher("connect", urls=[address])
        fetcher("fetch", tokens=[token])
        whole = fetcher("fetched")
        processes.close(fetcher)
        dying = processes.start("blob_worker")
        dying("start", folder=str(folder / "half"))
        dying("connect", urls=[address])
        dying("fetch_part", token=token, fraction=0.5)
        processes.kill(dying)
        fetcher = processes.start("blob_worker")
        fetcher("start", folder=str(folder / "half"))
        fetcher("connect", urls=[address])
        fetcher("fetch", tokens=[token])
        rest = fetcher("fetched")
        return {"whole": whole, "rest": rest, "received": fetcher("received") / size}


def compare_resuming(size: int, runs: int) -> None:
    """Print what :func:`resumed` measures."""
    found = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            found.append(resumed(Path(name), size))
    middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
    print(
        f"{size >> 20} MiB, killed at half: the rest took {middle['rest'] / middle['whole']:.2f} of the time "
        f"of the whole ({middle['whole']:.2f} s) and {middle['received']:.3f} of its bytes, medians of {runs}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--mib", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.resume:
        compare_resuming(arguments.mib << 20, arguments.runs)
        return
    results: dict[str, list[dict[str, float]]] = {"mesh": [], "raw": []}
    for _ in range(arguments.runs):
        for kind, measure in (("mesh", mesh), ("raw", raw)):
            with tempfile.TemporaryDirectory() as name:
                results[kind].append(measure(Path(name), arguments.blobs))
    print(f"{arguments.blobs} blobs of 1 to 16 KiB, medians of {arguments.runs}")
    for kind, figures in results.items():
        middle = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
        print(
            f"  {kind:5} {middle['rate']:6.0f} blobs/s  CPU us each: holder {middle['holder']:4.0f}, fetcher "
            f"{middle['fetcher']:4.0f}  {middle['peak']:4.0f} MB at most"
        )


if __name__ == "__main__":
    main()
