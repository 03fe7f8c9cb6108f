"""What commands print: JSON for programs, tables for people, plain lines for pipes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mesh.cli.units import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MAX_CELL = 40
"""Columns on a terminal are cut to this width, so that one long value does not push the rest away."""


def print_json(value: Any) -> None:
    """One JSON document on a line of its own, at once."""
    click.echo(msgspec.json.encode(value) + b"\n", nl=False)


def compact_json(value: Any) -> str:
    """``value`` as JSON on one line, safe for a terminal."""
    return clean(msgspec.json.encode(value).decode())


@dataclass(frozen=True)
class Cell:
    """A piece of text in a table, with a rich style."""

    text: str
    style: str = ""


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Output:
    """Where and how a command prints."""

    as_json: bool

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches: not a pipe, not a file, not ``--json``."""
        return not self.as_json and sys.stdout.isatty()

    def result(self, value: Any, text: str | None = None) -> None:
        """The result of a command: ``value`` with ``--json``, else the line ``text`` (``None``: nothing)."""
        if self.as_json:
            print_json(value)
        elif text is not None:
            click.echo(text)

    def table(self, value: Any, columns: Sequence[str], rows: Sequence[Row], *, empty: str) -> None:
        """``value`` with ``--json``, else ``rows`` in aligned columns; without rows, ``empty`` on stderr.

        A column whose name starts with ``>`` is aligned right, except the last. Text from elsewhere is
        made harmless.
        """
        if self.as_json:
            print_json(value)
        elif not rows:
            click.echo(empty, err=True)
        elif self.is_terminal:
            screen = console()
            for line in table_lines(columns, rows, clip=MAX_CELL):
                screen.print(line, no_wrap=True, overflow="ellipsis")
        else:
            for line in table_lines(columns, rows):
                click.echo(line.plain.rstrip())


def table_lines(columns: Sequence[str], rows: Sequence[Row], *, clip: int | None = None) -> list[Text]:
    """The lines of a table, in aligned columns but for the last, which is ragged.

    With ``clip``, no column but the last is wider than that.
    """
    from rich.text import Text

    titles = [column.lstrip(">") for column in columns]
    lines = [[Text(title, "dim") for title in titles]] if any(titles) else []
    lines += [[_cell(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns[:-1]):
        cells = [line[index] for line in lines]
        if clip is not None:
            for cell in cells:
                cell.truncate(clip, overflow="ellipsis")
        width = max((cell.cell_len for cell in cells), default=0)
        for cell in cells:
            missing = width - cell.cell_len
            cell.pad_left(missing) if column.startswith(">") else cell.pad_right(missing)
    return [Text("  ").join(line) for line in lines]


def console() -> Console:
    """A terminal on stdout that prints what it is given as it is."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _cell(cell: Cell | str) -> Text:
    from rich.text import Text

    return Text(clean(cell.text), cell.style) if isinstance(cell, Cell) else Text(clean(cell))
