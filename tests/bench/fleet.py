"""A fleet in one process: one publisher, N nodes in a random mesh over in-memory links, 1 MiB to all.

    PYTHONPATH=. python tests/bench/fleet.py [--nodes 50 100 200]

Production code on virtual time. Prints, for each size, the real seconds until the publisher has merged every
receipt, and what that cost per node on its links; a cost per node that stays level means a total that grows
with the fleet and no faster.
"""

from __future__ import annotations

import argparse
import random
import time

from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

SIZE = 1 << 20


async def distribute(count: int) -> dict[str, float]:
    rng = random.Random(count)
    world = World(count)
    for i in range(count):
        peers = sorted({f"n{rng.randrange(i)}" for _ in range(min(i, 2))})
        await world.start(f"n{i}", peers)
    publisher = world.nodes["n0"]
    for node in world.nodes.values():
        await node.settled(600)
    before = sum(node.stats().document_bytes_in for node in world.nodes.values())
    token = await publisher.attachments.add(rng.randbytes(SIZE))
    started = time.perf_counter()
    handle = await publisher.distributions.distribute(token)
    status = await publisher.distributions.wait_for_completion(
        handle, 3600, min_targets=count - 1, settle=0.0
    )
    assert status.is_success
    after = [node.stats() for node in world.nodes.values()]
    found = {
        "real s": time.perf_counter() - started,
        "document kB per node": (sum(s.document_bytes_in for s in after) - before) / count / 1e3,
        "copies received per node": sum(s.blob_bytes_in for s in after) / (count - 1) / SIZE,
        "copies sent by the publisher": publisher.stats().blob_bytes_out / SIZE,
    }
    await world.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 100, 200])
    for count in parser.parse_args().nodes:
        found = run_virtual(distribute(count))
        print(f"{count:4} nodes:", "  ".join(f"{name} {value:,.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
