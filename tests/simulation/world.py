"""A mesh in a box: production nodes over in-memory links, on virtual time, from one seed.

Nodes keep their data in a directory each, so that they can crash and come back; nothing runs on a thread.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from mesh import Credentials, Node
from mesh.core.delivery import ReceiveMode
from mesh.core.scopes import Capabilities
from mesh.network.link import Link
from mesh.network.memory import MemoryNetwork, MemoryTransport
from mesh.network.memory import Path as NetworkPath
from mesh.node.environment import Environment
from mesh.storage.worker import InlineWorker, Worker
from tests.simulation.late_worker import LateWorker

EPOCH = 1_800_000_000.0
ANY_MACHINE = Capabilities(cpu_arch="x86_64")


class World:
    """Makes nodes, breaks them, and brings them back.

    Args:
        seed: everything random follows from it. With an odd one, files are worked on as if on threads.
        root: holds a directory per node that survives its crashes; ``None``: nodes live in memory and cannot
            come back.
        delay: seconds that a message takes between any two nodes.
    """

    def __init__(self, seed: int, root: Path | None = None, *, delay: float = 0.0) -> None:
        self.random = random.Random(seed)
        self._late = bool(seed % 2)
        rng = random.Random(self.random.random())
        self.network = MemoryNetwork(rng, path=NetworkPath(delay))
        self.nodes: dict[str, Node] = {}
        self.root = root
        self._made: dict[str, dict[str, object]] = {}

    async def start(
        self,
        name: str,
        peers: Iterable[str] = (),
        *,
        formations: Iterable[str] = (),
        hub: bool = False,
        skew: float = 0.0,
        inbox: bool = False,
        credentials: Credentials | None = None,
        receive: ReceiveMode = "auto",
        capabilities: Capabilities = ANY_MACHINE,
    ) -> Node:
        """A running node that dials the nodes named ``peers``. ``skew``: seconds that its clock is off."""
        self._made[name] = {
            "peers": tuple(peers), "formations": tuple(formations), "hub": hub, "skew": skew, "inbox": inbox,
            "credentials": credentials, "receive": receive, "capabilities": capabilities,
        }  # fmt: skip
        return await self.restart(name)

    @property
    def down(self) -> list[str]:
        """The nodes that have been started and are not running."""
        return [name for name in self._made if name not in self.nodes]

    async def restart(self, name: str, **changes: object) -> Node:
        """Bring a node back as it was made, but for ``changes`` of what :meth:`start` takes."""
        made = self._made[name]
        assert changes.keys() <= made.keys()
        made.update(changes)
        loop = asyncio.get_running_loop()
        skew = made["skew"]
        assert isinstance(skew, float)
        home = None if self.root is None else self.root / name
        peers, formations = made["peers"], made["formations"]
        assert isinstance(peers, tuple)
        assert isinstance(formations, tuple)
        credentials = made["credentials"]
        assert credentials is None or isinstance(credentials, Credentials)
        node = Node(
            home,
            name=name,
            credentials=credentials,
            listen=_address(name),
            peers=[f"ws://{_address(peer)}" for peer in peers],
            formations=formations,
            capabilities=cast(Capabilities, made["capabilities"]),
            hub=bool(made["hub"]),
            receive=cast(ReceiveMode, made["receive"]),
            inbox=home / "inbox" if made["inbox"] and home is not None else None,
            environment=Environment(
                transport=lambda: MemoryTransport(self.network, _host(name)),
                secure_transport=lambda credentials: MemoryTransport(self.network, _host(name)),
                random=random.Random(self.random.random()),
                clock=lambda: EPOCH + skew + loop.time(),
                worker=lambda kind: self._worker(f"{name}/{kind}"),
            ),
        )
        await node.start()
        self.nodes[name] = node
        return node

    def _worker(self, name: str) -> Worker:
        return LateWorker(random.Random(name)) if self._late else InlineWorker()

    def link(self, name: str, peer: str) -> Link:
        """The link that one node has with another."""
        parts = self.nodes[name]._parts
        assert parts is not None
        return parts.peers.links[self.nodes[peer].node_id]

    async def stop(self, name: str) -> None:
        """Close a node."""
        await self.nodes.pop(name).close()

    async def crash(self, name: str) -> None:
        """The node's links break without a word; what was not committed is lost."""
        self.network.crash(_host(name))
        await self.stop(name)

    async def close(self) -> None:
        """Close everything."""
        for name in list(self.nodes):
            await self.stop(name)


async def pair(seed: int, root: Path, **options: Any) -> tuple[World, Node, Node]:
    """``a``, and ``b`` (of which the options are) that dials it, linked."""
    world = World(seed, root, delay=0.005)
    a, b = await world.start("a"), await world.start("b", ["a"], **options)
    await asyncio.sleep(1)
    return world, a, b


def _host(name: str) -> str:
    return name


def _address(name: str) -> str:
    return f"{name}:7700"
