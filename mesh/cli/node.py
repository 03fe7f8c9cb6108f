"""`mesh status`, `peers`, `members`, `connect` and the like: the node, and whom it is connected with."""

from __future__ import annotations

import time
from typing import Any

import click

from mesh.cli.facts import capabilities_text
from mesh.cli.output import Cell, Row
from mesh.cli.parsing import parse_limit, parsed
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean, duration, short, size
from mesh.node.presence import Presence, Stats


@click.command()
@common_options
@controlled
async def status(control: Control) -> None:
    """Show the node on --home."""
    info = await control.call("node.info")
    presence = Presence.from_dict(await control.call("node.presence"))
    stats = Stats.from_dict(await control.call("node.stats"))
    vain = sum(dial.state != "connected" for dial in presence.dials)
    listens = info["address"] or "nowhere, it only dials"
    offline = "paused until `mesh resume`" if presence.cloned is None else clean(presence.cloned)
    lines = {
        "node": info["node_id"],
        "name": clean(info["name"]),
        "mesh": info["mesh_id"] or "open, on this machine only",
        "version": info["version"],
        "home": str(control.home),
        "process": str(info["pid"]),
        "listens": listens if presence.online else "nowhere while it is offline",
        "online": "yes" if presence.online else f"no, {offline}",
        "peers": f"{len(presence.peers)} connected" + (f", {vain} dialled in vain" if vain else ""),
        "documents": f"{stats.documents} ({size(stats.document_disk_bytes)} on disk, "
        f"{size(stats.document_bytes_in)} received, {size(stats.document_bytes_out)} sent)",
        "blobs": f"{stats.blobs} ({size(stats.blob_disk_bytes)} on disk, "
        f"{size(stats.blob_bytes_in)} received, {size(stats.blob_bytes_out)} sent)",
    }
    everything = info | presence.to_dict() | {"home": str(control.home), "stats": stats}
    control.output.result(everything, "\n".join(f"{name:<9}  {text}" for name, text in lines.items()))


@click.command()
@common_options
@controlled
async def peers(control: Control) -> None:
    """List the peers it is connected with."""
    presence = Presence.from_dict(await control.call("node.presence"))
    now = time.time()
    rows: list[Row] = [
        (
            short(peer.node_id),
            peer.name,
            Cell("connected", "green"),
            duration(now - peer.since),
            f"{peer.rtt * 1000:.0f} ms" if peer.rtt is not None else "",
            size(peer.bytes_in),
            size(peer.bytes_out),
            peer.url or "it dialled",
        )
        for peer in presence.peers
    ]
    for dial in presence.dials:
        if dial.state != "connected":
            reason = f" ({dial.error})" if dial.error else ""
            who = short(dial.node_id) if dial.node_id else ""
            rows.append((who, "", Cell(dial.state, "yellow"), "", "", "", "", f"{dial.url}{reason}"))
    columns = ("id", "name", "state", ">since", ">rtt", ">in", ">out", "address")
    control.output.table(
        presence.peers, columns, rows, empty="no peers", drop=("in", "out", "rtt"), wrap=True
    )


@click.command()
@common_options
@controlled
async def members(control: Control) -> None:
    """List the nodes known here.

    With what they are to a closed mesh, as far as that is known.
    """
    standings: dict[str, str] = await control.call("node.standings")
    found: list[dict[str, Any]] = [
        member | ({"standing": standings[member["_id"]]} if member["_id"] in standings else {})
        for member in await control.call("node.members")
    ]
    revoked = sorted(standings.keys() - {member["_id"] for member in found})  # what they wrote is gone
    found += [{"_id": node_id, "standing": standings[node_id]} for node_id in revoked]
    rows: list[Row] = [
        (
            short(member["_id"]),
            member.get("name", ""),
            ", ".join(member.get("formations", [])),
            member.get("listen") or "",
            "yes" if member.get("hub") else "",
            member.get("standing", ""),
            capabilities_text(member.get("capabilities", {})),
        )
        for member in sorted(found, key=lambda member: (member.get("name", ""), member["_id"]))
    ]
    columns = ("id", "name", "formations", "listens on", "hub", "standing", "capabilities")
    control.output.table(found, columns, rows, empty="no nodes known here", drop=("listens on",), wrap=True)


@click.command()
@common_options
@click.argument("url")
@controlled
async def connect(control: Control, url: str) -> None:
    """Connect with the node at ws://HOST:PORT or wss://HOST:PORT.

    Prints its id; the connection is kept up from then on.
    """
    node_id = await control.call("node.connect", {"url": url})
    control.output.result({"node_id": node_id}, node_id)


@click.command()
@common_options
@click.argument("id")
@controlled
async def disconnect(control: Control, id: str) -> None:
    """Disconnect from the peer ID (or NAME).

    It stays so until `mesh connect` or a restart.
    """
    node_id = await control.call("node.disconnect", {"node_id": id})
    control.output.result({"node_id": node_id}, f"disconnected from {node_id}")


@click.command()
@common_options
@click.option("--upload", metavar="RATE", callback=parsed(parse_limit), help="Send blobs no faster.")
@click.option("--download", metavar="RATE", callback=parsed(parse_limit), help="Fetch blobs no faster.")
@click.option(
    "--link",
    metavar="RATE",
    callback=parsed(parse_limit),
    help="Exchange blobs with each peer no faster, either way.",
)
@controlled
async def limits(control: Control, /, **given: int | None) -> None:
    """Cap what blobs take, until the node stops.

    RATE is 2MB/s or the like, or none to lift a cap; what is not given stays as it is. Without options: show
    the caps.
    """
    caps: dict[str, float | None] = await control.call("node.limits")
    if any(rate is not None for rate in given.values()):
        caps |= {name: rate or None for name, rate in given.items() if rate is not None}
        await control.call("node.set_limits", caps)
    lines = [f"{name:<8}  {f'{size(rate)}/s' if rate else 'no limit'}" for name, rate in caps.items()]
    control.output.result(caps, "\n".join(lines))


@click.command()
@common_options
@controlled
async def pause(control: Control) -> None:
    """Go offline, until `mesh resume`.

    Ends every link; what is held here stays usable.
    """
    await control.call("node.pause")
    control.output.result({"paused": True}, "offline until `mesh resume`")


@click.command()
@common_options
@controlled
async def resume(control: Control) -> None:
    """Come back online."""
    await control.call("node.resume")
    control.output.result({"paused": False}, "online")


@click.command()
@common_options
@controlled
async def down(control: Control) -> None:
    """Stop the node.

    Returns when it has released everything.
    """
    await control.call("node.shutdown")
    await control.closed()
    control.output.result({"stopped": True}, "stopped")
