"""Shows how a distribution gets on: live bars on a terminal, a line per change in a pipe, or JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

import click

from mesh.cli.output import Cell, Output, Row, console, print_json, table_blocks
from mesh.cli.units import clean, duration, percent, short, size
from mesh.cli.views import Quiet, Redrawn, View
from mesh.core.rates import seconds_left
from mesh.core.scopes import DistributionScope, Nodes, scope_text
from mesh.core.status import DistributionStatus, NodeTransferStatus, TransferState

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {
    TransferState.PENDING: "dim",
    TransferState.CONNECTING: "cyan",
    TransferState.TRANSFERRING: "cyan",
    TransferState.COMPLETED: "green",
    TransferState.FAILED: "red",
    TransferState.CANCELLED: "yellow",
}

_ORDER = (
    TransferState.TRANSFERRING,
    TransferState.CONNECTING,
    TransferState.FAILED,
    TransferState.PENDING,
    TransferState.CANCELLED,
    TransferState.COMPLETED,
)

BAR_WIDTH = 20

SILENT_SECONDS = 60.0
"""A target that has said nothing for so long may be off: what it said is told as what it was then."""


def summary(status: DistributionStatus) -> Cell:
    """The whole distribution in one word."""
    if status.is_success:
        return Cell("completed", "green")
    if status.superseded_by is not None:
        return Cell("superseded", "yellow")
    if status.is_cancelled:
        return Cell("cancelled", "yellow")
    if status.is_complete:
        return Cell("failed", "red")
    if status.is_expired:
        return Cell("expired", "yellow")
    if status.total_targets == 0:
        return Cell("no targets", "yellow")
    return Cell("transferring", "cyan") if status.in_progress or status.completed else Cell("pending", "dim")


def counts(status: DistributionStatus) -> str:
    """``3 of 5 completed, 1 in progress, 1 failed``."""
    others = (
        (status.in_progress, "in progress"),
        (status.pending, "pending"),
        (status.failed, "failed"),
        (status.cancelled, "cancelled"),
    )
    parts = [f"{count} {word}" for count, word in others if count]
    return ", ".join([f"{status.completed} of {status.total_targets} completed", *parts])


def in_order(status: DistributionStatus, names: Mapping[str, str]) -> list[NodeTransferStatus]:
    """The targets: who moves first, who is finished last."""
    return sorted(
        status.node_statuses.values(),
        key=lambda node: (_ORDER.index(node.status), names.get(node.node_id, ""), node.node_id),
    )


class JsonLines(Quiet[DistributionStatus]):
    """A JSON line per status."""

    def show(self, status: DistributionStatus) -> None:
        """See :class:`View`."""
        print_json(status)


class Lines(Quiet[DistributionStatus]):
    """A line for every target whose state, reason or tenth of progress has changed."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._shown: dict[str, tuple[object, ...]] = {}

    def show(self, status: DistributionStatus) -> None:
        """See :class:`View`."""
        for node in in_order(status, self._names):
            seen = (node.status, node.error, int(node.progress_fraction * 10))
            if self._shown.get(node.node_id) != seen:
                self._shown[node.node_id] = seen
                why = f"  {clean(node.error)}" if node.error else ""
                name = name_of(node.node_id, self._names)
                click.echo(f"{name}  {node.status}  {percent(node.progress_fraction)}{why}")


class Bars(Redrawn[DistributionStatus]):
    """A bar per target, redrawn in place."""

    def __init__(self, names: Mapping[str, str], title: str) -> None:
        from rich.live import Live

        self._names = names
        self._title = title
        self._status: DistributionStatus | None = None
        self._heard: dict[str, tuple[NodeTransferStatus, float]] = {}  # what each target said last, and when
        self._console = console()
        super().__init__(Live(console=self._console, refresh_per_second=1, get_renderable=self._render))

    def show(self, status: DistributionStatus) -> None:
        """See :class:`View`."""
        for node_id, node in status.node_statuses.items():
            if node_id not in self._heard or self._heard[node_id][0] != node:
                self._heard[node_id] = (node, monotonic())
        self._status = status
        self._live.refresh()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        title = Text(clean(self._title), style="bold")
        if self._status is None:
            return title
        nodes = in_order(self._status, self._names)
        room = max(self._console.height - 4, 3)
        rows = [self._row(node) for node in nodes[:room]]
        lines: list[Text] = []
        shown = 0
        for block in table_blocks(_COLUMNS, rows, width=self._console.width, wrap=True):
            if lines and len(lines) + len(block) > room:
                break
            lines += block
            shown += 1
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        word = summary(self._status)
        foot = Text.assemble((word.text, word.style), f"  {counts(self._status)}")
        if len(nodes) > shown:
            foot.append(f"  ({len(nodes) - shown} more not shown)", "dim")
        return Group(title, *lines, foot)

    def _row(self, node: NodeTransferStatus) -> Row:
        style = STYLES[node.status]
        rate, left = pace(node)
        pause = monotonic() - self._heard[node.node_id][1]
        said = f"{rate:>9}  {left} left" if rate else ""
        if pause > SILENT_SECONDS and not node.status.is_terminal:
            said = f"nothing new for {duration(pause)}"
        return (
            name_of(node.node_id, self._names),
            Cell(f"{node.status:<{_STATE_WIDTH}}", style),
            Cell(bar(node.progress_fraction), style),
            f"{percent(node.progress_fraction):>4}",
            Cell("  ".join(filter(None, (said, node.error))), style),
        )


_COLUMNS = ("", "", ">", ">", "")
_STATE_WIDTH = max(map(len, TransferState))


def bar(fraction: float) -> str:
    """A bar that is full to ``fraction``, and only full when everything is there."""
    full = int(fraction * BAR_WIDTH)
    return "━" * full + "─" * (BAR_WIDTH - full)


def pace(node: NodeTransferStatus) -> tuple[str, str]:
    """How fast a target gets on, and how long the rest takes at that rate; empty unless it does."""
    left = seconds_left(node.total_bytes - node.progress_bytes, node.rate)
    if node.status is not TransferState.TRANSFERRING or left is None:
        return "", ""
    return f"{size(node.rate)}/s", duration(left)


def reason(node: NodeTransferStatus, heard: float | None, *, linked: bool) -> str:
    """Why a target is where it is, and what keeps that from being sure.

    Args:
        heard: seconds since it was heard of; ``None``: never.
        linked: it is linked with the node that is asked.
    """
    doubt = ""
    if heard is None:
        doubt = "not heard of yet"
    elif not linked and heard > SILENT_SECONDS:
        doubt = "when last heard of, no link from here"
    return "; ".join(filter(None, ("" if node.status.is_terminal else doubt, node.error)))


def name_of(node_id: str, names: Mapping[str, str]) -> str:
    """The name of a node where it is known, else the start of its id."""
    return clean(names.get(node_id, "")) or short(node_id)


def whom(scope: DistributionScope, names: Mapping[str, str]) -> str:
    """The scope as a person would type it, by the names of nodes."""
    if isinstance(scope, Nodes):
        return f"nodes:{','.join(name_of(node_id, names) for node_id in scope.node_ids)}"
    return scope_text(scope)


def view_for(
    output: Output, names: Mapping[str, str], title: str, *, stream_json: bool
) -> View[DistributionStatus]:
    """The view that suits where the command prints."""
    if output.as_json:
        return JsonLines() if stream_json else Quiet[DistributionStatus]()
    if output.is_terminal:
        return Bars(names, title)
    return Lines(names)
