"""The following side of a sync session: gets from one peer what this node wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mesh.core import reconcile
from mesh.core.interest import EVERYTHING, InterestSet, entry_digest
from mesh.core.reconcile import Differing, KeySet, Listing, Range
from mesh.core.sync_effects import (
    ApplyFrame,
    Effect,
    Push,
    ReadKeys,
    ReadPositions,
    SavePosition,
    Send,
    Standing,
)
from mesh.core.wire import (
    Ack,
    Changes,
    Differences,
    InterestEntry,
    Pull,
    Pulled,
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
    """Those of them that are still wanted, so that a position is of use."""
    interest: InterestSet
    stranger: bool
    """Nothing is known of the peer's log, so that there is no way but to compare."""
    shared: int | None = None
    """The resume of the peer that is served by our comparison, too."""
    upto: int | None = None
    keys: KeySet | None = None
    asked: set[Range] = field(default_factory=set)
    summaries_open: int = 0
    differing: Differing = field(default_factory=lambda: Differing([], []))
    pulling: bool = False
    pulled_after: int | None = None
    """The last frame before the one message that says that everything was sent."""


MAX_LACKING = 50_000
"""Documents asked for and not here yet; whoever offers so much more than it sends is not well."""


class Following:
    """Takes in what one peer sends, and remembers how far in its log this node has got.

    Invariants:
      1. Nothing is acknowledged before it is durable.
      2. A position is saved only when nothing before it is outstanding: no frame that is not durable yet (or
         that could not be made so), nothing that was asked for.
    """

    def __init__(self) -> None:
        self._asked_for: dict[bytes, InterestEntry] = {}
        self._allowed: set[str] = set()  # collections that the peer was ever told of
        self._current: set[bytes] = set()
        self._catchups: dict[int, _Catchup] = {}
        self._next_resume = 1
        self._their_log = b""
        self._lacking: set[tuple[str, str]] = set()
        self._reading_positions = 0
        self._last_frame = 0
        self._applying: set[int] = set()
        # What frames say has been reached, while an earlier one is applied: frame -> (scan, position) ...
        self._marks: dict[int, tuple[int, int]] = {}
        # ... and then, while something is lacking: scan -> position.
        self._reached: dict[int, int] = {}

    @property
    def reading_positions(self) -> bool:
        """Whether more is about to be asked for."""
        return self._reading_positions > 0

    @property
    def caught_up(self) -> bool:
        """Whether everything that the peer held when we asked is here."""
        return not (self._catchups or self._lacking or self._applying or self._reading_positions)

    def told(self, entries: Iterable[InterestEntry]) -> None:
        """The peer hears that somebody wants ``entries``; if it routes them this way, it may send some
        before it hears better."""
        self._allowed.update(entry.collection for entry in entries)

    def wanting(self, interest: InterestSet) -> list[Effect]:
        """What this node wants from the peer is now ``interest``."""
        added = [entry for digest, entry in interest.entries.items() if digest not in self._asked_for]
        self._asked_for = dict(interest.entries)
        if added:
            self.told(added)
        self._current &= self._asked_for.keys()
        for catchup in self._catchups.values():
            catchup.entries = [e for e in catchup.entries if entry_digest(e) in self._asked_for]
        if not added:
            return []
        self._reading_positions += 1
        return [ReadPositions(added)]

    def evicted(self, collections: set[str]) -> None:
        """Documents of ``collections`` were dropped here: no position says any more that they are held."""

        def stands(entry: InterestEntry) -> bool:
            return entry != EVERYTHING and entry.collection not in collections

        self._current = {digest for digest in self._current if stands(self._asked_for[digest])}
        for catchup in self._catchups.values():
            catchup.entries = [entry for entry in catchup.entries if stands(entry)]

    def positions_read(self, standings: Sequence[Standing]) -> list[Effect]:
        """Result of :class:`ReadPositions`: the entries, grouped by where this node stands with them."""
        self._reading_positions -= 1
        effects: list[Effect] = []
        for standing in standings:
            # What has been withdrawn meanwhile must not be asked for any more.
            entries = [entry for entry in standing.entries if entry_digest(entry) in self._asked_for]
            stranger = not (standing.log_id or standing.empty)
            groups: dict[str, list[InterestEntry]] = {}
            for entry in entries:
                # Each collection is compared by itself: the peer may want the same of one, not of another.
                groups.setdefault(entry.collection if stranger else "", []).append(entry)
            for group in groups.values():
                number = self._next_resume
                self._next_resume += 1
                self._catchups[number] = _Catchup(group, InterestSet(group), stranger)
                effects.append(Send(Resume(number, standing.log_id, standing.after, standing.empty, group)))
        return effects

    def on_changes(self, frame: Changes) -> list[Effect]:
        """A batch of changes has arrived.

        Raises:
            ProtocolViolation: it holds documents that were not asked for.
        """
        if frame.number <= self._last_frame:
            raise ProtocolViolation(f"frame {frame.number} after frame {self._last_frame}")
        sent = {change.collection for change in frame.changes}
        sent |= {version.collection for version in (*frame.offers, *frame.notices)}
        if EVERYTHING.collection not in self._allowed and not sent <= self._allowed:
            raise ProtocolViolation(f"sent documents of {sorted(sent)}, not all of which were asked for")
        if len(self._lacking) > MAX_LACKING:
            raise ProtocolViolation(f"{len(self._lacking)} documents are asked for and do not come")
        self._last_frame = frame.number
        self._applying.add(frame.number)
        return [ApplyFrame(frame)]

    def applied(self, frame: Changes, wants: Sequence[Want]) -> list[Effect]:
        """Result of :class:`ApplyFrame`: the frame is durable, but for ``wants``."""
        for change in frame.changes:
            self._lacking.discard((change.collection, change.id))
        for key in frame.gone:
            self._lacking.discard(key)
        self._lacking.update((want.collection, want.id) for want in wants)
        self._applying.discard(frame.number)
        if frame.scan or frame.upto:
            self._marks[frame.number] = (frame.scan, frame.upto)
        effects: list[Effect] = [Send(Ack(frame.number, list(wants)))]
        return effects + self._save_positions()

    def share(self, number: int, interest: InterestSet) -> bool:
        """Whether we are yet to compare what the peer's resume ``number`` is about, so that it need not: its
        side is then told by :class:`Push`. Only whole collections: what has left a selector here has to be
        found by the one that holds it still."""
        for catchup in self._catchups.values():
            to_come = catchup.stranger and catchup.upto is None and catchup.shared is None
            same = interest.entries.keys() == catchup.interest.entries.keys()
            if to_come and same and not interest.selective:
                catchup.shared = number
                return True
        return False

    def on_resumed(self, message: Resumed) -> list[Effect]:
        """The peer says how it brings this node up to date."""
        catchup = self._catchup(message.number)
        if catchup.upto is not None:
            raise ProtocolViolation(f"catch-up {message.number} was answered before")
        if catchup.shared is not None and (message.shared or not message.reconcile):
            raise ProtocolViolation(f"a comparison for catch-up {message.number} was agreed on")
        self._their_log = message.log_id
        catchup.upto = message.upto
        if message.shared:
            catchup.pulling = True  # the peer pulls on our behalf
        elif message.reconcile:
            return [ReadKeys(message.number, True, catchup.interest)]
        return []

    def keys_read(self, number: int, keys: KeySet) -> list[Effect]:
        """Result of :class:`ReadKeys`."""
        catchup = self._catchups[number]
        catchup.keys = keys
        return self._summaries(number, catchup, keys, reconcile.first_ranges(keys))

    def on_differences(self, message: Differences) -> list[Effect]:
        """The peer has compared our digests with its own."""
        catchup = self._catchup(message.number)
        if catchup.keys is None or not catchup.summaries_open:
            raise ProtocolViolation("differences that no summary asked for")
        catchup.summaries_open -= 1
        listings = [Listing(*listing) for listing in message.listings]
        divide = [Range(*pair) for pair in message.divide]
        for within in (*divide, *(Range(listing.bits, listing.prefix) for listing in listings)):
            if within not in catchup.asked:
                raise ProtocolViolation("a difference in a range that was not asked about")
            catchup.asked.discard(within)
        if any(within.bits >= reconcile.MAX_BITS for within in divide):
            raise ProtocolViolation("a range that cannot be divided")
        found = reconcile.differing(catchup.keys, listings)
        catchup.differing.theirs.extend(found.theirs)
        catchup.differing.mine.extend(found.mine)
        effects = self._summaries(message.number, catchup, catchup.keys, divide)
        return effects if catchup.summaries_open else self._pull(message.number, catchup, catchup.keys)

    def _pull(self, number: int, catchup: _Catchup, keys: KeySet) -> list[Effect]:
        catchup.pulling = True
        theirs, mine = catchup.differing
        effects: list[Effect] = []
        if catchup.shared is not None:
            effects.append(Push(catchup.shared, [keys.position(index) for index in mine]))
        # What matches a selector here only, the peer may hold all the same.
        names = [keys.key(index) for index in mine] if catchup.interest.selective else []
        for start in range(0, max(len(theirs), len(names)) + 1, reconcile.MAX_PULLED):
            end = start + reconcile.MAX_PULLED
            effects.append(Send(Pull(number, theirs[start:end], names[start:end])))
        catchup.keys, catchup.differing = None, Differing([], [])
        return effects

    def on_pulled(self, message: Pulled) -> list[Effect]:
        """Everything that differed has been sent."""
        catchup = self._catchup(message.number)
        if not catchup.pulling:
            raise ProtocolViolation("pulled what was not asked for")
        catchup.pulled_after = self._last_frame
        return self._save_positions()

    def _summaries(self, number: int, catchup: _Catchup, keys: KeySet, ranges: list[Range]) -> list[Effect]:
        effects: list[Effect] = []
        for start in range(0, len(ranges), reconcile.MAX_SUMMARIES):
            some = ranges[start : start + reconcile.MAX_SUMMARIES]
            catchup.asked.update(child for parent in some for child in parent.children())
            effects.append(Send(Summaries(number, [reconcile.summary(keys, parent) for parent in some])))
        catchup.summaries_open += len(effects)
        return effects

    def _catchup(self, number: int) -> _Catchup:
        catchup = self._catchups.get(number)
        if catchup is None:
            raise ProtocolViolation(f"an answer to catch-up {number}, which was not asked for")
        return catchup

    def _save_positions(self) -> list[Effect]:
        """Save the positions that nothing outstanding stands before (invariant 2)."""
        oldest = min(self._applying, default=self._last_frame + 1)
        for frame in [frame for frame in self._marks if frame < oldest]:
            scan, upto = self._marks.pop(frame)
            self._reached[scan] = max(upto, self._reached.get(scan, 0))
        if self._lacking:
            return []
        effects: list[Effect] = []
        for number, catchup in list(self._catchups.items()):
            pulled = catchup.pulled_after is not None and catchup.pulled_after < oldest
            reached = catchup.upto if pulled else self._reached.get(number)
            if reached is None or catchup.upto is None:
                continue
            upto = reached
            digests = [entry_digest(entry) for entry in catchup.entries]
            self._save(effects, digests, upto)
            if upto >= catchup.upto:
                del self._catchups[number]
                self._current.update(digest for digest in digests if digest in self._asked_for)
        if 0 in self._reached:
            self._save(effects, sorted(self._current), self._reached[0])
        self._reached.clear()
        return effects

    def _save(self, effects: list[Effect], entries: list[bytes], upto: int) -> None:
        if entries:
            effects.append(SavePosition(self._their_log, entries, upto))
