"""`mesh distribute`, and following a distribution to its end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mesh.cli.output import Output
from mesh.cli.parsing import parse_duration, parse_scope, parsed
from mesh.cli.progress import counts, summary, view_for, whom
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean, short, size
from mesh.control.methods import Listed
from mesh.core.scopes import DistributionScope, scope_text
from mesh.core.status import DistributionHandle, DistributionStatus, TransferPriority
from mesh.core.tokens import BlobToken
from mesh.errors import DistributionTimeout, NodeNotRunning

PRIORITIES = [priority.name.lower() for priority in TransferPriority]


@click.command()
@common_options
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--blob", metavar="HASH", help="Distribute a blob that the node holds, instead of a FILE.")
@click.option(
    "--scope",
    default="all",
    show_default=True,
    metavar="SCOPE",
    callback=parsed(parse_scope),
    help="all | formation:NAME | nodes:NAME,ID | capable:min_gpu_gb=4,cpu_arch=x86_64",
)
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@click.option(
    "--expires",
    metavar="TIME",
    callback=parsed(parse_duration),
    help="Who has not completed it by then fails: 3600, 1h, 7d.",
)
@click.option("--supersedes", metavar="ID", help="An older distribution that this one replaces.")
@click.option("--wait", is_flag=True, help="Show the progress, and end with it: status 0 if all completed.")
@click.option(
    "--timeout",
    metavar="TIME",
    callback=parsed(parse_duration),
    help="With --wait: give up waiting after this.",
)
def distribute(
    file: Path | None,
    blob: str | None,
    scope: DistributionScope,
    priority: str,
    expires: float | None,
    supersedes: str | None,
    wait: bool,
    timeout: float | None,
) -> int | None:
    """Send FILE to every node in a scope.

    Prints the id of the distribution, which goes on in the background; with --wait, its progress, and the id
    on stderr before that. Ctrl-C ends the waiting only.
    """
    if (file is None) == (blob is None):
        raise click.UsageError("give either a FILE or --blob HASH")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    params = {
        "path": None if file is None else str(file.absolute()),
        "hash": blob,
        "scope": scope.to_dict(),
        "priority": priority,
        "expires_in": expires,
        "supersedes": supersedes,
    }
    return _distribute(params, wait, timeout)


@controlled
async def _distribute(
    control: Control, params: dict[str, Any], wait: bool, timeout: float | None
) -> int | None:
    made = await control.call("distributions.create", params)
    handle = DistributionHandle.from_dict(made["handle"])
    if not made["nodes_in_scope"]:
        nobody = f"no node that is known here is in {clean(scope_text(handle.scope))} now: it waits for one"
        click.echo(f"mesh: {nobody}", err=True)
    if wait:
        click.echo(f"distribution {handle.distribution_id}", err=True)
        return await follow(control, handle.distribution_id, timeout=timeout, stream_json=False)
    control.output.result({"distribution_id": handle.distribution_id} | made, handle.distribution_id)
    if not control.output.as_json:
        token = BlobToken.from_dict(made["token"])
        text = describe(handle, await node_names(control), token.metadata.name, token.size_bytes)
        click.echo(clean(text), err=True)
    return None


def describe(
    handle: DistributionHandle, names: Mapping[str, str], name: str | None, size_bytes: int | None
) -> str:
    """What is distributed to whom, on a line."""
    what = name or short(handle.blob_hash)
    weight = f" ({size(size_bytes)})" if size_bytes is not None else ""
    return f"{what}{weight} to {whom(handle.scope, names)}, {handle.priority.name.lower()}"


async def follow(control: Control, id: str, *, timeout: float | None = None, stream_json: bool) -> int:
    """Show the progress of a distribution until it ends: 0 if every target completed, else 1.

    Raises:
        DistributionTimeout: it has not ended within ``timeout`` seconds.
        NodeNotRunning: the node stopped meanwhile.
    """
    listed = Listed.from_dict(await control.call("distributions.status", {"id": id}))
    last, handle = listed.status, listed.status.handle
    id = handle.distribution_id
    names = await node_names(control)
    title = f"{describe(handle, names, listed.name, listed.size_bytes)}  [{short(id)}]"
    asked = set(names)
    look = f"`mesh distribution {id}` shows how far it is, `mesh cancel {id}` ends it"
    try:
        async with asyncio.timeout(timeout):
            with view_for(control.output, names, title, stream_json=stream_json) as view:
                async with control.stream("distributions.progress", {"id": id}) as items:
                    async for item in items:
                        last = DistributionStatus.from_dict(item)
                        if not last.node_statuses.keys() <= asked:
                            asked.update(last.node_statuses)
                            names.update(await node_names(control))
                        view.show(last)
        if not (last.is_complete or last.is_cancelled or last.is_expired):
            raise NodeNotRunning(str(control.home))
    except asyncio.CancelledError:  # Ctrl-C
        click.echo(f"mesh: the distribution goes on: {look}", err=True)
        raise
    except NodeNotRunning:
        click.echo(
            f"mesh: the node has stopped. The distribution goes on; once it runs again, {look}", err=True
        )
        raise
    except TimeoutError:
        raise DistributionTimeout(id, timeout or 0.0, last) from None
    _conclude(control.output, last, stream_json=stream_json)
    return 0 if last.is_success else 1


def _conclude(output: Output, status: DistributionStatus, *, stream_json: bool) -> None:
    if not stream_json:
        output.result({"distribution_id": status.handle.distribution_id} | status.to_dict())
    if not output.as_json and not output.is_terminal:
        click.echo(f"{summary(status).text}: {counts(status)}")


async def node_names(control: Control) -> dict[str, str]:
    """The names of the nodes known here, by id; of namesakes with the start of their ids."""
    members: list[dict[str, Any]] = await control.call("node.members")
    names = {member["_id"]: str(member.get("name", "")) for member in members}
    often = Counter(names.values())
    return {id: f"{name} ({short(id)})" if name and often[name] > 1 else name for id, name in names.items()}
