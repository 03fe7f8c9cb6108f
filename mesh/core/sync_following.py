"""The following side of a sync session: gets from one peer what this node wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mesh.core import reconcile
from mesh.core.interest import InterestSet, entry_digest
from mesh.core.reconcile import KeySet, Range
from mesh.core.sync_effects import ApplyFrame, Effect, ReadKeys, ReadPositions, SavePosition, Send, Standing
from mesh.core.wire import (
    Ack,
    Changes,
    Differences,
    InterestEntry,
    Pulled,
    PullKeys,
    Resume,
    Resumed,
    Summaries,
    Want,
)
from mesh.errors import ProtocolViolation


@dataclass(slots=True)
class _Catchup:
    """One Resume of ours: the entries it is about, until they are as current as the live ones."""

    entries: list[InterestEntry]
    upto: int | None = None
    reconcile: bool = False
    keys: KeySet | None = None
    summaries_asked: int = 0
    differing: list[int] = field(default_factory=list)
    pulled: bool = False


class Following:
    """Takes in what one peer sends, and remembers how far in its log this node has got.

    Invariants:
      1. Nothing is acknowledged before it is durable.
      2. A position is saved only when nothing before it is outstanding.
    """

    def __init__(self) -> None:
        self._asked_for: dict[bytes, InterestEntry] = {}
        self._allowed = InterestSet()  # all that was ever asked for on this link
        self._current: set[bytes] = set()
        self._catchups: dict[int, _Catchup] = {}
        self._next_resume = 1
        self._their_log = b""
        self._lacking: set[tuple[str, str]] = set()
        self._marks: dict[int, int] = {}

    @property
    def caught_up(self) -> bool:
        """Whether everything that the peer held when we asked is here."""
        return not self._catchups and not self._lacking

    def wanting(self, interest: InterestSet) -> list[Effect]:
        """What this node wants from the peer is now ``interest``."""
        added = [entry for digest, entry in interest.entries.items() if digest not in self._asked_for]
        self._asked_for = dict(interest.entries)
        if added:
            self._allowed = InterestSet([*self._allowed.entries.values(), *added])
        self._current &= self._asked_for.keys()
        return [ReadPositions(added)] if added else []

    def positions_read(self, standings: Sequence[Standing]) -> list[Effect]:
        """Result of :class:`ReadPositions`: the entries, grouped by where this node stands with them."""
        effects: list[Effect] = []
        for standing in standings:
            number = self._next_resume
            self._next_resume += 1
            self._catchups[number] = _Catchup(standing.entries)
            effects.append(
                Send(Resume(number, standing.log_id, standing.after, standing.empty, standing.entries))
            )
        return effects

    def on_changes(self, frame: Changes) -> list[Effect]:
        """A batch of changes has arrived.

        Raises:
            ProtocolViolation: it holds documents that were not asked for.
        """
        sent = {change.collection for change in frame.changes}
        sent |= {version.collection for version in (*frame.offers, *frame.notices)}
        if not all(map(self._allowed.__contains__, sent)):
            raise ProtocolViolation(f"sent documents of {sorted(sent)}, not all of which were asked for")
        return [ApplyFrame(frame)]

    def applied(self, frame: Changes, wants: Sequence[Want]) -> list[Effect]:
        """Result of :class:`ApplyFrame`: the frame is durable, but for ``wants``."""
        for change in frame.changes:
            self._lacking.discard((change.collection, change.id))
        for key in frame.gone:
            self._lacking.discard(key)
        self._lacking.update((want.collection, want.id) for want in wants)
        if frame.scan or frame.upto:
            self._marks[frame.scan] = max(frame.upto, self._marks.get(frame.scan, 0))
        effects: list[Effect] = [Send(Ack(frame.number, list(wants)))]
        return effects + self._save_positions()

    def on_resumed(self, message: Resumed) -> list[Effect]:
        catchup = self._catchup(message.number)
        self._their_log = message.log_id
        catchup.upto = message.upto
        catchup.reconcile = message.reconcile
        if not message.reconcile:
            return []
        return [ReadKeys(message.number, True, InterestSet(catchup.entries))]

    def keys_read(self, number: int, keys: KeySet) -> list[Effect]:
        """Result of :class:`ReadKeys`."""
        catchup = self._catchups[number]
        catchup.keys = keys
        catchup.summaries_asked += 1
        return [self._summaries(number, keys, [reconcile.WHOLE])]

    def on_differences(self, message: Differences) -> list[Effect]:
        catchup = self._catchup(message.number)
        if catchup.keys is None or not catchup.summaries_asked:
            raise ProtocolViolation("differences that no summary asked for")
        catchup.summaries_asked -= 1
        listings = [(Range(depth, prefix), pairs) for depth, prefix, pairs in message.listings]
        catchup.differing += reconcile.differing_keys(catchup.keys, listings)
        if message.divide:
            ranges = [Range(*pair) for pair in message.divide]
            if any(not 0 < r.depth < reconcile.MAX_DEPTH for r in ranges):
                raise ProtocolViolation("a range that cannot be divided")
            catchup.summaries_asked += 1
            return [self._summaries(message.number, catchup.keys, ranges)]
        return [] if catchup.summaries_asked else [Send(PullKeys(message.number, catchup.differing))]

    def on_pulled(self, message: Pulled) -> list[Effect]:
        """Everything that differed has been sent."""
        self._catchup(message.number).pulled = True
        return self._save_positions()

    def _summaries(self, number: int, keys: KeySet, ranges: list[Range]) -> Send:
        divided = reconcile.summaries(keys, ranges)
        return Send(Summaries(number, [(r.depth, r.prefix, digest) for r, digest in divided]))

    def _catchup(self, number: int) -> _Catchup:
        catchup = self._catchups.get(number)
        if catchup is None:
            raise ProtocolViolation(f"an answer to catch-up {number}, which was not asked for")
        return catchup

    def _save_positions(self) -> list[Effect]:
        """Save the positions that nothing outstanding stands before (invariant 6)."""
        if self._lacking:
            return []
        effects: list[Effect] = []
        for number, catchup in list(self._catchups.items()):
            upto = catchup.upto if catchup.pulled else self._marks.get(number)
            if upto is None or catchup.upto is None:
                continue
            digests = [entry_digest(entry) for entry in catchup.entries]
            self._save(effects, digests, upto)
            if upto >= catchup.upto:
                del self._catchups[number]
                self._current.update(digest for digest in digests if digest in self._asked_for)
        if 0 in self._marks:
            self._save(effects, sorted(self._current), self._marks[0])
        self._marks.clear()
        return effects

    def _save(self, effects: list[Effect], entries: list[bytes], upto: int) -> None:
        if entries:
            effects.append(SavePosition(self._their_log, entries, upto))
