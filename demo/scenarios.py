"""Scenarios: short plays on the running mesh, each with a line that says what to look at."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from demo.fleet import TASKS, Fleet, NotPossible
from demo.processes import NodeFailed, NodeProcess
from mesh import AllNodes, Formation
from mesh.cli.units import percent, size
from mesh.control.methods import Listed
from mesh.core.scopes import DistributionScope
from mesh.core.status import DistributionStatus, TransferState
from mesh.errors import MeshError

SCENARIOS = ("fan-out", "offline-edge", "conflict", "late-joiner", "cancel")
PATIENCE_SECONDS = 60.0
MB = 1_000_000
CAP = 2 * MB
SLOW_CAP = MB // 2


class Scenarios:
    """Plays one scenario at a time; whoever is played as sits at a node, and does what a person could.

    Args:
        directory: where the files come from that are distributed.
        say: told every line, as the page is.
        moment: seconds in which a reader can see what a line says.
        file_bytes: how large the files are.
    """

    def __init__(
        self, fleet: Fleet, directory: Path, say: Callable[[str], None], *, moment: float, file_bytes: int
    ) -> None:
        self._fleet = fleet
        self._directory = directory
        self._tell = say
        self._moment_seconds = moment
        self._file_bytes = file_bytes
        self._names = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._playing = ""
        plays = (self._fan_out, self._offline_edge, self._conflict, self._late_joiner, self._cancel)
        self._plays = dict(zip(SCENARIOS, plays, strict=True))
        fleet.offer({"name": name, "title": name.replace("-", " ").capitalize()} for name in SCENARIOS)

    def begin(self, name: str) -> None:
        """Play it from now on.

        Raises:
            NotPossible: there is none of this name, or one is being played.
        """
        if name not in self._plays:
            raise NotPossible(f"there is no scenario {name!r}: choose {', '.join(SCENARIOS)}")
        if self._task is not None and not self._task.done():
            raise NotPossible(f"{self._playing} is being played: wait for its end")
        self._playing = name
        self._task = asyncio.create_task(self._play(name))

    async def close(self) -> None:
        """Break off."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _play(self, name: str) -> None:
        self._say("First, every node is brought up.")
        try:
            await self._fleet.recover()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._plays[name]()
            await self._fleet.recover()
        except (NotPossible, NodeFailed, MeshError, TimeoutError) as error:
            self._say(f"It went wrong: {str(error) or f'no end within {PATIENCE_SECONDS:g} s'}")
        finally:
            self._playing = ""
            self._fleet.plays(None, self._line)

    def _say(self, line: str) -> None:
        self._line = line
        self._fleet.plays(self._playing, line)
        self._tell(line)

    async def _moment(self) -> None:
        await asyncio.sleep(self._moment_seconds)

    # --- the plays ----------------------------------------------------------------------------------

    async def _fan_out(self) -> None:
        hub, copies = self._fleet.hub, len(self._online()) - 1
        await self._fleet.cap_all(CAP)
        alone = copies * self._file_bytes / CAP
        self._say(
            f"Every uplink is capped at {size(CAP)}/s: {hub.name} alone would need {alone:.0f} s for "
            f"{copies} copies. Look at the bars: the nodes pass on what they have, so all end together."
        )
        before, began = await _served(hub), time.monotonic()
        async with self._distributed(hub, "fan-out", AllNodes()) as transfer:
            status = await transfer.until(lambda status: status.completed >= copies)
        took, sent = time.monotonic() - began, await _served(hub) - before
        self._say(
            f"{status.completed} copies in {took:.1f} s rather than {alone:.0f} s: {hub.name} sent "
            f"{sent / self._file_bytes:.1f} times the file, the nodes gave each other the rest."
        )

    async def _offline_edge(self) -> None:
        hub, edge = self._fleet.hub, self._node("south-1")
        await self._fleet.pause(edge.name)
        number = next(self._names)
        ids = [f"while-asleep-{number}-{each}" for each in (1, 2, 3)]
        for id in ids:
            await _write(hub, {"_id": id, "title": f"Written while {edge.name} slept", "place": "south"})
        self._say(
            f"{edge.name} is offline. Three documents and a file arrive meanwhile: look at its receipt, "
            "which stays pending."
        )
        others = len(self._online()) - 1
        async with self._distributed(hub, "offline-edge", AllNodes()) as transfer:
            await transfer.until(lambda status: status.completed >= others)
            await self._moment()
            self._say(f"{edge.name} wakes: look at its bar, and at its documents if you look through it.")
            began = time.monotonic()
            await self._fleet.resume(edge.name)
            await transfer.until(lambda status: _state(status, edge) is TransferState.COMPLETED)
            await _until_found(edge, {"_id": {"$in": ids}}, len(ids))
        self._say(
            f"{edge.name} has caught up: the file and 3 documents in {time.monotonic() - began:.1f} s. "
            "Nobody sent them again: it asked for what it lacked."
        )

    async def _conflict(self) -> None:
        one, other = self._node("north-1"), self._node("south-1")
        for node in (one, other):
            await self._fleet.pause(node.name)
        number = next(self._names)
        edits = {"driver": f"Ada, shift {number}", "vehicle": f"van {number}"}
        self._say(
            f"{one.name} and {other.name} are offline, and both edit tasks/shift-plan: one the driver, the "
            "other the vehicle. Look through either: each sees its own edit alone."
        )
        await _write(one, {"_id": "shift-plan", "driver": edits["driver"]})
        await _write(other, {"_id": "shift-plan", "vehicle": edits["vehicle"]})
        await self._moment()
        for node in (one, other):
            await self._fleet.resume(node.name)
        for node in self._online():
            await _until_found(node, {"_id": "shift-plan", **edits}, 1)
        self._say(
            f"Both edits survive, on every node: tasks/shift-plan has the driver “{edits['driver']}” and "
            f"the vehicle “{edits['vehicle']}”."
        )

    async def _late_joiner(self) -> None:
        hub, present = self._fleet.hub, len(self._online()) - 1
        self._say("A file goes to every node. Then one joins that was not there: look for it in the graph.")
        async with self._distributed(hub, "late-joiner", AllNodes()) as transfer:
            await transfer.until(lambda status: status.completed >= present)
            await self._moment()
            began = time.monotonic()
            joiner = await self._fleet.join()
            self._say(f"{joiner.name} is here: look at its receipt. Nobody told it of the file.")
            await transfer.until(lambda status: _state(status, joiner) is TransferState.COMPLETED)
            await _until_found(joiner, {"_id": "shift-plan"}, 1, TASKS)
        self._say(
            f"{joiner.name} had the file and the documents {time.monotonic() - began:.1f} s after its start."
        )

    async def _cancel(self) -> None:
        hub = self._fleet.hub
        await self._fleet.cap_all(SLOW_CAP)
        self._say(
            f"A large file goes to formation north, at {size(SLOW_CAP)}/s. It is cancelled on the way: look "
            "at the receipts."
        )
        async with self._distributed(hub, "cancel", Formation("north"), times=3) as transfer:
            status = await transfer.until(lambda status: status.overall_progress > 0.02)
            await self._moment()
            async with hub.control() as control:
                await control.call("distributions.cancel", {"id": transfer.id})
            status = await transfer.until(lambda status: status.is_cancelled and status.is_complete)
        self._say(
            f"Cancelled at {percent(status.overall_progress)}: {status.cancelled} receipts say cancelled, "
            f"{status.completed} say completed. A node that comes later does not begin."
        )

    # --- parts ----------------------------------------------------------------------------------------

    def _online(self) -> list[NodeProcess]:
        return [node for node in self._fleet.nodes if node.condition == "online"]

    def _node(self, name: str) -> NodeProcess:
        return self._fleet.node(name)

    @contextlib.asynccontextmanager
    async def _distributed(
        self, publisher: NodeProcess, name: str, scope: DistributionScope, *, times: int = 1
    ) -> AsyncIterator[_Transfer]:
        """A new file on its way from ``publisher``."""
        path = self._directory / f"{name}-{next(self._names)}.bin"
        await asyncio.to_thread(path.write_bytes, os.urandom(times * self._file_bytes))
        async with publisher.control() as control, control.stream("distributions.watch") as items:
            made = await control.call("distributions.create", {"path": str(path), "scope": scope.to_dict()})
            await asyncio.to_thread(path.unlink)
            yield _Transfer(made["handle"]["distribution_id"], items)


class _Transfer:
    """A distribution, as its publisher is told of it."""

    def __init__(self, id: str, items: AsyncIterator[Any]) -> None:
        self.id = id
        self._items = items
        self._status: DistributionStatus | None = None

    async def until(self, reached: Callable[[DistributionStatus], bool]) -> DistributionStatus:
        """Wait for it.

        Raises:
            NodeFailed: the publisher has ended.
        """
        if self._status is not None and reached(self._status):
            return self._status
        async for item in self._items:
            for listed in map(Listed.from_dict, item):
                if listed.status.handle.distribution_id == self.id:
                    self._status = listed.status
                    if reached(listed.status):
                        return listed.status
        raise NodeFailed("the publisher has ended")


def _state(status: DistributionStatus, node: NodeProcess) -> TransferState | None:
    transfer = status.node_statuses.get(node.node_id)
    return None if transfer is None else transfer.status


async def _served(node: NodeProcess) -> int:
    """Bytes of files that it has sent so far."""
    async with node.control() as control:
        stats = await control.call("node.stats")
    return int(stats["blob_bytes_out"])


async def _write(node: NodeProcess, document: dict[str, Any]) -> None:
    async with node.control() as control:
        await control.call("documents.upsert", {"collection": TASKS, "document": document})


async def _until_found(
    node: NodeProcess, selector: dict[str, Any], count: int, collection: str = TASKS
) -> None:
    """Wait until ``node`` holds so many documents that match."""
    found = set()
    params = {"collection": collection, "selector": selector}
    async with node.control() as control, control.stream("documents.observe", params) as changes:
        async for change in changes:
            id = change["document"]["_id"]
            if change["change"] == "removed":
                found.discard(id)
            else:
                found.add(id)
            if len(found) >= count:
                return
