"""`mesh deliveries`, `accept` and `reject`: deciding by hand what this node takes."""

from __future__ import annotations

import click

from mesh.cli.output import print_json
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean, short, size
from mesh.core.status import TransferPriority
from mesh.core.tokens import BlobToken
from mesh.errors import NodeNotRunning


@click.command()
@common_options
@controlled
async def deliveries(control: Control) -> None:
    """Print what waits for a decision here.

    For a node with `mesh up --receive manual`; until Ctrl-C.
    """
    async with control.stream("deliveries.watch") as items:
        async for item in items:
            if control.output.as_json:
                print_json(item)
                continue
            token = BlobToken.from_dict(item["token"])
            priority = TransferPriority(item["priority"]).name.lower()
            name = clean(token.metadata.name or short(token.hash))
            publisher = short(item["publisher"])
            what = f"{name} ({size(token.size_bytes)}) from {publisher}, {priority}"
            click.echo(f"{item['distribution_id']}  {what}, blob {short(token.hash)}")
    raise NodeNotRunning(str(control.home))


@click.command()
@common_options
@click.argument("id")
@controlled
async def accept(control: Control, id: str) -> None:
    """Take what distribution ID delivers.

    Prints where the file is.
    """
    accepted = await control.call("deliveries.accept", {"id": id})
    path = accepted["path"]
    where = "" if path is None else f": {clean(path)}"
    control.output.result(accepted, f"accepted {accepted['distribution_id']}{where}")


@click.command()
@common_options
@click.argument("id")
@click.argument("reason")
@controlled
async def reject(control: Control, id: str, reason: str) -> None:
    """Refuse what distribution ID delivers.

    The publisher is told REASON.
    """
    whole = await control.call("deliveries.reject", {"id": id, "reason": reason})
    control.output.result({"distribution_id": whole}, f"rejected {whole}")
