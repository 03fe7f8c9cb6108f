"""What the benchmark of documents prints: each figure beside the raw reference, and whether it is enough."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.works import Figures

Runs = dict[str, list[Figures]]
"""By side, what each run has found."""


class Medians:
    """Of some runs."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def of(self, side: str, figure: str) -> float | None:
        """The median of a figure; ``None``: this side has none."""
        values = [run[figure] for run in self._runs.get(side, []) if figure in run]
        return statistics.median(values) if values else None

    def ratio(self, figure: str) -> float | None:
        """The median of ours divided by that of the raw reference in the same run."""
        pairs = zip(self._runs["ours"], self._runs["raw"], strict=True)
        values = [ours[figure] / raw[figure] for ours, raw in pairs if figure in ours and raw.get(figure)]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Goal:
    """What a figure should be; ``met`` is ``None`` where that cannot be told."""

    text: str
    met: Callable[[Medians, str], bool | None]


def at_most(limit: float, text: str) -> Goal:
    """No more than this."""
    return Goal(f"<= {text}", lambda found, figure: _compare(found.of("ours", figure), limit))


def at_least(limit: float, text: str) -> Goal:
    """No less than this."""
    return Goal(f">= {text}", lambda found, figure: _compare(limit, found.of("ours", figure)))


def at_most_raw(times: float) -> Goal:
    """No more than so many times the raw reference."""
    return Goal(f"<= {times:g} x raw", lambda found, figure: _compare(found.ratio(figure), times))


def at_least_raw(share: float) -> Goal:
    """No less than this share of the raw reference."""
    return Goal(f">= {share:g} x raw", lambda found, figure: _compare(share, found.ratio(figure)))


def at_most_other(other: str, text: str, times: float = 1.0, more: float = 0.0) -> Goal:
    """No more than follows from another figure of ours."""

    def met(found: Medians, figure: str) -> bool | None:
        base = found.of("ours", other)
        return None if base is None else _compare(found.of("ours", figure), base * times + more)

    return Goal(f"<= {text}", met)


def _compare(smaller: float | None, larger: float | None) -> bool | None:
    return None if smaller is None or larger is None else smaller <= larger


SECONDS, MILLISECONDS, MEGABYTES, KILOBYTES = ("s", 1.0, 3), ("ms", 1e3, 2), ("MB", 1e-6, 3), ("kB", 1e-3, 1)
MEMORY, RATE, NUMBER = ("MB", 1.0, 1), ("/s", 1.0, 0), ("", 1.0, 1)


@dataclass(frozen=True)
class Row:
    """One figure of the table; ``unit`` is its name, what the figure is multiplied by, and its decimals."""

    figure: str
    label: str
    unit: tuple[str, float, int]
    goal: Goal | None = None


ROWS = [
    Row("W1 time", "W1  first sync into an empty node: from dialling to durable", SECONDS, at_most_raw(2)),
    Row("W1 cpu both", "    CPU of both", SECONDS, at_most_raw(2)),
    Row("W1 cpu receiver", "    CPU of the receiver", SECONDS),
    Row("W1 bytes", "    on the wire", MEGABYTES, at_most(0.8e6, "0.8 MB")),
    Row("W1 memory", "    peak memory of the receiver", MEMORY, at_most(80, "80 MB")),
    Row(
        "W2 time", "W2  known peer, 10 + 10 changed: both have all, after link up", MILLISECONDS,
        at_most(0.015, "15 ms"),
    ),
    Row("W2 from dial", "    the same, after dialling", MILLISECONDS),
    Row("W2 settled", "    settled, after link up", MILLISECONDS),
    Row("W2 bytes", "    on the wire, handshakes included", KILOBYTES, at_most(6e3, "6 kB")),
    Row("W2 round trips", "    round trips after link up", NUMBER),
    Row(
        "W2' time", "W2' stranger, 10 + 10 changed: both have all, after link up", MILLISECONDS,
        at_most(0.045, "45 ms"),
    ),
    Row("W2' from dial", "    the same, after dialling", MILLISECONDS),
    Row("W2' settled", "    settled, after link up", MILLISECONDS),
    Row("W2' bytes", "    on the wire, handshakes included", KILOBYTES, at_most(30e3, "30 kB")),
    Row("W2' round trips", "    round trips after link up", NUMBER, at_most(3, "3")),
    Row("W2' time, large", "W2' many documents: both have all, after link up", MILLISECONDS),
    Row(
        "W2' bytes, large", "    on the wire, handshakes included", KILOBYTES,
        at_most_other("W2' bytes", "2 x fewer documents", times=2),
    ),
    Row(
        "W2' round trips, large", "    round trips after link up", NUMBER,
        at_most_other("W2' round trips", "1 more", more=1),
    ),
    Row("W3 p50", "W3  write -> observed by 8 through a relay: p50", MILLISECONDS, at_most(0.003, "3 ms")),
    Row("W3 p99", "    p99", MILLISECONDS, at_most(0.010, "10 ms")),
    Row("W3 rate", "    updates", RATE, at_least_raw(0.45)),
    Row("hops p50", "    write -> observed three hops away: p50", MILLISECONDS, at_most(0.008, "8 ms")),
    Row("W4 single", "W4  writes, one commit each", RATE, at_least(10_000, "10,000/s")),
    Row("W4 thread", "    beside raw with a thread for the disk", RATE),
    Row("W4 batched", "    500 together", RATE, at_least(20_000, "20,000/s")),
    Row("W4 transactions", "    500 in a transaction", RATE, at_least(20_000, "20,000/s")),
    Row("W4 query", "    indexed query", MILLISECONDS, at_most(0.005, "5 ms")),
    Row("rest open", "At rest with many documents: time to open", MILLISECONDS),
    Row("rest memory", "    memory", MEMORY, at_most(120, "120 MB")),
    Row("rest query", "    indexed query", MILLISECONDS, at_most(0.005, "5 ms")),
]  # fmt: skip


def table(runs: Runs, extra: list[str]) -> str:
    """The rows of which something is known, with a column for each side in ``extra``."""
    found = Medians(runs)
    lines = [["", "ours", "raw", "ours/raw", "goal", "met", *extra]]
    for row in ROWS:
        if found.of("ours", row.figure) is None:
            continue
        ratio = found.ratio(row.figure)
        met = None if row.goal is None else row.goal.met(found, row.figure)
        lines.append(
            [
                row.label,
                _shown(found.of("ours", row.figure), row),
                _shown(found.of("raw", row.figure), row),
                "" if ratio is None else f"{ratio:.2f}",
                "" if row.goal is None else row.goal.text,
                "" if met is None else "yes" if met else "NO",
                *[_shown(found.of(side, row.figure), row) for side in extra],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, 4) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _shown(value: float | None, row: Row) -> str:
    if value is None:
        return ""
    name, scale, decimals = row.unit
    return f"{value * scale:,.{decimals}f} {name}".rstrip()
