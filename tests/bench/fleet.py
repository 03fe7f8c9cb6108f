"""A fleet in one process: one publisher, N nodes in a random mesh over in-memory links, 1 MiB to all.

    PYTHONPATH=. python tests/bench/fleet.py [--nodes 50 100 200 400]

Production code on virtual time, 10 ms from node to node. Prints, for each size, what it took until the
publisher has merged every receipt: time, and what passed on the links of a node. A cost per node that stays
level means a total that grows with the fleet and no faster: the last lines say by how much each grew.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from itertools import pairwise

from mesh.network.memory_connection import MemoryConnection
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

SIZE = 1 << 20

Figures = dict[str, float]


class Counted:
    """How many messages the connections of this process have sent."""

    def __init__(self) -> None:
        self.messages = 0
        send = MemoryConnection.send

        async def counting(connection: MemoryConnection, message: bytes) -> None:
            self.messages += 1
            await send(connection, message)

        MemoryConnection.send = counting  # type: ignore[assignment, method-assign]


async def distribute(count: int, counted: Counted) -> Figures:
    """What it took to bring 1 MiB to all of ``count`` nodes."""
    rng = random.Random(count)
    world = World(2 * count, delay=0.01)
    for i in range(count):
        peers = sorted({f"n{rng.randrange(i)}" for _ in range(min(i, 2))})
        await world.start(f"n{i}", peers)
    publisher = world.nodes["n0"]
    for node in world.nodes.values():
        await node.settled(600)
    before = [node.stats() for node in world.nodes.values()]
    messages, loop = counted.messages, asyncio.get_running_loop()
    token = await publisher.attachments.add(rng.randbytes(SIZE))
    started, began = time.process_time(), loop.time()
    handle = await publisher.distributions.distribute(token)
    status = await publisher.distributions.wait_for_completion(
        handle, 3600, min_targets=count - 1, settle=0.0
    )
    assert status.is_success
    after = [node.stats() for node in world.nodes.values()]
    documents = sum(s.document_bytes_in for s in after) - sum(s.document_bytes_in for s in before)
    found = {
        "CPU s": time.process_time() - started,
        "CPU ms per node": (time.process_time() - started) / count * 1e3,
        "virtual s": loop.time() - began,
        "messages per node": (counted.messages - messages) / count,
        "document kB per node": documents / count / 1e3,
        "MiB received per node": sum(s.blob_bytes_in for s in after) / (count - 1) / SIZE,
        "MiB sent by the publisher": publisher.stats().blob_bytes_out / SIZE,
    }
    await world.close()
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 100, 200, 400])
    counted, found = Counted(), {}
    for count in parser.parse_args().nodes:
        found[count] = run_virtual(distribute(count, counted))
        print(f"{count:4} nodes:", _line(found[count]), flush=True)
    for fewer, more in pairwise(found):
        growth = {name: value / found[fewer][name] for name, value in found[more].items()}
        print(f"{fewer} -> {more}:", _line(growth))


def _line(figures: Figures) -> str:
    return "  ".join(f"{name} {value:,.2f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
