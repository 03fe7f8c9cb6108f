"""Which numbers of a log a store has given, so that it notices when somebody knows one that it has not.

A store numbers its changes in one sequence, positions and counters alike. Every time it is opened it leaves a
gap of random width and starts a new run. A backup that is put back does the same, while the store that it was
made of went on in its own run: what that one gave falls into the gaps of this one.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

MIN_GAP, MAX_GAP = 1 << 16, 1 << 21
"""A backup is recognised without fail if less than the narrowest gap was written between it and the end of
the store that it is of. At the widest, 2^53 numbers last for billions of starts."""

CONTINUED = 1 << 12
"""So soon after the end of a run, a number that was not given belongs to the same run in another life."""

MAX_RUNS = 100
"""Runs that are remembered; the oldest are taken for one."""


class Numbering(NamedTuple):
    """The runs of one log.

    Attributes:
        runs: first and last number of every earlier run, in order. The first number of a run is the position
            at which it starts, and is no change's.
        start: the first number of the present run.
    """

    runs: tuple[tuple[int, int], ...] = ()
    start: int = 0

    def issued(self, number: int, last: int) -> bool:
        """Whether this store has given ``number``; ``last`` is the last one that it has given."""
        if number >= self.start:
            return number <= last
        earlier = bisect_right(self.runs, number, key=lambda run: run[0])
        return earlier > 0 and number <= self.runs[earlier - 1][1]

    def parted(self, number: int | None) -> int:
        """After which number this store and another life of it, which gave ``number`` or some number that is
        not known, have probably parted.

        The other life has gone on where a run of this one ends, or one gap further. If it was started more
        often, nothing is known, and all but the present run is taken for older.
        """
        if number is None:
            return self.start
        ends = [last for _, last in self.runs if last < number]
        if ends and number - ends[-1] <= CONTINUED:
            return ends[-1]
        return next((last for last in ends if number - last <= MAX_GAP + CONTINUED), self.start)

    def parted_at_the_latest(self, number: int | None) -> int:
        """The same, where it may have been later; most often the other life is met by the first run since."""
        if number is None:
            return self.start
        ends = [last for _, last in self.runs if last < number]
        for last in reversed(ends):
            if number - last <= CONTINUED or MIN_GAP <= number - last <= MAX_GAP + CONTINUED:
                return last
        return self.start

    def reopened(self, last: int, gap: int) -> Numbering:
        """The numbering of the next run, ``gap`` after the ``last`` number of this one."""
        runs = (*self.runs, (self.start, last))
        if len(runs) > MAX_RUNS:
            runs = ((runs[0][0], runs[1][1]), *runs[2:])
        return Numbering(runs, last + gap)


ONE_RUN = Numbering()
"""The numbering of a store that has been opened once."""
