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

LEAST_CELL = 12
"""No column of text is made narrower than this: ids and states fit."""

LEAST_WRAPPED = 24
"""Nor a last column that goes on over several lines narrower than this."""

_GAP = 2


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

    def table(
        self,
        value: Any,
        columns: Sequence[str],
        rows: Sequence[Row],
        *,
        empty: str,
        drop: Sequence[str] = (),
        wrap: bool = False,
    ) -> None:
        """``value`` with ``--json``, else ``rows`` in aligned columns; without rows, ``empty`` on stderr.

        A column whose name starts with ``>`` is aligned right and never cut. On a terminal it is made to fit,
        see :func:`table_blocks`. Text from elsewhere is made harmless.
        """
        if self.as_json:
            print_json(value)
        elif not rows:
            click.echo(empty, err=True)
        elif self.is_terminal:
            screen = console()
            for block in table_blocks(columns, rows, width=screen.width, drop=drop, wrap=wrap):
                for line in block:
                    screen.print(line, no_wrap=True, overflow="ellipsis")
        else:
            for block in table_blocks(columns, rows):
                click.echo(block[0].plain.rstrip())


def table_blocks(
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    width: int | None = None,
    drop: Sequence[str] = (),
    wrap: bool = False,
) -> list[list[Text]]:
    """The lines of the titles, if there are any, and of each row, in aligned columns; the last is ragged.

    Args:
        width: make it fit: columns of text are cut, the widest first, but not to less than they need to
            mean something.
        drop: titles of the columns that are left out, the first first, if that is not enough.
        wrap: the last column is not cut but goes on in lines of its own.
    """
    from rich.text import Text

    titles = [column.lstrip(">") for column in columns]
    grid = [[Text(title, "dim") for title in titles]] if any(titles) else []
    grid += [[_cell(cell) for cell in row] for row in rows]
    natural = [max((row[index].cell_len for row in grid), default=0) for index in range(len(columns))]
    widths = dict(enumerate(natural))
    if width is not None:
        widths = _fitted(columns, natural, width, [titles.index(title) for title in drop], wrap=wrap)
    *aligned, last = widths
    indent = Text(" " * sum(widths[index] + _GAP for index in aligned))
    screen = console()
    blocks = []
    for row in grid:
        for index in aligned:
            cell = row[index]
            cell.truncate(widths[index], overflow="ellipsis")
            missing = widths[index] - cell.cell_len
            cell.pad_left(missing) if columns[index].startswith(">") else cell.pad_right(missing)
        if width is not None and wrap:
            ends = list(row[last].wrap(screen, max(widths[last], 1)))
        else:
            row[last].truncate(widths[last], overflow="ellipsis")
            ends = [row[last]]
        first = Text(" " * _GAP).join([*(row[index] for index in aligned), ends[0]])
        blocks.append([first, *(indent + end for end in ends[1:])])
    return blocks


def _fitted(
    columns: Sequence[str], natural: Sequence[int], width: int, drop: Sequence[int], *, wrap: bool
) -> dict[int, int]:
    """The widths, by their index, of the columns that stay."""
    least = {
        index: wide if columns[index].startswith(">") else min(wide, LEAST_CELL)
        for index, wide in enumerate(natural)
    }
    if wrap:
        least[len(columns) - 1] = min(natural[-1], LEAST_WRAPPED)

    def excess(widths: dict[int, int]) -> int:
        return sum(widths.values()) + _GAP * (len(widths) - 1) - width

    for index in drop:
        if excess(least) > 0:
            del least[index]
    widths = {index: min(natural[index], max(width, lowest)) for index, lowest in least.items()}
    while excess(widths) > 0:
        widest = max(widths, key=lambda index: (widths[index] > least[index], widths[index]))
        if widths[widest] == least[widest]:
            break  # the terminal cuts it
        widths[widest] -= 1
    return widths


def console() -> Console:
    """A terminal on stdout that prints what it is given as it is."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _cell(cell: Cell | str) -> Text:
    from rich.text import Text

    return Text(clean(cell.text), cell.style) if isinstance(cell, Cell) else Text(clean(cell))
