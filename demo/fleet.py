"""The mesh that the page controls: five nodes that are all linked, and whoever joins later."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakSet

from demo.processes import NodeFailed, NodeProcess, Supervisor
from demo.sensors import COLLECTION, write_readings
from mesh import Stream
from mesh.cli.units import size

HOST = "127.0.0.1"
TASKS = "tasks"
SHARED = (COLLECTION, TASKS, "nodes", "distributions", "receipts")
"""What every node holds, so that the page shows the same whichever it looks through."""
LOG_EVENTS = 100
SETTLE_SECONDS = 30.0

FIRST_TASKS = (
    {
        "_id": "antenna",
        "title": "Mend the antenna",
        "place": "north",
        "priority": 2,
        "done": False,
    },
    {"_id": "batteries", "title": "Count the batteries", "place": "south", "priority": 3, "done": False},
    {"_id": "maps", "title": "Hand out the new maps", "place": "north", "priority": 1, "done": True},
    {"_id": "shift-plan", "title": "Plan the night shift", "driver": "nobody yet", "vehicle": "none yet"},
)


class NotPossible(Exception):
    """What was asked of a process cannot be done as it is; the message says why."""


class Fleet:
    """The nodes as processes. Of what is in the mesh it knows nothing: that is the gateways' to tell.

    Args:
        origins: where the page may come from, for the gateways.
    """

    def __init__(self, supervisor: Supervisor, origins: Sequence[str] = ()) -> None:
        self._supervisor = supervisor
        self._origins = origins
        self._limits: dict[str, int] = {}
        self._cuts: set[tuple[str, str]] = set()  # (who refuses, whom)
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._events: list[dict[str, Any]] = []
        self._count = 0
        self._playing: str | None = None
        self._line = ""
        self._scenarios: list[dict[str, str]] = []
        self._watchers: WeakSet[Stream[dict[str, Any]]] = WeakSet()
        self._closed = False

    @property
    def nodes(self) -> list[NodeProcess]:
        """Every node, also those that do not run."""
        return list(self._supervisor.nodes.values())

    @property
    def hub(self) -> NodeProcess:
        """The node that was there first."""
        return self.nodes[0]

    def node(self, name: str) -> NodeProcess:
        """The node of this name.

        Raises:
            NotPossible: there is none.
        """
        try:
            return self._supervisor.nodes[name]
        except KeyError:
            raise NotPossible(f"there is no node {name!r}") from None

    # --- the beginning and the end ----------------------------------------------------------------

    async def start(self) -> None:
        """Start five nodes that dial each other, and give them a few documents.

        Raises:
            NodeFailed: a node did not start.
        """
        first = [self._add("hub", None, "--hub")]
        first += [self._add(f"{side}-{number}", side) for side in ("north", "south") for number in (1, 2)]
        try:
            async with asyncio.TaskGroup() as starting:
                for node in first:
                    starting.create_task(self._start(node))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        async with self.hub.control() as control:
            for task in FIRST_TASKS:
                await control.call("documents.upsert", {"collection": TASKS, "document": dict(task)})

    async def close(self) -> None:
        """End the readings, and every stream; the processes are the supervisor's."""
        self._closed = True
        for stream in list(self._watchers):
            stream.finish()
        for name in list(self._writers):
            await self._end_readings(name)

    async def recover(self) -> None:
        """Have every node up, online, linked and without a cap, and all of them hold the same.

        Raises:
            SettleTimeout: they do not come to hold the same.
        """
        for node in self.nodes:
            if node.condition in ("killed", "stopped"):
                await self.restart(node.name)
            elif node.condition == "offline":
                await self.resume(node.name)
        for one, other in list(self._cuts):
            await self.mend(one, other)
        if self._limits:
            await self.cap_all(None)
        # What somebody writes who has not heard of the last change is concurrent with it, and may lose.
        for node in self.nodes:
            async with node.control() as control:
                await control.call("node.settled", {"timeout": SETTLE_SECONDS})

    # --- what can be done to a node ---------------------------------------------------------------

    async def pause(self, name: str) -> None:
        """Take it offline: no links, but it goes on working for who is there."""
        node = self._expect(name, "online")
        async with node.control() as control:
            await control.call("node.pause")
        node.condition = "offline"
        self.tell(f"{name} was taken offline")

    async def resume(self, name: str) -> None:
        """Bring it back online."""
        node = self._expect(name, "offline")
        async with node.control() as control:
            await control.call("node.resume")
        node.condition = "online"
        self.tell(f"{name} was brought back online")

    async def kill(self, name: str) -> None:
        """``kill -9``."""
        node = self._expect(name, "online", "offline")
        await self._end_readings(name)
        pid = await self._supervisor.kill(node)
        self._restored(name)
        self.tell(f"{name} was killed: kill -9 {pid}", "bad")

    async def restart(self, name: str) -> None:
        """Stop it in good order, unless it was killed, and start it on what its disk holds."""
        node = self._expect(name, "online", "offline", "killed", "stopped")
        await self._end_readings(name)
        if node.process is not None:
            await self._supervisor.stop(node)
            self._changed()
        self._restored(name)
        await self._start(node)
        self.tell(f"{name} was started again", "good")

    async def cap(self, name: str, upload_limit: int | None) -> None:
        """Send files no faster, in bytes a second; ``None``: as fast as it goes."""
        node = self._expect(name, "online", "offline")
        await self._limit(node, upload_limit)
        self.tell(f"the uplink of {name} {_cap_text(upload_limit)}")

    async def cap_all(self, upload_limit: int | None) -> None:
        """:meth:`cap` for every node that runs."""
        for node in self.nodes:
            if node.condition in ("online", "offline") and self._limits.get(node.name) != upload_limit:
                await self._limit(node, upload_limit)
        self.tell(f"every uplink {_cap_text(upload_limit)}")

    async def cut(self, one: str, other: str) -> None:
        """End the link between two nodes, and keep it from coming back."""
        node, peer = self._expect(one, "online"), self.node(other)
        async with node.control() as control:
            await control.call("node.disconnect", {"node_id": peer.node_id})
        self._cuts.add((one, other))
        self.tell(f"the link between {one} and {other} was cut")

    async def mend(self, one: str, other: str) -> None:
        """Let two nodes link again."""
        refuser, refused = (one, other) if (one, other) in self._cuts else (other, one)
        node, peer = self._expect(refuser, "online"), self.node(refused)
        async with node.control() as control:
            await control.call("node.connect", {"url": peer.address})
        self._cuts.discard((refuser, refused))
        self.tell(f"the link between {one} and {other} was mended", "good")

    async def join(self) -> NodeProcess:
        """A node that was not there before."""
        count = sum(node.name.startswith("joiner-") for node in self.nodes)
        node = self._add(f"joiner-{count + 1}", "north" if count % 2 else "south")
        self._changed()
        await self._start(node)
        self.tell(f"{node.name} joined", "good")
        return node

    # --- what the page is told --------------------------------------------------------------------

    def tell(self, text: str, kind: str = "") -> None:
        """An event for the log of every page."""
        self._count += 1
        self._events.append({"number": self._count, "at": time.time(), "text": text, "kind": kind})
        del self._events[:-LOG_EVENTS]
        self._changed()

    def offer(self, scenarios: Iterable[dict[str, str]]) -> None:
        """What can be played: names and titles."""
        self._scenarios = list(scenarios)
        self._changed()

    def plays(self, name: str | None, line: str) -> None:
        """A scenario is under way, or over, and this is what to look at."""
        self._playing, self._line = name, line
        self._changed()

    def watch(self) -> Stream[dict[str, Any]]:
        """The state of the processes, now and whenever it changes, until :meth:`close`."""
        stream: Stream[dict[str, Any]] = Stream(
            merge=lambda older, newer: newer, on_close=lambda: self._watchers.discard(stream)
        )
        stream.push(self.state())
        if self._closed:
            stream.finish()
        else:
            self._watchers.add(stream)
        return stream

    def state(self) -> dict[str, Any]:
        """The processes, what has been done to them, and what is played."""
        return {
            "nodes": [
                {
                    "name": node.name,
                    "node_id": node.node_id,
                    "gateway": node.gateway,
                    "condition": node.condition,
                    "upload_limit": self._limits.get(node.name),
                }
                for node in self.nodes
            ],
            "cuts": sorted(self._cuts),
            "scenarios": self._scenarios,
            "playing": self._playing,
            "line": self._line,
            "log": self._events,
        }

    # --- parts --------------------------------------------------------------------------------------

    def _add(self, name: str, formation: str | None, *more: str) -> NodeProcess:
        """A node that keeps its ports, so that it is found again after a restart. It dials all before it."""
        listen, gateway = free_port(), free_port()
        options = [*more, "--listen", f"{HOST}:{listen}", "--gateway", f"{HOST}:{gateway}"]
        for origin in self._origins:
            options += ["--gateway-origin", origin]
        for peer in self.nodes:
            options += ["--peer", peer.address]
        node = self._supervisor.add(name, "node", *options, formation=formation)
        node.address, node.gateway = f"ws://{HOST}:{listen}", f"http://{HOST}:{gateway}"
        return node

    async def _start(self, node: NodeProcess) -> None:
        try:
            await self._supervisor.start(node)
        except NodeFailed:
            node.condition = "stopped"
            self.tell(f"{node.name} did not start", "bad")
            raise
        async with node.control() as control:
            for collection in SHARED:
                await control.call("documents.subscribe", {"collection": collection})
            if node.name in self._limits:
                await control.call("node.set_limits", {"upload": self._limits[node.name]})
        if node is not self.hub:
            self._writers[node.name] = asyncio.create_task(write_readings(node))
        self._changed()

    async def _end_readings(self, name: str) -> None:
        writer = self._writers.pop(name, None)
        if writer is not None:
            writer.cancel()
            await asyncio.wait({writer})
            if not writer.cancelled():
                writer.result()

    async def _limit(self, node: NodeProcess, upload_limit: int | None) -> None:
        async with node.control() as control:
            await control.call("node.set_limits", {"upload": upload_limit})
        if upload_limit is None:
            self._limits.pop(node.name, None)
        else:
            self._limits[node.name] = upload_limit

    def _expect(self, name: str, *conditions: str) -> NodeProcess:
        node = self.node(name)
        if node.condition not in conditions:
            raise NotPossible(f"{name} is {node.condition}: that cannot be done to it now")
        return node

    def _restored(self, name: str) -> None:
        """A process that ends forgets whom it refused."""
        self._cuts = {pair for pair in self._cuts if pair[0] != name}

    def _changed(self) -> None:
        for stream in list(self._watchers):
            stream.push(self.state())


def _cap_text(upload_limit: int | None) -> str:
    return "is without a cap" if upload_limit is None else f"is capped at {size(upload_limit)}/s"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
