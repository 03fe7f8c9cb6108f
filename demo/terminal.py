"""What the demo prints: live tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.processes import NodeProcess
from mesh.cli.progress import STYLES, bar
from mesh.cli.units import clean, percent, short, size
from mesh.core.status import DistributionStatus, NodeTransferStatus, TransferState

TICK_SECONDS = 0.2
_PIPE_WIDTH = 160
_FULL_HASH_COLUMNS = 130
"""From this width on, hashes are printed whole."""


@dataclass
class Board:
    """One distribution on the screen: every node of the mesh, and how far each is."""

    title: str
    nodes: Sequence[NodeProcess]
    source: NodeProcess
    targets: Sequence[NodeProcess]
    status: DistributionStatus | None = None

    def transfer(self, node: NodeProcess) -> NodeTransferStatus | None:
        """What is known of how far ``node`` is."""
        return None if self.status is None else self.status.node_statuses.get(node.node_id)

    def state(self, node: NodeProcess) -> tuple[str, str]:
        """How ``node`` is, in a word, and the style that suits it."""
        transfer = self.transfer(node)
        if node is self.source:
            return "source", "magenta"
        if node.condition != "online":
            return {"killed": "offline", "starting": "starting"}.get(node.condition, node.condition), "red"
        if node not in self.targets and transfer is None:
            return "not in scope", "dim"
        state = TransferState.PENDING if transfer is None else transfer.status
        return state.value, STYLES[state]

    def rate(self, node: NodeProcess) -> float | None:
        """Bytes a second: of the moment, or of the whole transfer when it is complete."""
        transfer = self.transfer(node)
        if transfer is None or node.condition != "online":
            return None
        if transfer.status is TransferState.COMPLETED:
            took = seconds_taken(transfer)
            return transfer.total_bytes / took if took else None
        return transfer.rate or None


@dataclass(frozen=True)
class Copy:
    """One line of the final table: what became of a file at a node."""

    node: str
    formation: str
    receipt: str
    took: str
    b3sum: str
    good: bool | None
    """Whether it is as it should be; ``None``: nothing is to be compared."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader of our output is gone: an error like any other, so that the nodes are closed."""
        silence()
        raise BrokenPipeError("nobody reads the output any more")


def silence() -> None:
    """Let the rest of the output go nowhere: writing to a closed terminal or pipe fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


class Screen:
    """Prints the story. Times are seconds since it was made."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        width = None if self.is_terminal else _PIPE_WIDTH
        self._console = _Console(highlight=False, markup=False, emoji=False, width=width)
        self._shown: dict[str, tuple[str, int]] = {}

    def say(self, text: str, style: str = "") -> None:
        """A line of the story."""
        elapsed = self._loop.time() - self._began
        self._console.print(
            Text.assemble((f"{elapsed:6.1f} s  ", "dim"), (clean(text), style)), soft_wrap=True
        )

    @contextlib.contextmanager
    def live(self, board: Board) -> Iterator[None]:
        """Show ``board``, and whatever changes on it, until the block ends."""
        if not self.is_terminal:
            self._shown.clear()
            self.say(board.title, "bold")
            yield
            return
        with Live(
            console=self._console, auto_refresh=False, get_renderable=lambda: self._table(board)
        ) as live:
            timer: asyncio.TimerHandle | None = None

            def tick() -> None:
                """Rates move although nothing arrives."""
                nonlocal timer
                live.refresh()
                timer = self._loop.call_later(TICK_SECONDS, tick)

            tick()
            try:
                yield
            finally:
                if timer is not None:
                    timer.cancel()
                live.refresh()

    def changed(self, board: Board) -> None:
        """Something on ``board`` has changed. A terminal sees it at the next tick."""
        if self.is_terminal:
            return
        for node in board.nodes:
            transfer = board.transfer(node)
            fraction = 0.0 if transfer is None else transfer.progress_fraction
            state, _ = board.state(node)
            seen = (state, int(fraction * 10))
            if self._shown.get(node.name) != seen:
                self._shown[node.name] = seen
                if transfer is not None:
                    self.say(f"  {node.name:<10} {state:<13} {percent(fraction):>4}")

    def copies(self, title: str, copies: Sequence[Copy]) -> None:
        """The final table of one file."""
        table = Table(
            title=clean(title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
        )
        for column in ("node", "formation", "receipt", "took", "b3sum of the copy", ""):
            table.add_column(column, header_style="dim", no_wrap=True)
        whole = self._console.width >= _FULL_HASH_COLUMNS
        for copy in copies:
            mark = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("")}[copy.good]
            style = "red" if copy.good is False else ""
            checksum = copy.b3sum if whole or " " in copy.b3sum else copy.b3sum[:16] + "…" * bool(copy.b3sum)
            table.add_row(copy.node, copy.formation, copy.receipt, copy.took, checksum, mark, style=style)
        self._console.print()
        self._console.print(table)

    def verdict(self, text: str, *, good: bool) -> None:
        """What it all came to."""
        self._console.print()
        self._console.print(Text(clean(text), "bold green" if good else "bold red"), soft_wrap=True)

    def _table(self, board: Board) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("node", "formation", "state"):
            table.add_column(column, header_style="dim", no_wrap=True)
        table.add_column("progress", header_style="dim", no_wrap=True)
        table.add_column("rate", header_style="dim", justify="right", no_wrap=True, min_width=8)
        for node in board.nodes:
            state, style = board.state(node)
            transfer = board.transfer(node)
            rate = board.rate(node)
            progress = Text("")
            if transfer is not None:
                fraction = transfer.progress_fraction
                progress = Text.assemble((bar(fraction), style), f" {percent(fraction):>4}")
            speed = "" if rate is None else f"{size(rate)}/s"
            table.add_row(node.name, node.formation or "–", Text(f"{state:<12}", style), progress, speed)
        return Group(Text(clean(board.title), "bold"), table)


def seconds_taken(transfer: NodeTransferStatus) -> float | None:
    """From the first byte to the last, by the node's own clock; ``None``: it is not through."""
    if transfer.started_at is None or transfer.completed_at is None:
        return None
    return max(transfer.completed_at - transfer.started_at, 0.0)


def receipt_text(transfer: NodeTransferStatus | None) -> str:
    """A receipt in a few words."""
    if transfer is None:
        return "none"
    reason = f": {transfer.error}" if transfer.error else ""
    return f"{transfer.status}, {size(transfer.progress_bytes)}{reason}"


def scope_title(file_name: str, size_bytes: int, scope: str, distribution_id: str) -> str:
    """What is distributed to whom, on a line."""
    return f"{file_name} ({size(size_bytes)}) to {scope}, distribution {short(distribution_id)}"
