"""A swarm: one blob to many subscribers at once, every node's uplink capped, real processes on loopback.

    python -m tests.bench.swarm [--mib 32] [--subscribers 8] [--mbit 20] [--runs 1]

Prints, per run, the wall time as a multiple of one copy at line rate, and what the publisher sent as a
multiple of the size. A naive star would take as many times both as there are subscribers.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.processes import Processes


def measure(mib: int, subscribers: int, mbit: float) -> tuple[float, float]:
    """(wall / ideal, publisher's upload / size)."""
    size, rate = mib << 20, mbit * 1e6 / 8
    with tempfile.TemporaryDirectory() as name, Processes() as processes:
        nodes = [processes.start("blob_worker") for _ in range(subscribers + 1)]
        addresses: list[str] = []
        for number, node in enumerate(nodes):
            address = node("start", folder=str(Path(name) / str(number)), upload_limit=rate)
            node("connect", urls=addresses)
            addresses.append(address)
        publisher, *others = nodes
        token = publisher("add", size=size)
        for node in others:
            node("fetch", tokens=[token])
        for node in others:
            node.ask("fetched")
        wall = max(node.answer() for node in others)
        return wall / (size / rate), publisher("served") / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--subscribers", type=int, default=8)
    parser.add_argument("--mbit", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{arguments.mib} MiB to {arguments.subscribers} subscribers, uplinks of {arguments.mbit:g} Mbit/s")
    for _ in range(arguments.runs):
        wall, sent = measure(arguments.mib, arguments.subscribers, arguments.mbit)
        print(f"  wall {wall:.2f} x one copy at line rate, publisher sent {sent:.2f} x the size", flush=True)


if __name__ == "__main__":
    main()
