"""Comparisons that one peer makes with what is held here: whose keys are read when, and what is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mesh.core import reconcile
from mesh.core.interest import InterestSet
from mesh.core.reconcile import KeySet, Summary
from mesh.core.sync_effects import Effect, ReadKeys, Send
from mesh.core.wire import Differences, Pull, Summaries
from mesh.errors import ProtocolViolation

MAX_KEYS = 262_144
"""Keys that are held for the comparisons of one peer; while there are as many, none are read for the next."""


class Comparisons:
    """Those of one peer that are not over.

    Invariants:
      1. Keys are read for one at a time, in the order in which they were asked for, and only while fewer than
         ``MAX_KEYS`` are held: so at most one whole set more than that.
      2. Before it is answered, a peer has sent no more digests than those of the first ranges.
      3. No more is pulled than there is, and the keys are kept until that has been sent.
    """

    def __init__(self) -> None:
        self._interests: dict[int, InterestSet] = {}
        self._waiting: deque[int] = deque()  # their keys are still to be read
        self._reading: int | None = None
        self._keys: dict[int, KeySet] = {}
        self._early: dict[int, list[Summaries]] = {}  # they came before the keys were read
        self._left: dict[int, int] = {}  # what may still be pulled, until it has been

    def __len__(self) -> int:
        return len(self._interests)

    def __iter__(self) -> Iterator[int]:
        return iter(self._interests)

    @property
    def size_bytes(self) -> int:
        """What the entries that are compared take, about."""
        return sum(interest.size_bytes for interest in self._interests.values())

    def begin(self, number: int, interest: InterestSet, *, shared: bool) -> list[Effect]:
        """The peer's resume ``number`` is about to be compared. ``shared``: by this node, for both."""
        self._interests[number] = interest
        if shared:
            return []
        self._waiting.append(number)
        self._early[number] = []
        return self._read()

    def end(self, number: int) -> list[Effect]:
        """It is over."""
        self._interests.pop(number, None)
        self._keys.pop(number, None)
        self._left.pop(number, None)
        return self._read()

    def _read(self) -> list[Effect]:
        if not self._waiting or self._reading is not None or sum(map(len, self._keys.values())) >= MAX_KEYS:
            return []
        self._reading = number = self._waiting.popleft()
        return [ReadKeys(number, False, self._interests[number])]

    def keys_read(self, number: int, keys: KeySet) -> list[Effect]:
        """Result of :class:`ReadKeys`."""
        self._reading = None
        self._keys[number] = keys
        self._left[number] = 2 * (len(keys) + keys.others)  # of each document, its place and its key
        effects = [effect for early in self._early.pop(number, ()) for effect in self.on_summaries(early)]
        return effects + self._read()

    def on_summaries(self, message: Summaries) -> list[Effect]:
        """The peer's digests, to be compared with ours.

        Raises:
            ProtocolViolation: they were not agreed on, or are too many.
        """
        keys, early = self._keys.get(message.number), self._early.get(message.number)
        if keys is None and early is None:
            raise ProtocolViolation(f"a comparison {message.number} that was not agreed on")
        if not 0 < len(message.summaries) <= reconcile.MAX_SUMMARIES:
            raise ProtocolViolation(f"{len(message.summaries)} summaries at once")
        if keys is not None:
            divide, listings = reconcile.answer(keys, [Summary(*summary) for summary in message.summaries])
            return [Send(Differences(message.number, [*divide], [*listings]))]
        assert early is not None
        early.append(message)
        if sum(len(waiting.summaries) for waiting in early) > reconcile.FIRST_RANGES:
            raise ProtocolViolation("summaries of more than the first ranges before any answer")
        return []

    def on_pull(self, message: Pull) -> tuple[list[int], bool]:
        """The positions in the log of what the peer pulls, and whether that is the last of it.

        Raises:
            ProtocolViolation: it was not listed, or is more than there is.
        """
        number, places = message.number, message.places
        keys = self._keys.get(number)
        if keys is None or number not in self._left:
            raise ProtocolViolation("pulled before anything was compared, or once more")
        if not all(0 <= place < len(keys) for place in places):
            raise ProtocolViolation("pulled what was not listed")
        # What has moved on in the log since comes with the live changes.
        named = {position for key in message.keys if (position := keys.position_of(key)) is not None}
        self._left[number] -= len(places) + len(named)
        if self._left[number] < 0:
            raise ProtocolViolation("pulled more than there is")
        last = max(len(message.keys), len(places)) < reconcile.MAX_PULLED
        if last:
            del self._left[number]
        return sorted(named.union(map(keys.position, places))), last
