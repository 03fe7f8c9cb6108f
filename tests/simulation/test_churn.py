"""One blob in an unsteady mesh, on the virtual clock: whoever wants it and is connected long enough gets it,
and what is sent for that stays in its bounds. ``MESH_TEST_THOROUGH=5`` tries five meshes."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress

import pytest

from mesh.attachments.service import Attachments
from mesh.core.identity import Identity
from mesh.core.tokens import BlobToken
from mesh.errors import NotStarted
from mesh.network.memory import MemoryNetwork, Path
from mesh.network.peers import Peers
from mesh.storage.blob_memory import MemoryBlobs
from tests.simulation.virtual_clock import run_virtual

NODES = 100
SIZE = 2 * (1 << 20) + 77
LINE_RATE = 1e6
CHURN_SECONDS = 60.0
CALM_SECONDS = 200.0
"""Nothing changes any more: everybody is connected for so long."""

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))


class Churning:
    """A random connected mesh; what nodes hold survives them, and memory of what they were sent does not."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.network = MemoryNetwork(self.rng, path=Path(0.01, jitter=0.01), bytes_per_second=LINE_RATE)
        self.dials = {number: {self.rng.randrange(number)} for number in range(1, NODES)} | {0: set()}
        for _ in range(NODES):
            one, other = self.rng.sample(range(NODES), 2)
            self.dials[max(one, other)].add(min(one, other))
        self.stores = {number: MemoryBlobs() for number in range(NODES)}
        self.up: dict[int, tuple[Peers, Attachments]] = {}
        self.received = dict.fromkeys(range(NODES), 0)
        self.served = dict.fromkeys(range(NODES), 0)

    async def start(self, number: int) -> None:
        """A node joins, or comes back."""
        identity = Identity((b"%d" % number).ljust(32, b"."))
        transport = self.network.transport(f"n{number}")
        peers = Peers(identity, transport, name=f"n{number}", rng=random.Random(self.rng.random()))
        attachments = Attachments(
            self.stores[number],
            peers,
            node_id=identity.node_id,
            random=random.Random(self.rng.random()),
            clock=lambda: 1e9 + asyncio.get_running_loop().time(),
        )
        await attachments.start()
        await peers.start("127.0.0.1:7700")
        for other in self.dials[number]:
            peers.keep(f"ws://n{other}:7700")
        self.up[number] = peers, attachments

    async def stop(self, number: int) -> None:
        """A node leaves, or the process of one that crashed is gone."""
        peers, attachments = self.up.pop(number)
        self.received[number] += attachments.received_bytes
        self.served[number] += attachments.served_bytes
        await attachments.close()
        await peers.close()

    async def disturb(self) -> None:
        """Somebody leaves, crashes or joins, or a link breaks."""
        number = self.rng.randrange(1, NODES)
        what = self.rng.choice(["leave", "crash", "join", "join", "cut", "cut"])
        if what == "cut" and self.dials[number]:
            self.network.drop(f"n{number}", f"n{self.rng.choice(sorted(self.dials[number]))}")
        elif what == "join" and len(self.up) < NODES:
            await self.start(self.rng.choice(sorted(set(range(NODES)) - set(self.up))))
        elif what in ("leave", "crash") and number in self.up:
            if what == "crash":
                self.network.crash(f"n{number}")
            await self.stop(number)


async def fetched(attachments: Attachments, token: BlobToken) -> None:
    """Fetch the blob; a node that is closed meanwhile asks again in its next life."""
    with suppress(NotStarted):
        await attachments.fetch(token)


async def churn(seed: int) -> tuple[float, float]:
    """(sizes that the publisher sent per link of its, sizes that were received per copy that came to be)."""
    mesh = Churning(seed)
    for number in range(NODES):
        await mesh.start(number)
    await asyncio.sleep(5)
    token = await mesh.up[0][1].add(mesh.rng.randbytes(SIZE))
    await mesh.up[0][1].pin(token.hash)
    wanting = mesh.rng.sample(range(1, NODES), NODES // 2)
    fetches: dict[int, asyncio.Task[None]] = {}

    def ask() -> None:
        for number in wanting:
            if number in mesh.up and (number not in fetches or fetches[number].done()):
                fetches[number] = asyncio.create_task(fetched(mesh.up[number][1], token))

    end = asyncio.get_running_loop().time() + CHURN_SECONDS
    while asyncio.get_running_loop().time() < end:
        ask()
        await asyncio.sleep(mesh.rng.expovariate(2))
        await mesh.disturb()
    for number in sorted(set(range(NODES)) - set(mesh.up)):
        await mesh.start(number)
    ask()
    async with asyncio.timeout(CALM_SECONDS):
        await asyncio.gather(*fetches.values())
    for number in wanting:
        assert mesh.stores[number].exists(token.hash)
    copies = sum(store.exists(token.hash) for store in mesh.stores.values()) - 1
    for number in list(mesh.up):
        await mesh.stop(number)
    links = sum(0 in dialled for dialled in mesh.dials.values())
    return mesh.served[0] / SIZE / links, sum(mesh.received.values()) / SIZE / copies


@pytest.mark.parametrize("seed", range(THOROUGH))
def test_everybody_who_wants_it_gets_it(seed: int) -> None:
    sent, received = run_virtual(churn(seed))
    assert sent <= 2.0  # each of its links breaks now and then, and what was on its way is sent again
    assert received <= 2.0  # so does every other, and nodes that stop lose what they had in part
