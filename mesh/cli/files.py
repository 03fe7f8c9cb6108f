"""`mesh add`, `blobs`, `pin`, `verify`, `export` and the like: files as blobs of the node, and back."""

from __future__ import annotations

from pathlib import Path

import click

from mesh.attachments.holding import Holding
from mesh.attachments.repairing import Unrepaired
from mesh.attachments.verifying import VerifyReport
from mesh.cli.output import compact_json
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import size
from mesh.core.tokens import BlobToken

DAMAGED = 1
"""Exit status of `mesh verify`: there are blobs that are damaged and not repaired."""


@click.command()
@common_options
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--link", is_flag=True, help="Make no copy: read FILE where it is, until it changes.")
@click.option("--pin", is_flag=True, help="Keep it until `mesh unpin`.")
@controlled
async def add(control: Control, file: Path, link: bool, pin: bool) -> None:
    """Add FILE to the blobs; print its token.

    The token is what a document holds to refer to the file. Unless a document does, or it is distributed or
    pinned, the blob goes after 10 minutes.
    """
    token = await control.call("attachments.add", {"path": str(file.absolute()), "link": link, "pin": pin})
    control.output.result(token, compact_json(token))


@click.command()
@common_options
@controlled
async def blobs(control: Control) -> None:
    """List the blobs that the node holds.

    pinned: kept until `mesh unpin`. linked: read where the file is that was added. cached: here for other
    nodes only. partial: not whole here; how much of it is.
    """
    plain = await control.call("attachments.list")
    held = [Holding.from_dict(one) for one in plain]
    rows = [(size(one.size_bytes), _marks(one), one.metadata.name or "", one.hash) for one in held]
    control.output.table(plain, (">size", "", "name", "hash"), rows, empty="no blobs here")


def _marks(one: Holding) -> str:
    marks = {"pinned": one.pinned, "linked": one.linked, "cached": one.cached}
    words = [word for word, marked in marks.items() if marked]
    return ", ".join(words + [f"partial {size(one.held_bytes)}"] * one.partial)


@click.command()
@common_options
@click.argument("hash")
@controlled
async def delete(control: Control, hash: str) -> None:
    """Delete the blob HASH here, pinned or not.

    Or what has arrived of it: a fetch that is under way fails. The file that it is linked to stays, and so
    does what other nodes hold.
    """
    whole = await control.call("attachments.delete", {"hash": hash})
    control.output.result({"hash": whole}, f"{whole}  deleted")


@click.command()
@common_options
@click.argument("hash")
@controlled
async def pin(control: Control, hash: str) -> None:
    """Keep the blob HASH until `mesh unpin`.

    Without that a blob goes 10 minutes after the last document, distribution or program that needed it.
    """
    plain = await control.call("attachments.pin", {"hash": hash})
    control.output.result(plain, f"{BlobToken.from_dict(plain).hash}  pinned")


@click.command()
@common_options
@click.argument("hash")
@controlled
async def unpin(control: Control, hash: str) -> None:
    """Take `mesh pin` back: the blob HASH goes when nothing else needs it."""
    plain = await control.call("attachments.unpin", {"hash": hash})
    control.output.result(plain, f"{BlobToken.from_dict(plain).hash}  not pinned")


@click.command()
@common_options
@controlled
async def verify(control: Control) -> int | None:
    """Read every blob again, and fetch what the disk has damaged.

    So it does with what an earlier one has not repaired. That goes on for as long as something comes, and is
    given up when nothing has come for a minute; at once, if no node is linked. What has come stays: the next
    `mesh verify` goes on from there.

    Ends with status 1 if a damaged blob is not repaired.
    """
    plain = await control.call("attachments.verify")
    report = VerifyReport.from_dict(plain)
    lines = [
        f"{report.checked} blobs read, {size(report.checked_bytes)}: "
        f"{len(report.repaired)} damaged and repaired, {len(report.lost)} damaged and not repaired",
        *(f"{hash}  {_unrepaired(why)}" for hash, why in sorted(report.unrepaired.items())),
    ]
    if report.lost and report.alone:
        lines.append(
            "no node is linked that could repair them: one that holds them can `mesh distribute` them"
        )
    control.output.result(plain, "\n".join(lines))
    return DAMAGED if report.lost else None


def _unrepaired(why: Unrepaired) -> str:
    here = f"{size(why.here_bytes)} of {size(why.size_bytes)} are here"
    if why.nobody:
        missing = f"what is missing of it: {here}" if why.here_bytes else "it"
        return f"not repaired: nobody who is linked has {missing} ({why.reason})"
    return f"not repaired yet: {here}, and the next `mesh verify` or `mesh fetch` goes on; {why.reason}"


@click.command()
@common_options
@click.argument("hash")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace PATH if it exists.")
@controlled
async def export(control: Control, hash: str, path: Path, force: bool) -> None:
    """Copy the blob HASH to the file PATH."""
    params = {"hash": hash, "path": str(path.absolute()), "force": force}
    plain = await control.call("attachments.export", params)
    token = BlobToken.from_dict(plain)
    control.output.result(plain, f"{path}  {size(token.size_bytes)}")
