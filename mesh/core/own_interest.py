"""What a node wants itself, and the sequence under which it says so: above all that is said in its name."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.interest import InterestSet
from mesh.core.rivals import Rivals
from mesh.core.ways import MAX_SEQUENCE
from mesh.core.wire import Interest, InterestEntry


class OwnInterest:
    """That of one node.

    Attributes:
        node_id: whose it is.
        wanted: what it wants itself.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.wanted = InterestSet()
        self._sequence = 0
        self._rivals = Rivals()

    @property
    def outdone(self) -> bool:
        """Whether another process speaks as this node, and was let have the last word for now."""
        return self._rivals.outdone > self._sequence

    @property
    def rivals_met(self) -> int:
        """How often another process was heard to speak as this node."""
        return self._rivals.met

    @property
    def next_rise(self) -> float | None:
        """When there is something to :meth:`rise` above."""
        return self._rivals.next_rise

    def replace(self, entries: Iterable[InterestEntry], sequence: int) -> None:
        """Want these; ``sequence`` should grow."""
        self.wanted = InterestSet(entries)
        self._go_above(max(self._sequence, sequence - 1))

    def heard(self, sequence: int, now: float) -> bool:
        """Somebody speaks as this node, or stands in for it; whether it goes above that."""
        if sequence <= self._sequence:
            return False
        stand_in = sequence % 2
        if not stand_in and not self._rivals.rise(sequence, now):
            return False
        self._go_above(sequence)
        return True

    def rise(self, now: float) -> bool:
        """Go above who had the last word, if it is time; whether it was."""
        outdone, due = self._rivals.outdone, self._rivals.next_rise
        risen = due is not None and due <= now and self._rivals.rise(outdone, now)
        if risen:
            self._go_above(max(outdone, self._sequence))
        return risen

    def _go_above(self, sequence: int) -> None:
        self._sequence = min(sequence + 2 - sequence % 2, MAX_SEQUENCE)

    def announcement(self) -> Interest:
        """What every peer is told of it."""
        return Interest(self.node_id, self._sequence, 0, list(self.wanted.entries.values()))

    def uncovered(self, entries: Iterable[InterestEntry]) -> list[InterestEntry]:
        """Those that ask for what this node does not want itself."""
        return [entry for entry in entries if not self.wanted.covers(entry)]
