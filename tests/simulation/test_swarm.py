"""One blob for many subscribers, on the virtual clock: how long it takes, and what the publisher sends."""

from __future__ import annotations

import asyncio
import random

import pytest

from mesh.attachments.service import Attachments
from mesh.core.identity import Identity
from mesh.core.rates import Limits
from mesh.network.memory import MemoryNetwork, Path
from mesh.network.peers import Peers
from mesh.storage.blob_memory import MemoryBlobs
from tests.simulation.virtual_clock import run_virtual

MIB = 1 << 20
LINE_RATE = 20e6 / 8
SIZE = 32 * MIB


async def swarm(seed: int, subscribers: int, *, size: int = SIZE, delay: float = 0.01) -> tuple[float, float]:
    """(time / that of one copy at line rate, bytes sent by the publisher / size), every uplink capped."""
    rng = random.Random(seed)
    network = MemoryNetwork(rng, path=Path(delay))
    nodes: list[tuple[Peers, Attachments]] = []
    for number in range(subscribers + 1):
        identity = Identity((b"%d-%d" % (seed, number)).ljust(32, b"."))
        name = f"n{number}"
        peers = Peers(identity, network.transport(name), name=name, rng=rng)
        attachments = Attachments(
            MemoryBlobs(),
            peers,
            node_id=identity.node_id,
            random=random.Random(rng.random()),
            clock=lambda: 1e9 + asyncio.get_running_loop().time(),
            limits=Limits(upload=LINE_RATE),
        )
        await attachments.start()
        await peers.start("127.0.0.1:7700")
        nodes.append((peers, attachments))
    for number, (peers, _) in enumerate(nodes):
        for other in range(number):
            await peers.connect(f"ws://n{other}:7700")
    token = await nodes[0][1].add(rng.randbytes(size))
    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(attachments.fetch(token) for _, attachments in nodes[1:]))
    took = asyncio.get_running_loop().time() - started
    sent = nodes[0][1].served_bytes
    for _, attachments in nodes:
        await attachments.close()
    for peers, _ in nodes:
        await peers.close()
    return took / (size / LINE_RATE), sent / size


@pytest.mark.parametrize("seed", range(3))
def test_a_swarm_takes_little_longer_than_one_copy(seed: int) -> None:
    took, sent = run_virtual(swarm(seed, 8))
    assert took <= 1.35
    assert sent <= 1.5


def test_a_swarm_of_two() -> None:
    took, sent = run_virtual(swarm(0, 2))
    assert took <= 1.35
    assert sent <= 1.5
