"""Who else speaks as this node.

A node that hears a newer interest in its own name goes above it. What an earlier run of it has said, while
the clock was ahead, may be about in several versions, each of which it hears once. Another process that runs
with the same identity goes above in turn, and so they would go on as fast as messages travel.
"""

from __future__ import annotations

from collections import deque

MAX_RISES = 32
"""How often a node goes above what it has not said in this run, ..."""

RISE_SECONDS = 600.0
"""... within this time. For as long, whoever is above then stays there."""


class Rivals:
    """Counts them. ``outdone`` is the newest sequence that this node did not go above; 0: there is none.
    ``met``: how often somebody else spoke."""

    def __init__(self) -> None:
        self._rises: deque[float] = deque(maxlen=MAX_RISES)
        self.outdone = 0
        self.met = 0
        self.next_rise: float | None = None
        """When to go above what this node was outdone by."""

    def rise(self, sequence: int, now: float) -> bool:
        """Whether to go above ``sequence``, which somebody said as this node."""
        self.met += 1
        if self.next_rise is None and len(self._rises) == MAX_RISES and now < self._rises[0] + RISE_SECONDS:
            self.next_rise = now + RISE_SECONDS
        if self.next_rise is not None and now < self.next_rise:
            self.outdone = max(self.outdone, sequence)
            return False
        if self.next_rise is not None:
            self._rises.clear()
        self._rises.append(now)
        self.outdone, self.next_rise = 0, None
        return True
