"""The following side of a sync session: gets from one peer what this node wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mesh.core import reconcile
from mesh.core.access import Access, permits
from mesh.core.interest import EVERYTHING, InterestSet, entry_digest
from mesh.core.reconcile import Differing, KeySet, Listing, Range
from mesh.core.sync_arrivals import blank, check_grave, permitted, unsaid, without
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
    comparing: bool = False
    """Our digests are on their way, or need not wait for the answer: it is known."""
    upto: int | None = None
    keys: KeySet | None = None
    asked: set[Range] = field(default_factory=set)
    summaries_open: int = 0
    differing: Differing = field(default_factory=lambda: Differing([], []))
    pulling: bool = False
    pulled_after: int | None = None
    """The last frame of those that bring what was pulled."""


MAX_LACKING = 50_000
"""Documents asked for and not here yet; whoever offers so much more than it sends is not well."""

MAX_APART = 64
"""Collections that are compared each by itself, at the cost of some messages each; of more, all at once."""

MAX_TOLD = 1024
"""Collections that may still come because the peer was told of them last, beside those it is asked for."""

MAX_REFUSED = 1000
"""Documents that a peer may send of collections that it may not write, before the link is closed."""

MAX_AHEAD = 4096
"""Frames that may arrive before an earlier one that gives way to them."""


class Following:
    """Takes in what one peer sends, and remembers how far in its log this node has got.

    Invariants:
      1. Nothing is acknowledged before it is durable.
      2. A position is saved only when nothing before it is outstanding: no frame that is not durable yet (or
         that could not be made so, or has not arrived), nothing that was asked for.
      3. What a frame brings of a document is as new as what an earlier frame, by number, said of it.
      4. Nothing is taken that the peer may not write; of what it may not read, nothing is said.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._refused = 0
        self._asked_for: dict[bytes, InterestEntry] = {}
        self._wanted = InterestSet()
        self._told: dict[str, None] = {}  # collections that the peer was told of, the latest last
        self._current: set[bytes] = set()
        self._evicted: set[bytes] = set()  # not held any more, though asked for
        self._catchups: dict[int, _Catchup] = {}
        self._next_resume = 1
        self._their_log = b""
        self._lacking: dict[tuple[str, str], int] = {}  # document -> the last frame that told of it
        self._reading_positions = 0
        self._outdated: set[str] = set()  # collections of which something was evicted since
        self._durable = 0  # all frames up to this one are ...
        self._ahead: set[int] = set()  # ... and so are these
        self._applying: set[int] = set()
        # What frames say has been reached, while an earlier one is applied: frame -> (scan, position) ...
        self._marks: dict[int, tuple[int, int]] = {}
        # ... and then, while something is lacking: scan -> position.
        self._reached: dict[int, int] = {}
        self._live = 0
        """Up to here in the peer's log everything is held that is wanted and current."""

    @property
    def reading_positions(self) -> bool:
        """Whether more is about to be asked for."""
        return self._reading_positions > 0

    @property
    def caught_up(self) -> bool:
        """Whether everything that the peer held when we asked is here."""
        waiting = self._catchups or self._lacking or self._applying or self._ahead
        return not (waiting or self._reading_positions)

    def told(self, entries: Iterable[InterestEntry]) -> None:
        """The peer hears that somebody wants ``entries``; if it routes them this way, it may send some
        before it hears better."""
        for entry in entries:
            self._told.pop(entry.collection, None)
            self._told[entry.collection] = None
        while len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]

    def wanting(self, interest: InterestSet) -> list[Effect]:
        """What this node wants from the peer is now ``interest``."""
        interest = interest.narrowed(self._access.takes)
        added = interest.entries.keys() - self._asked_for.keys()
        self.told(entry for digest, entry in self._asked_for.items() if digest not in interest.entries)
        self._asked_for = dict(interest.entries)
        self._wanted = interest
        self._current.intersection_update(self._asked_for)
        self._evicted.intersection_update(self._asked_for)
        for catchup in self._catchups.values():
            catchup.entries = [e for e in catchup.entries if entry_digest(e) in self._asked_for]
        return self._read([digest for digest in interest.entries if digest in added])

    def evicted(self, collections: set[str]) -> None:
        """Documents of ``collections`` were dropped here: no position says any more that they are held. They
        are not asked for before :meth:`ask_again`."""
        self._evicted |= self._asked_of(collections)
        self._current -= self._evicted
        for catchup in self._catchups.values():
            catchup.entries = [e for e in catchup.entries if entry_digest(e) not in self._evicted]
        if self._reading_positions:
            self._outdated |= collections

    def ask_again(self, collections: set[str]) -> list[Effect]:
        """Somebody wants what was evicted of ``collections``."""
        again = sorted(self._evicted & self._asked_of(collections))
        self._evicted.difference_update(again)
        return self._read(again)

    def _asked_of(self, collections: set[str]) -> set[bytes]:
        touched = {EVERYTHING.collection, *collections}
        return {digest for digest, entry in self._asked_for.items() if entry.collection in touched}

    def _read(self, entries: list[bytes]) -> list[Effect]:
        if not entries:
            return []
        self._reading_positions += 1
        return [ReadPositions([self._asked_for[digest] for digest in entries])]

    def positions_read(self, standings: Sequence[Standing]) -> list[Effect]:
        """Result of :class:`ReadPositions`: the entries, grouped by where this node stands with them."""
        self._reading_positions -= 1
        if self._outdated:
            standings = [part for standing in standings for part in without(standing, self._outdated)]
        if not self._reading_positions:
            self._outdated.clear()
        if self._access.compares != self._access.takes:
            standings = [part for standing in standings for part in unsaid(standing, self._access)]
        effects: list[Effect] = []
        for standing in standings:
            # What has been withdrawn meanwhile must not be asked for any more.
            wanted = self._asked_for.keys() - self._evicted
            entries = [entry for entry in standing.entries if entry_digest(entry) in wanted]
            stranger = not (standing.log_id or standing.empty)
            groups: dict[str, list[InterestEntry]] = {}
            for entry in entries:
                # Each collection is compared by itself: the peer may want the same of one, not of another.
                groups.setdefault(entry.collection if stranger else "", []).append(entry)
            if len(groups) > MAX_APART:
                groups = {"": entries}
            for group in groups.values():
                number = self._next_resume
                self._next_resume += 1
                interest = InterestSet(group, self._access.compares)
                catchup = self._catchups[number] = _Catchup(group, interest, stranger)
                effects.append(Send(Resume(number, standing.log_id, standing.after, standing.empty, group)))
                if stranger and interest.selective:  # such a comparison is never shared
                    effects.append(self._compare(number, catchup))
        return effects

    def on_changes(self, frame: Changes) -> list[Effect]:
        """A batch of changes has arrived.

        Raises:
            ProtocolViolation: it holds documents that were not asked for, or comes twice.
        """
        known = frame.number in self._applying or frame.number in self._ahead
        if known or not self._durable < frame.number <= self._durable + MAX_AHEAD:
            raise ProtocolViolation(f"frame {frame.number}, where those up to {self._durable} were complete")
        effects: list[Effect] = []
        if self._access.takes:
            frame, refused = permitted(frame, self._access.takes)
            if refused is not None:
                self._refused += refused.documents
                if self._refused > MAX_REFUSED:
                    raise ProtocolViolation(f"sent {self._refused} documents that it may not write")
                effects.append(refused)
        sent = {change.collection for change in frame.changes}
        sent |= {version.collection for version in (*frame.offers, *frame.notices)}
        sent |= {grave.collection for grave in frame.graves}
        for grave in frame.graves:
            check_grave(grave)
        everything = EVERYTHING.collection in self._told
        if not everything and any(name not in self._wanted and name not in self._told for name in sent):
            raise ProtocolViolation(f"sent documents of {sorted(sent)}, not all of which were asked for")
        if len(self._lacking) > MAX_LACKING:
            raise ProtocolViolation(f"{len(self._lacking)} documents are asked for and do not come")
        self._applying.add(frame.number)
        return [*effects, ApplyFrame(frame)]

    def applied(self, frame: Changes, wants: Sequence[Want]) -> list[Effect]:
        """Result of :class:`ApplyFrame`: the frame is durable, but for ``wants``."""
        if self._lacking:
            for key in (*((change.collection, change.id) for change in frame.changes), *frame.gone):
                if self._lacking.get(key, frame.number) < frame.number:
                    del self._lacking[key]
        for want in wants:
            key = (want.collection, want.id)
            self._lacking[key] = max(frame.number, self._lacking.get(key, 0))
        if self._access.compares != self._access.takes:
            wants = [
                want if permits(self._access.compares, want.collection) else blank(want) for want in wants
            ]
        self._applying.discard(frame.number)
        self._ahead.add(frame.number)
        while self._durable + 1 in self._ahead:
            self._durable += 1
            self._ahead.remove(self._durable)
        if frame.scan or frame.upto:
            self._marks[frame.number] = (frame.scan, frame.upto)
        effects: list[Effect] = [Send(Ack(frame.number, list(wants)))]
        return effects + self._save_positions()

    def share(self, number: int, interest: InterestSet) -> list[Effect]:
        """Compare what the peer's resume ``number`` is about, if we were to compare it anyway, so that the
        peer need not: its side is then told by :class:`Push`. Only whole collections: what has left a
        selector here has to be found by the one that holds it still.

        The keys are read from now on, so that they include everything that the peer is told has happened.
        """
        for own, catchup in self._catchups.items():
            to_come = catchup.stranger and catchup.upto is None and catchup.shared is None
            same = (interest.entries.keys(), interest.only) == (
                catchup.interest.entries.keys(),
                catchup.interest.only,
            )
            if to_come and same and not interest.selective:
                catchup.shared = number
                return [self._compare(own, catchup)]
        return []

    def _compare(self, number: int, catchup: _Catchup) -> Effect:
        catchup.comparing = True
        return ReadKeys(number, True, catchup.interest)

    def on_resumed(self, message: Resumed) -> list[Effect]:
        """The peer says how it brings this node up to date."""
        catchup = self._catchup(message.number)
        if catchup.upto is not None:
            raise ProtocolViolation(f"catch-up {message.number} was answered before")
        if catchup.comparing and (message.shared or not message.reconcile):
            raise ProtocolViolation(f"catch-up {message.number} was to be compared")
        self._their_log = message.log_id
        catchup.upto = message.upto
        if message.shared:
            catchup.pulling = True  # the peer pulls on our behalf
        elif message.reconcile and not catchup.comparing:
            return [self._compare(message.number, catchup)]
        return self._save_positions()

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
        catchup.pulled_after = message.frame
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
        for frame in [frame for frame in self._marks if frame <= self._durable]:
            scan, upto = self._marks.pop(frame)
            self._reached[scan] = max(upto, self._reached.get(scan, 0))
        if self._lacking:
            return []
        effects: list[Effect] = []
        if 0 in self._reached:
            self._live = self._reached[0]
            self._save(effects, sorted(self._current), self._live)
        for number, catchup in list(self._catchups.items()):
            pulled = catchup.pulled_after is not None and catchup.pulled_after <= self._durable
            reached = catchup.upto if pulled else self._reached.get(number)
            if reached is None or catchup.upto is None:
                continue
            digests = [entry_digest(entry) for entry in catchup.entries]
            if reached >= catchup.upto:
                del self._catchups[number]
                self._current.update(digest for digest in digests if digest in self._asked_for)
                reached = max(reached, self._live)  # what has happened meanwhile has come as well
            self._save(effects, digests, reached)
        # A large frame may overtake the message that says up to where its scan goes.
        early = {number for number, catchup in self._catchups.items() if catchup.upto is None}
        self._reached = {scan: upto for scan, upto in self._reached.items() if scan in early}
        return effects

    def _save(self, effects: list[Effect], entries: list[bytes], upto: int) -> None:
        if entries:
            effects.append(SavePosition(self._their_log, entries, upto))
