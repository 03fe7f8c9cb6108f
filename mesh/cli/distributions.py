"""`mesh distributions`, `distribution`, `cancel` and `retry`: what is going on, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from mesh.cli.distribute import describe, follow, node_names
from mesh.cli.output import Cell, Output, Row, console, table_blocks
from mesh.cli.progress import STYLES, counts, in_order, name_of, pace, reason, summary, whom
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean, duration, percent, short, size
from mesh.control.methods import Listed
from mesh.core.status import DistributionStatus
from mesh.errors import NodeNotRunning
from mesh.node.missing_blobs import MissingBlob
from mesh.node.presence import Presence

COLUMNS = ("id", "file", ">size", "from", "to", "priority", ">age", ">done", ">targets", "state")
DROPPED = ("priority", "size", "age", "from", "to")
OF_OTHERS = "those of others: as heard here; `mesh distribution ID --watch` asks for all"


@click.command()
@common_options
@click.option("--watch", is_flag=True, help="Again after every change, until Ctrl-C.")
@controlled
async def distributions(control: Control, watch: bool) -> None:
    """List the distributions known here, oldest first."""
    if not watch:
        listed = msgspec.convert(plain := await control.call("distributions.list"), list[Listed])
        own = await _own_id(control)
        rows = _rows(listed, await node_names(control), own)
        control.output.table(plain, COLUMNS, rows, empty="no distributions here", drop=DROPPED)
        if not control.output.as_json and _has_others(listed, own):
            click.echo(OF_OTHERS, err=True)
        return
    async with control.stream("distributions.watch") as lists:
        if control.output.is_terminal:
            await _redraw(control, lists)
        else:
            await _lines(lists, control.output)
    raise NodeNotRunning(str(control.home))


async def _own_id(control: Control) -> str:
    return str((await control.call("node.info"))["node_id"])


def _has_others(listed: Sequence[Listed], own: str) -> bool:
    return any(each.publisher not in (None, own) for each in listed)


async def _redraw(control: Control, lists: Any) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    own = await _own_id(control)
    with Live(console=console(), auto_refresh=False) as live:
        async for plain in lists:
            listed = msgspec.convert(plain, list[Listed])
            room = max(live.console.height - 4, 1)
            older = max(len(listed) - room, 0)
            rows = _rows(listed[older:], await node_names(control), own)
            table = table_blocks(COLUMNS, rows, width=live.console.width, drop=DROPPED)
            lines = [line for block in table for line in block]
            if older:
                lines.insert(1, Text(f"({older} older not shown)", "dim"))
            if _has_others(listed, own):
                lines.append(Text(OF_OTHERS, "dim"))
            for line in lines:
                line.no_wrap, line.overflow = True, "ellipsis"
            live.update(Group(*lines), refresh=True)


async def _lines(lists: Any, output: Output) -> None:
    """A line for every distribution that is new or has changed."""
    shown: dict[str, Any] = {}
    async for plain in lists:
        for entry in plain:
            listed = Listed.from_dict(entry)
            id = listed.status.handle.distribution_id
            name = clean(listed.name or "")
            text = f"{short(id)}  {name}  {summary(listed.status).text}: {counts(listed.status)}"
            seen = entry if output.as_json else text
            if shown.get(id) != seen:
                shown[id] = seen
                output.result(entry, text)


def _rows(found: Sequence[Listed], names: Mapping[str, str], own: str) -> list[Row]:
    now = time.time()
    rows: list[Row] = []
    for listed in found:
        status, handle = listed.status, listed.status.handle
        rows.append(
            (
                short(handle.distribution_id),
                listed.name or short(handle.blob_hash),
                size(listed.size_bytes) if listed.size_bytes is not None else "",
                "here" if listed.publisher == own else name_of(listed.publisher or "", names),
                whom(handle.scope, names),
                handle.priority.name.lower(),
                duration(now - handle.started_at),
                percent(status.overall_progress),
                f"{status.completed}/{status.total_targets}",
                summary(status),
            )
        )
    return rows


@click.command()
@common_options
@click.argument("id")
@click.option(
    "--watch", is_flag=True, help="Follow it to its end: status 0 if every target completed, else 1."
)
@controlled
async def distribution(control: Control, id: str, watch: bool) -> int | None:
    """Show how far every target of distribution ID is."""
    if watch:
        return await follow(control, id, stream_json=True)
    plain = await control.call("distributions.status", {"id": id})
    listed = Listed.from_dict(plain)
    status, handle = listed.status, listed.status.handle
    names, now = await node_names(control), time.time()
    presence = Presence.from_dict(await control.call("node.presence"))
    linked = {peer.node_id for peer in presence.peers}
    if not control.output.as_json:
        what = describe(handle, names, listed.name, listed.size_bytes)
        click.echo(f"{handle.distribution_id}  {clean(what)}")
        word = summary(status)
        click.echo(f"{word.text}: {counts(status)}")
        if listed.publisher not in (None, presence.node_id):
            publisher = name_of(listed.publisher, names)
            click.echo(f"as heard here: its publisher {publisher} knows all, --watch asks for it")
        missing = msgspec.convert(await control.call("node.missing_blobs"), list[MissingBlob])
        if any(handle.distribution_id in blob.distribution_ids for blob in missing):
            click.echo("this node does not hold the file that it distributes: see `mesh doctor`")
    heard = {node_id: now - at for node_id, at in listed.heard_at.items()}
    rows: list[Row] = [
        (
            name_of(node.node_id, names),
            Cell(node.status.value, STYLES[node.status]),
            percent(node.progress_fraction),
            size(node.progress_bytes),
            *pace(node),
            duration(heard[node.node_id]) if node.node_id in heard else "never",
            reason(node, heard.get(node.node_id), linked=node.node_id in linked),
        )
        for node in in_order(status, names)
    ]
    columns = ("node", "state", ">done", ">bytes", ">rate", ">left", ">heard", "reason")
    control.output.table(
        plain,
        columns,
        rows,
        empty="nobody known here is in its scope",
        drop=("bytes", "rate", "heard", "left"),
        wrap=True,
    )
    return None


@click.command()
@common_options
@click.argument("id")
@controlled
async def cancel(control: Control, id: str) -> None:
    """Stop distribution ID.

    Nobody begins it any more, running transfers stop; who has the file keeps it. Only its publisher
    can, or an admin of a closed mesh.
    """
    before = await _status(control, id)
    whole = await control.call("distributions.cancel", {"id": id})
    text = f"cancelled {whole}"
    if before.is_success:
        text = f"{whole} is completed; nobody else begins it any more"
    elif before.is_cancelled:
        text = f"{whole} was cancelled already"
    control.output.result({"distribution_id": whole}, text)


@click.command()
@common_options
@click.argument("id")
@controlled
async def retry(control: Control, id: str) -> None:
    """Have the failed targets of ID try again."""
    failed = (await _status(control, id)).failed
    whole = await control.call("distributions.retry", {"id": id})
    text = f"retrying {whole}" if failed else f"no target of {whole} is known to have failed"
    control.output.result({"distribution_id": whole}, text)


async def _status(control: Control, id: str) -> DistributionStatus:
    return Listed.from_dict(await control.call("distributions.status", {"id": id})).status
