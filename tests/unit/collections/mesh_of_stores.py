"""The document layer of some nodes, wired as a node wires it, on a virtual clock and a network in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlite_utils

from mesh.collections.collection import Collection
from mesh.collections.observers import Observers
from mesh.collections.owned import OwnedDocuments
from mesh.collections.replication import Replicator
from mesh.collections.subscriptions import Subscriptions
from mesh.core.identity import Identity
from mesh.core.wire import InterestEntry
from mesh.network.memory import MemoryNetwork
from mesh.network.peers import Peers
from mesh.storage import schema
from mesh.storage.connection import make_shrinkable
from mesh.storage.documents import DocumentStore
from mesh.storage.worker import InlineWorker, Worker
from tests.simulation.late_worker import LateWorker


@cache
def empty_store() -> bytes:
    """The file of a store with all its tables, which take longer to make than most tests to run."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    make_shrinkable(connection)
    schema.migrate(sqlite_utils.Database(connection, execute_plugins=False))
    content = connection.serialize()
    connection.close()
    return content


class DocumentNode:
    """One node; it can be stopped and started again, with a file even as itself."""

    def __init__(self, world: MeshOfStores, name: str, folder: Path | None) -> None:
        self.world = world
        self.name = name
        self.rng = random.Random(f"{world.seed}/{name}")
        self.identity = Identity(self.rng.randbytes(32))
        self.path = None if folder is None else folder / f"{name}.sqlite"
        self.running = False

    async def start(self, *dials: DocumentNode) -> None:
        loop = asyncio.get_running_loop()

        def clock() -> float:
            return 1.7e9 + loop.time()

        reader = self._worker("reader") if self.world.late else None
        self.store = DocumentStore(self.path, self._worker("writer"), reader, rng=self.rng, clock=clock)
        self.peers = Peers(
            self.identity, self.world.network.transport(self.name), name=self.name, rng=self.rng, clock=clock
        )
        self.replicator = Replicator(self.store, self.peers, node_id=self.identity.node_id, clock=clock)
        self.observers = Observers(self.store)
        self.subscriptions = Subscriptions(self.store, self.replicator)
        self.owned = OwnedDocuments(self.store, self.observers, self.replicator, self.identity)
        if self.path is not None and not self.path.exists():
            self.path.write_bytes(empty_store())
        await self.store.open()
        self.replicator.start()
        await self.subscriptions.load()
        for other in dials:
            self.peers.dialer.add(other.url)
        await self.peers.start(f"{self.name}:1")
        self.running = True

    def _worker(self, name: str) -> Worker:
        seed = f"{self.world.seed}/{self.name}/{name}"
        return LateWorker(random.Random(seed)) if self.world.late else InlineWorker()

    async def stop(self) -> None:
        """In good order."""
        if self.running:
            self.running = False
            await self.peers.close()
            await self.replicator.close()
            self.observers.close()
            await self.store.close()

    async def crash(self) -> None:
        """The network notices nothing but silence; what has not been saved by then is lost."""
        self.world.network.crash(self.name)
        await self.stop()

    @property
    def url(self) -> str:
        return f"ws://{self.name}:1"

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    def collection(self, name: str = "cars") -> Collection:
        return Collection(
            name, self.store, self.observers, self.subscriptions, lambda: self.rng.randbytes(8).hex()
        )

    def want(self, *entries: InterestEntry) -> None:
        for number, entry in enumerate(entries):
            self.replicator.want(f"test:{number}", entry)

    async def connect(self, other: DocumentNode) -> None:
        await self.peers.connect(other.url)

    async def settled(self, timeout: float = 600.0) -> None:
        await self.replicator.settled(
            timeout, lambda: [t.url for t in self.peers.dialer.targets if t.state != "connected"]
        )

    async def contents(self, name: str = "cars") -> dict[str, Any]:
        return {document.pop("_id"): document for document in await self.collection(name).find()}

    def traffic(self) -> tuple[int, int]:
        return self.peers.bytes_in, self.peers.bytes_out


class MeshOfStores:
    """Some nodes and what lies between them. ``late``: their stores work as if on threads."""

    late = False

    def __init__(self, seed: int = 1, folder: Path | None = None) -> None:
        self.seed = seed
        self.folder = folder
        self.network = MemoryNetwork(random.Random(f"{seed}/network"))
        self.nodes: dict[str, DocumentNode] = {}

    async def add(self, name: str, *dials: DocumentNode) -> DocumentNode:
        node = self.nodes[name] = DocumentNode(self, name, self.folder)
        await node.start(*dials)
        return node

    async def line(self, count: int) -> list[DocumentNode]:
        nodes = [await self.add(f"n{i}") for i in range(count)]
        for one, other in pairwise(nodes):
            await one.connect(other)
        return nodes

    async def settle(self) -> None:
        """Everybody has settled, for as many hops as there may be."""
        running = [node for node in self.nodes.values() if node.running]
        for _ in range(len(running) + 1):
            for node in running:
                await node.settled()


@contextlib.asynccontextmanager
async def mesh_of_stores(seed: int = 1, folder: Path | None = None) -> AsyncIterator[MeshOfStores]:
    world = MeshOfStores(seed, folder)
    try:
        yield world
    finally:
        for node in world.nodes.values():
            await node.stop()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    assert not rest, f"left behind: {rest}"
