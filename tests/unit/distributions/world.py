"""A world of fake nodes for the service of distributions: who is online, and what reaches whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Self

from mesh.core.delivery import ReceiveMode
from mesh.core.identity import node_id_of
from mesh.core.receipts import NodeRecord, Receipt
from mesh.core.scopes import Capabilities, Formation, NodeFacts
from mesh.core.status import DistributionHandle, DistributionStatus, TransferState
from mesh.distributions.policy import Policy
from mesh.distributions.reception import Reception
from mesh.distributions.service import MeshFileDistribution
from tests.simulation.virtual_clock import run_virtual
from tests.unit.distributions.fakes import FakeBlobs, FakeDocuments, Key, document_of

EPOCH = 1_800_000_000.0

GHOST = node_id_of(b"ghost")
"""The id of a node that nobody ever meets."""

NORTH = Formation("north")


class FakePeer:
    """One node: its disk survives :meth:`World.restart`, its service does not."""

    def __init__(
        self,
        world: World,
        node_id: str,
        facts: NodeFacts,
        reception: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self.world = world
        self.node_id = node_id
        self.facts = facts
        self.reception = reception
        self.options = options
        self.skew = 0.0
        self.documents = FakeDocuments(world, node_id)
        self.blobs = FakeBlobs(world, node_id)
        self.service: MeshFileDistribution

    def clock(self) -> float:
        """Wall clock of this node."""
        return self.world.now() + self.skew

    async def up(self) -> None:
        """Start the service and say who this is."""
        await self._describe()
        reception = Reception(
            self.node_id, lambda: self.facts, self.clock, self.world.random, **self.reception
        )
        self.service = MeshFileDistribution(self.documents, self.blobs, reception, **self.options)
        await self.service.start()

    async def restart(self, **reception: Any) -> None:
        """Stop and start again, with the same disk."""
        await self.service.close()
        self.documents.wants.clear()
        self.documents.selectors.clear()
        self.reception.update(reception)
        await self.up()

    async def set_formations(self, *formations: str) -> None:
        """Join and leave formations."""
        self.facts = NodeFacts(formations, self.facts.capabilities)
        await self._describe()
        self.service.facts_changed()

    def receipt(self, distribution_id: str) -> Receipt | None:
        """This node's own receipt as it is on its disk."""
        held = self.documents.held.get(("receipts", f"{distribution_id}:{self.node_id}"))
        return None if held is None else Receipt.parse(document_of(f"{distribution_id}:{self.node_id}", held))

    async def _describe(self) -> None:
        record = NodeRecord(
            self.node_id,
            self.node_id,
            list(self.facts.formations),
            self.facts.capabilities,
            bool(self.options.get("hub")),
            None,
            "0",
            0.0,
        )
        await self.documents.write("nodes", self.node_id, record.body())


class World:
    """Every node, who is online, and how documents travel."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.peers: dict[str, FakePeer] = {}
        self.offline: set[str] = set()
        self.unruly = False
        """Documents come late, twice and in another order."""
        self._waiters: list[asyncio.Future[None]] = []

    def now(self) -> float:
        """True time."""
        return EPOCH + asyncio.get_running_loop().time()

    def add(
        self,
        node_id: str,
        formations: Sequence[str] = (),
        capabilities: Capabilities | None = None,
        *,
        receive: ReceiveMode = "auto",
        inbox: Path | None = None,
        policy: Policy | None = None,
        hub: bool = False,
        **options: Any,
    ) -> FakePeer:
        """A node that is not up yet."""
        facts = NodeFacts(tuple(formations), capabilities or Capabilities())
        reception = {"mode": receive, "inbox": inbox, "policy": policy}
        peer = self.peers[node_id] = FakePeer(self, node_id, facts, reception, options | {"hub": hub})
        return peer

    async def start(self, node_id: str, formations: Sequence[str] = (), **options: Any) -> FakePeer:
        """A node that is up and connected with every other."""
        peer = self.add(node_id, formations, **options)
        await peer.up()
        self.catch_up(peer.documents)
        return peer

    def disconnect(self, peer: FakePeer) -> None:
        """Nothing reaches it or leaves it."""
        self.offline.add(peer.node_id)
        self.blobs_changed()

    def reconnect(self, peer: FakePeer) -> None:
        """It hears what it has missed, and so do the others."""
        self.offline.discard(peer.node_id)
        for other in self.peers.values():
            self.catch_up(other.documents)
        self.blobs_changed()

    def spread(self, source: FakeDocuments, key: Key) -> None:
        """A document of ``source`` goes to everybody who is online and wants it."""
        for peer in self.peers.values():
            self._send(source, peer.documents, key)

    def catch_up(self, target: FakeDocuments) -> None:
        """Everybody who is online sends ``target`` what it wants."""
        for peer in self.peers.values():
            for key in list(peer.documents.held):
                self._send(peer.documents, target, key)

    def _send(self, source: FakeDocuments, target: FakeDocuments, key: Key) -> None:
        versioned = source.held[key]
        apart = {source.node_id, target.node_id} & self.offline
        if source is target or apart or not target.is_wanted(key, versioned):
            return
        loop = asyncio.get_running_loop()
        if not self.unruly:
            loop.call_soon(target.receive, key, versioned)
            return
        for _ in range(self.random.choice((1, 2, 3))):
            loop.call_later(self.random.uniform(0, 0.3), target.receive, key, versioned)

    def content(self, target: FakeBlobs, hash: str) -> bytes | None:
        """The bytes of a blob, if somebody who is online holds it."""
        if target.node_id in self.offline:
            return None
        for peer in self.peers.values():
            if peer.node_id not in self.offline and hash in peer.blobs.held:
                return peer.blobs.held[hash]
        return None

    def blobs_changed(self) -> None:
        """Somebody has a new blob, or somebody came or went."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def next_blob_change(self) -> None:
        """Wait for :meth:`blobs_changed`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for peer in self.peers.values():
            if hasattr(peer, "service"):
                await peer.service.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"


def in_a_world(test: Callable[..., Coroutine[Any, Any, None]], *args: Any, seed: int = 0) -> None:
    """Run ``test(world, *args)`` in virtual time; afterwards every service is closed and no task is left."""

    async def main() -> None:
        async with World(seed) as world:
            await test(world, *args)

    run_virtual(main())


async def later(seconds: float = 60.0) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)


def states(status: DistributionStatus) -> dict[str, TransferState]:
    """The state of every target."""
    return {node_id: node.status for node_id, node in status.node_statuses.items()}


async def published(world: World, *, seconds: float = 1.0) -> tuple[FakePeer, FakePeer, DistributionHandle]:
    """A publisher, a node whose fetches take so many seconds, and what was distributed to its formation."""
    hq, van = await world.start("hq"), world.add("van", ["north"])
    van.blobs.seconds = seconds
    await van.up()
    return hq, van, await hq.service.distribute(hq.blobs.add(b"x" * 1000), NORTH)


def status_of(peer: FakePeer, handle: DistributionHandle) -> tuple[TransferState, str | None]:
    """The node's own receipt: its status and error."""
    receipt = peer.receipt(handle.distribution_id)
    assert receipt is not None
    return receipt.status, receipt.error


@contextmanager
def no_overwrites(path: Path) -> Iterator[None]:
    """What ``path`` holds is the same afterwards."""
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before
