"""What the fleet does to nodes; here they run in this process, and messages between them take a while."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

from demo.fleet import TASKS, Fleet
from demo.processes import Supervisor
from mesh import Node
from mesh.control.server import ControlServer
from mesh.network.memory import MemoryNetwork, MemoryTransport
from mesh.network.memory import Path as NetworkPath
from mesh.node.environment import Environment

DELAY_SECONDS = 0.05


async def test_who_has_slept_through_a_change_holds_it_when_the_fleet_has_recovered(tmp_path: Path) -> None:
    """Or the conflict scenario would have it edit what it does not know, and half of the time lose."""
    network = MemoryNetwork(random.Random(7), path=NetworkPath(DELAY_SECONDS))
    async with Supervisor(tmp_path) as supervisor, AsyncExitStack() as stack:
        fleet = Fleet(supervisor)

        async def start(name: str, *peers: str) -> Node:
            environment = Environment(transport=lambda: MemoryTransport(network, name))
            node = Node(name=name, listen=f"{name}:7700", peers=peers, environment=environment)
            await stack.enter_async_context(node)
            process = supervisor.add(name, "node")
            process.home.mkdir()
            process.condition = "online"
            control = ControlServer(node, process.home, shutdown=lambda: None)
            await control.start()
            stack.push_async_callback(control.close)
            return node

        hub = await start("hub")
        edge = await start("edge", "ws://hub:7700")
        await edge.collection(TASKS).subscribe()
        await fleet.pause("edge")
        await hub.collection(TASKS).upsert({"_id": "shift-plan", "driver": "nobody"})
        await fleet.recover()
        assert await edge.collection(TASKS).get("shift-plan") == {"_id": "shift-plan", "driver": "nobody"}
