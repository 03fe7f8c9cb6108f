"""`mesh fetch`: a blob that a token names, from whoever holds it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.output import Output, console
from mesh.cli.parsing import parse_duration, parse_token, parsed
from mesh.cli.progress import bar
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean, duration, percent, short, size
from mesh.cli.views import Quiet, Redrawn, View
from mesh.core.tokens import BlobProgress, BlobToken

if TYPE_CHECKING:
    from rich.text import Text


def _token(text: str) -> BlobToken:
    return parse_token(sys.stdin.read() if text == "-" else text)


@click.command()
@common_options
@click.argument("token", callback=parsed(_token))
@click.option(
    "--output",
    "path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Copy it to this file when it is here.",
)
@click.option("--force", is_flag=True, help="With --output: replace PATH if it exists.")
@click.option(
    "--timeout", metavar="TIME", callback=parsed(parse_duration), help="Give up waiting after this: 90, 15m."
)
def fetch(token: BlobToken, path: Path | None, force: bool, timeout: float | None) -> int | None:
    """Fetch the blob that TOKEN names.

    TOKEN is the JSON that `mesh add` prints and documents hold, or - to read it from stdin. Waits as long as
    nobody has the blob. Ctrl-C ends the waiting; what has arrived stays for 10 minutes, and so does the blob
    unless something needs it.
    """
    if force and path is None:
        raise click.UsageError("--force goes with --output")
    params = {
        "token": token.to_dict(),
        "path": None if path is None else str(path.absolute()),
        "force": force,
        "timeout": timeout,
    }
    return _fetch(token, path, params)


@controlled
async def _fetch(control: Control, token: BlobToken, path: Path | None, params: dict[str, Any]) -> None:
    name = token.metadata.name or short(token.hash)
    try:
        with view_for(control.output, f"{name} ({size(token.size_bytes)})") as view:
            async with control.stream("attachments.fetch", params) as items:
                async for item in items:
                    view.show(BlobProgress.from_dict(item))
    except asyncio.CancelledError:  # Ctrl-C
        end = "what has arrived stays for 10 minutes, and the same command goes on from there"
        click.echo(f"mesh: not fetched: {end}", err=True)
        raise
    control.output.result(token, f"{path or token.hash}  {size(token.size_bytes)}")


class _Lines(Quiet[BlobProgress]):
    """A line whenever the state, the reason or the tenth of progress has changed."""

    def __init__(self) -> None:
        self._shown: tuple[object, ...] = ()

    def show(self, progress: BlobProgress) -> None:
        seen = (progress.state, progress.reason, int(_fraction(progress) * 10))
        if seen != self._shown:
            self._shown = seen
            why = f"  {clean(progress.reason)}" if progress.reason else ""
            click.echo(f"{progress.state}  {percent(_fraction(progress))}{why}")


class _Bar(Redrawn[BlobProgress]):
    """A bar, redrawn in place."""

    def __init__(self, title: str) -> None:
        from rich.live import Live

        self._title = clean(title)
        super().__init__(Live(console=console()))

    def show(self, progress: BlobProgress) -> None:
        self._live.update(self._render(progress))

    def _render(self, progress: BlobProgress) -> Text:
        from rich.text import Text

        fraction = _fraction(progress)
        pace = f"{size(progress.rate)}/s" if progress.rate else ""
        left = f"{duration(progress.eta)} left" if progress.eta is not None else ""
        parts = (progress.state, pace, left, clean(progress.reason or ""))
        style = "green" if progress.state == "completed" else "cyan"
        return Text.assemble(
            (f"{self._title}\n", "bold"),
            (f"{bar(fraction)}  {percent(fraction):>4}  {'  '.join(filter(None, parts))}", style),
        )


def _fraction(progress: BlobProgress) -> float:
    return progress.downloaded_bytes / progress.total_bytes if progress.total_bytes else 1.0


def view_for(output: Output, title: str) -> View[BlobProgress]:
    """The view that suits where the command prints."""
    if output.as_json:
        return Quiet[BlobProgress]()
    return _Bar(title) if output.is_terminal else _Lines()
