"""Nodes that are nothing but peers, on a network in memory."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from mesh.core.identity import Identity
from mesh.core.wire import Ack
from mesh.network.memory import MemoryNetwork, Path
from mesh.network.peers import Peers
from mesh.network.transport import Connection, Transport


class World:
    """A network in memory and the nodes on it. Every node is on a host of its own name."""

    def __init__(self, seed: int = 1, path: Path = Path(0.02)) -> None:  # noqa: B008
        self.rng = random.Random(seed)
        self.network = MemoryNetwork(self.rng, path=path)
        self.nodes: list[Node] = []

    def node(self, name: str, **kwargs: Any) -> Node:
        node = Node(name, self.network.transport(name), rng=self.rng, **kwargs)
        self.nodes.append(node)
        return node

    async def started(self, *names: str, **kwargs: Any) -> list[Node]:
        nodes = [self.node(name, **kwargs) for name in names]
        for node in nodes:
            await node.start("127.0.0.1:7700")
        return nodes

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self.nodes))
        await asyncio.sleep(1)  # for what the other ends still have to notice
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not any(self.network.host(node.name).connections for node in self.nodes)


class Node(Peers):
    """Peers that note what happens to them."""

    def __init__(self, name: str, transport: Transport, **kwargs: Any) -> None:
        self.identity = kwargs.pop("identity", None) or Identity(name.encode().ljust(32, b"-"))
        super().__init__(self.identity, transport, name=name, clock=lambda: 1000.0, **kwargs)
        self.name = name
        self.node_id = self.identity.node_id
        self.events: list[tuple[str, str]] = []
        self.received: list[Any] = []
        self.changed = asyncio.Event()
        self.on_up(lambda link: self._note("up", link.name))
        self.on_down(lambda link, reason: self._note("down", link.name))
        self.handle(Ack, lambda link, message: self._receive(message))

    def _note(self, what: str, name: str) -> None:
        self.events.append((what, name))
        self.changed.set()

    def _receive(self, message: Any) -> None:
        self.received.append(message)
        self.changed.set()

    async def until_linked(self, *others: Node) -> None:
        while not all(other.node_id in self.links for other in others):
            self.changed.clear()
            await self.changed.wait()

    async def until_alone(self) -> None:
        while self.links:
            self.changed.clear()
            await self.changed.wait()


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


URL = "ws://{}:7700"


async def take_all(node_id: str, connection: Connection) -> None:
    """Serve a bulk connection by reading it."""
    while True:
        await connection.receive()
