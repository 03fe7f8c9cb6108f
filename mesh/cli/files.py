"""`mesh add`, `blobs` and `export`: files as blobs of the node, and back."""

from __future__ import annotations

from pathlib import Path

import click

from mesh.cli.output import compact_json
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import size
from mesh.core.tokens import BlobToken


@click.command()
@common_options
@click.argument("file", type=click.Path(path_type=Path))
@controlled
async def add(control: Control, file: Path) -> None:
    """Add FILE to the blobs; print its token.

    The token is what a document holds to refer to the file.
    """
    token = await control.call("attachments.add", {"path": str(file.absolute())})
    control.output.result(token, compact_json(token))


@click.command()
@common_options
@controlled
async def blobs(control: Control) -> None:
    """List the blobs that the node holds."""
    plain = await control.call("attachments.list")
    tokens = [BlobToken.from_dict(token) for token in plain]
    rows = [(size(token.size_bytes), token.metadata.name or "", token.hash) for token in tokens]
    control.output.table(plain, (">size", "name", "hash"), rows, empty="no blobs here")


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
