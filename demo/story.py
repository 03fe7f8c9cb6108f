"""What the demo shows, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from demo.files import b3sum, delivered_file
from demo.processes import NodeFailed, NodeProcess, Supervisor
from demo.sensors import write_readings
from demo.terminal import Board, Copy, Screen, receipt_text, scope_title, seconds_taken
from mesh import AllNodes, DistributionHandle, DistributionScope, Formation, TransferState
from mesh.cli.units import percent, size
from mesh.control.client import ControlClient
from mesh.control.methods import Listed
from mesh.core.rates import MIN_LIMIT
from mesh.core.scopes import scope_text
from mesh.core.status import DistributionStatus
from mesh.core.tokens import BlobToken
from mesh.errors import NodeNotRunning
from mesh.node.presence import Presence

PATIENCE_SECONDS = 60.0
"""How long the demo waits without any news before it calls a step failed."""

INTERRUPTED_SECONDS = 4.0
"""How long the node that is killed would take at least, so that it can be caught half-way."""


class Story:
    """A mesh of five, a file for all of them, a node that is killed on the way, and a file for a few."""

    def __init__(self, supervisor: Supervisor, screen: Screen, file: Path) -> None:
        self._supervisor = supervisor
        self._screen = screen
        self._file = file
        self._writers: dict[str, asyncio.Task[None]] = {}
        self.hub = supervisor.add("hub", "hub", "--hub")
        self.publisher = self.hub
        self.edges: list[NodeProcess] = []

    @property
    def _nodes(self) -> list[NodeProcess]:
        return [self.publisher, self.hub, *self.edges]

    async def start(self) -> None:
        """Start the mesh, and wait until everybody is linked with the hub.

        Raises:
            NodeFailed: a node did not start, or the links did not come up.
        """
        await self._supervisor.start(self.hub)
        dial = ("--peer", self.hub.address)
        add = self._supervisor.add
        self.publisher = add("publisher", "publisher", *dial)
        self.edges = [
            add(name, "edge", *dial, formation=formation)
            for name, formation in (("north-1", "north"), ("north-2", "north"), ("south-1", "south"))
        ]
        try:
            async with asyncio.TaskGroup() as starting:
                for node in (self.publisher, *self.edges):
                    starting.create_task(self._supervisor.start(node))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        await self._until_linked([self.publisher, *self.edges])
        for node in self._nodes:
            self._screen.say(
                f"{node.name:<10} {node.formation or node.role:<10} {node.address}  pid {_pid(node)}"
            )
        for edge in self.edges:
            self._write_readings(edge)

    async def run(self) -> bool:
        """Distribute, interrupt, resume, prove; whether every copy is what and where it should be."""
        north = [edge for edge in self.edges if edge.formation == "north"]
        victim = north[-1]
        async with self.publisher.control() as control:
            await self._slow_down(victim)
            everybody = await self._distribute(control, self._file, AllNodes(), [self.hub, *self.edges])
            async with everybody:
                await self._interrupt(everybody, victim)
                await everybody.until(everybody.is_complete)
            some = await self._distribute(control, Path(__file__), Formation("north"), north)
            async with some:
                await some.until(some.is_complete)
                for node in (self.hub, self.edges[-1]):
                    await _until_known(node, some.id)
        results = [await self._prove(everybody), await self._prove(some)]
        good = all(results)
        verdict = (
            f"All copies are identical, b3sum {everybody.token.hash}. "
            f"Only formation north got {some.token.metadata.name}."
            if good
            else "Not everything is as it should be: see the lines marked ✗ (with --dir, logs are kept)."
        )
        self._screen.verdict(verdict, good=good)
        return good

    async def close(self) -> None:
        """Stop writing documents."""
        for writer in self._writers.values():
            writer.cancel()
        for outcome in await asyncio.gather(*self._writers.values(), return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    # --- steps ------------------------------------------------------------------------------------

    async def _distribute(
        self, control: ControlClient, file: Path, scope: DistributionScope, targets: list[NodeProcess]
    ) -> Transfer:
        params = {"path": str(file), "scope": scope.to_dict()}
        made = await control.call("distributions.create", params)
        handle, token = DistributionHandle.from_dict(made["handle"]), BlobToken.from_dict(made["token"])
        name = token.metadata.name or file.name
        title = scope_title(name, token.size_bytes, scope_text(scope), handle.distribution_id)
        board = Board(title, self._nodes, self.publisher, targets)
        return Transfer(handle.distribution_id, token, board, self._screen)

    async def _slow_down(self, node: NodeProcess) -> None:
        """Cap what ``node`` fetches, until it is started again."""
        cap = max(MIN_LIMIT, self._file.stat().st_size / INTERRUPTED_SECONDS)
        async with node.control() as control:
            await control.call("node.set_limits", {"download": cap})
        self._screen.say(f"{node.name} fetches no faster than {size(cap)}/s: it is to be killed half-way")

    async def _interrupt(self, transfer: Transfer, victim: NodeProcess) -> None:
        """Kill ``victim`` half-way through the transfer, let the others finish, and bring it back."""
        await transfer.until(lambda: transfer.is_half_way(victim))
        pid = await self._supervisor.kill(victim)
        transfer.redraw()
        told = transfer.board.transfer(victim)
        seen = percent(told.progress_fraction) if told is not None else "nothing"
        self._screen.say(f"kill -9 {pid}: {victim.name} is gone; its last receipt said {seen}", "bold red")
        others = [node for node in transfer.board.targets if node is not victim]
        await transfer.until(lambda: all(transfer.is_through(node) for node in others))
        self._screen.say(
            f"the others have it; {victim.name} comes back, on what its disk still holds", "bold"
        )
        await self._supervisor.start(victim)
        transfer.redraw()
        self._write_readings(victim)
        await transfer.until(lambda: transfer.is_through(victim))
        async with victim.control() as control:
            received = (await control.call("node.stats"))["blob_bytes_in"]
        total = transfer.token.size_bytes
        kept = max(total - received, 0)
        self._screen.say(
            f"{victim.name} went on where it was: {size(kept)} were on its disk, {size(received)} fetched",
            "bold",
        )

    async def _prove(self, transfer: Transfer) -> bool:
        """Print every receipt with the b3sum of the file that is in that node's inbox."""
        token, board = transfer.token, transfer.board
        copies = [Copy(self.publisher.name, "source", "", "", token.hash, None)]
        for node in self._nodes[1:]:
            receipt = board.transfer(node)
            path = await asyncio.to_thread(delivered_file, node.inbox, token, transfer.id)
            checksum = await asyncio.to_thread(b3sum, path) if path is not None else ""
            if node in board.targets:
                good = transfer.state(node) is TransferState.COMPLETED and checksum == token.hash
                shown = checksum or "no file in its inbox"
            else:
                good = receipt is None and path is None
                shown = checksum or "not in the scope: no file in its inbox"
            took = seconds_taken(receipt) if receipt is not None else None
            copies.append(
                Copy(
                    node.name,
                    node.formation or "",
                    receipt_text(receipt),
                    "" if took is None else f"{took:.1f} s",
                    shown,
                    good,
                )
            )
        self._screen.copies(board.title, copies)
        return all(copy.good is not False for copy in copies)

    async def _until_linked(self, nodes: list[NodeProcess]) -> None:
        wanted = {node.node_id for node in nodes}
        async with (
            _patience("not every node could be linked with the hub"),
            self.hub.control() as control,
            control.stream("node.observe_presence") as items,
        ):
            async for item in items:
                if wanted <= {peer.node_id for peer in Presence.from_dict(item).peers}:
                    return

    def _write_readings(self, node: NodeProcess) -> None:
        self._writers[node.name] = asyncio.create_task(write_readings(node))


class Transfer:
    """One distribution as its publisher sees it; an async context manager that follows it."""

    def __init__(self, id: str, token: BlobToken, board: Board, screen: Screen) -> None:
        self.id = id
        self.token = token
        self.board = board
        self._screen = screen
        self._stack = contextlib.AsyncExitStack()
        self._statuses: AsyncIterator[list[dict[str, Any]]]
        self._given_up = False

    async def __aenter__(self) -> Transfer:
        control = await self._stack.enter_async_context(self.board.source.control())
        self._statuses = await self._stack.enter_async_context(control.stream("distributions.watch"))
        self._stack.enter_context(self._screen.live(self.board))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for it; after ``PATIENCE_SECONDS`` without news go on without, and the final table will tell.

        Raises:
            NodeNotRunning: the publisher is gone.
        """
        if reached() or self._given_up:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS) as limit:
                async for items in self._statuses:
                    limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
                    self._update([Listed.from_dict(item).status for item in items])
                    if reached():
                        return
        except TimeoutError:
            self._given_up = True
            self._screen.say(f"given up: no news for {PATIENCE_SECONDS:g} s", "bold red")
            return
        raise NodeNotRunning(str(self.board.source.home))

    def _update(self, statuses: list[DistributionStatus]) -> None:
        for status in statuses:
            if status.handle.distribution_id == self.id:
                self.board.status = status
        self.redraw()

    def redraw(self) -> None:
        """A node's condition has changed."""
        self._screen.changed(self.board)

    def state(self, node: NodeProcess) -> TransferState | None:
        """What the newest receipt of ``node`` says."""
        transfer = self.board.transfer(node)
        return None if transfer is None else transfer.status

    def is_half_way(self, node: NodeProcess) -> bool:
        """Whether ``node`` has said that it has about half of it, or all: a small file comes in one piece."""
        transfer = self.board.transfer(node)
        return self.is_through(node) or (transfer is not None and transfer.progress_fraction >= 0.4)

    def is_through(self, node: NodeProcess) -> bool:
        """Whether nothing more happens at ``node``."""
        state = self.state(node)
        return state is not None and state.is_terminal

    def is_complete(self) -> bool:
        """Whether every target is through."""
        return all(self.is_through(node) for node in self.board.targets)


@contextlib.asynccontextmanager
async def _patience(complaint: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    except TimeoutError:
        raise NodeFailed(f"{complaint} in {PATIENCE_SECONDS:g} s") from None


async def _until_known(node: NodeProcess, distribution_id: str) -> None:
    """Wait until ``node`` holds the distribution's document, and has so had the chance to act on it."""
    selector = {"_id": distribution_id}
    params = {"collection": "distributions", "selector": selector}
    async with (
        _patience(f"{node.name} does not learn of distribution {distribution_id}"),
        node.control() as control,
        control.stream("documents.observe", params) as changes,
    ):
        await anext(changes)


def _pid(node: NodeProcess) -> int | None:
    return node.process.pid if node.process is not None else None
