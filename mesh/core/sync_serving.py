"""The serving side of a sync session: keeps one peer up to date with what it wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from mesh.core import sync_window
from mesh.core.access import Access, permits
from mesh.core.commits import PAGE_BYTES, Commit, Found, LogEntry
from mesh.core.document import MAX_STATE_BYTES
from mesh.core.interest import MAX_INTEREST_BYTES, MAX_INTEREST_ENTRIES, InterestSet
from mesh.core.numbering import ONE_RUN, Numbering
from mesh.core.reconcile import KeySet
from mesh.core.sync_comparing import Comparisons
from mesh.core.sync_effects import Effect, ReadLog, ReadWanted, Renew, Send
from mesh.core.sync_window import Batch, Window
from mesh.core.wire import (
    Ack,
    Barrier,
    BarrierReached,
    Grave,
    Pull,
    Pulled,
    Resume,
    Resumed,
    Summaries,
    Version,
    Want,
)
from mesh.errors import InvalidSelector, ProtocolViolation

PAGE_FRAMES = 6
"""Frames that one read of the store fills at most."""

MAX_CATCHUPS = 4096
"""Catch-ups, and barriers, that a peer may have open at once."""

SILENT_LAG = 256
"""Log positions that may pass without news for the peer before it is told that it is up to date."""


@dataclass(slots=True, eq=False)
class _Scan:
    """A walk over our own log on behalf of the peer."""

    number: int
    cursor: int
    end: int
    interest: InterestSet
    back: bool = False
    """Whether the peer is sent what it has sent itself."""


@dataclass(slots=True)
class _Barrier:
    """``position`` is where our log ended when it was asked for; ``frame`` the last one sent by the time that
    everything up to there had been, once that is so."""

    number: int
    position: int
    frame: int | None = None


@dataclass(slots=True)
class _Pull:
    """Positions that the peer pulls; ``last``: they end the reconciliation."""

    number: int
    positions: list[int]
    last: bool


class Serving:
    """Sends one peer what it wants of our log, at the peer's pace.

    Invariants:
      1. Nothing is sent that the peer did not ask for, nor back to where it came from and still is.
      2. A position is told only after everything before it that the peer wants has been sent.
      3. Unacknowledged frames stay within the window; a slow peer only falls behind in the log.
      4. A barrier is answered only when everything before it is acknowledged.
      5. What is sent of a document makes the peer hold it as it is held here, or ask for what is missing.
      6. Nothing is sent, compared, or answered of what the peer may not read, whatever it asks for.
      7. What is sent of a document while a frame with it gives way to others goes after that frame.
    """

    def __init__(
        self,
        peer: str,
        log_id: bytes,
        head: int,
        share: Callable[[int, InterestSet], list[Effect]] | None = None,
        numbering: Numbering = ONE_RUN,
        logs: Container[bytes] | None = None,
        may_renew: Callable[[], bool] = lambda: True,
        *,
        access: Access,
    ) -> None:
        """
        Args:
            peer: the peer's node_id.
            log_id: names our log; new when the store is.
            head: the last position of our log.
            share: see :meth:`~mesh.core.sync_following.Following.share`; one end of a link has it.
            numbering: which positions of our log there are.
            logs: all logs that we have ever had; ``None``: they are not known.
            may_renew: whether it may be that our log has had another life.
            access: what the peer may be told of.
        """
        self._peer = peer
        self._log_id = log_id
        self._head = head
        self._share = share
        self._numbering = numbering
        self._logs = logs
        self._may_renew = may_renew
        self._only = access.sends
        self._wanted = InterestSet()
        self._live: _Scan | None = None
        self._scans: deque[_Scan] = deque()
        self._reading: tuple[_Scan, InterestSet] | ReadWanted | None = None
        self._owed_wants: deque[Want] = deque()
        self._owed_pulls: deque[_Pull] = deque()
        self._comparisons = Comparisons()
        self._window = Window(head)
        self._barriers: list[_Barrier] = []
        self._resumed: set[bytes] = set()  # entries that are wanted, and were asked to be caught up with
        self._followed: set[bytes] = set()  # those of them with which the peer has caught up
        self.confirmed = 0
        """A position of our log up to which the peer holds all of :attr:`followed`."""

    @property
    def idle(self) -> bool:
        """Whether the peer has acknowledged everything that it wants and we hold."""
        return self._sent_up_to(self._head) and self._window.empty

    @property
    def followed(self) -> InterestSet:
        """What the peer wants, but for what it has not yet caught up with."""
        entries = [entry for digest, entry in self._wanted.entries.items() if digest in self._followed]
        return InterestSet(entries, self._only)

    def wanted(self, interest: InterestSet) -> list[Effect]:
        """What the peer wants is now ``interest``."""
        interest = interest.narrowed(self._only)
        if interest.entries.keys() != self._wanted.entries.keys():
            self._wanted = interest
            self._resumed &= interest.entries.keys()
            self._followed &= interest.entries.keys()
            if self._live is not None:
                self._live.interest = interest
        return []

    def committed(self, commits: Sequence[Commit]) -> list[Effect]:
        """The local store has committed these changes."""
        live = self._live
        # A position without a commit is that of a grave.
        complete = commits[-1].seq - self._head == len(commits)
        current = live is not None and not self._reading and live.cursor == self._head and complete
        self._head = commits[-1].seq
        if live is None or not current:
            return self._evaluate()
        matching = [commit for commit in commits if self._matches(commit)]
        wanted = [commit.change for commit in matching if commit.source != self._peer]
        *full, last = self._window.batches(wanted) or [Batch()]
        if not (
            all(commit.whole or self._was_sent(commit) for commit in matching)
            and self._window.has_room(len(full) + 1, last.size + sum(batch.size for batch in full))
        ):
            return self._evaluate()  # the documents are read from the log, whole, when there is room
        live.cursor = self._head
        effects = [self._window.frame(0, 0, batch) for batch in full]
        if wanted or self._head - self._window.told >= SILENT_LAG:
            effects.append(self._window.frame(0, self._head, last))  # the last one tells the position
        return effects + self._evaluate()

    def knows(self, message: Resume) -> bool:
        """Whether the peer is no stranger: it holds nothing, or what it holds is from our log."""
        return message.empty or message.log_id == self._log_id

    def on_resume(self, message: Resume) -> list[Effect]:
        """The peer says where it stands, and wants the rest, even if its way leads elsewhere by now.

        It need not have announced that interest: nobody keeps it from announcing any.
        """
        open_ones = {*self._comparisons, *(scan.number for scan in self._scans)}
        if message.number < 1 or message.number in open_ones or len(open_ones) >= MAX_CATCHUPS:
            raise ProtocolViolation(f"a catch-up {message.number} too many")
        ours = message.log_id == self._log_id and self._numbering.issued(message.after, self._head)
        if self._may_renew():
            if message.log_id == self._log_id and not ours:
                return [Renew(message.after)]
            if message.log_id and self._logs is not None and message.log_id not in self._logs:
                return [Renew(log_id=message.log_id)]
        if self._live is None:
            self._live = _Scan(0, self._head, 0, self._wanted)
            self._window.told = self._head
        upto = self._live.cursor
        if len(message.entries) > MAX_INTEREST_ENTRIES:
            raise ProtocolViolation(f"asked to resume more than {MAX_INTEREST_ENTRIES} entries")
        try:
            interest = InterestSet(message.entries, self._only)
        except InvalidSelector as error:
            raise ProtocolViolation(f"asked to resume what cannot be: {error}") from error
        open_bytes = self._comparisons.size_bytes + sum(scan.interest.size_bytes for scan in self._scans)
        if open_bytes + interest.size_bytes > MAX_INTEREST_BYTES:
            raise ProtocolViolation(f"asked to resume what takes more than {MAX_INTEREST_BYTES} bytes")
        self._resumed |= interest.entries.keys() & self._wanted.entries.keys()
        self._followed -= interest.entries.keys()  # it may have evicted that
        known = ours and 0 < message.after <= upto
        if known or message.empty:
            after = message.after if known else 0
            self._scans.append(_Scan(message.number, after, upto, interest, back=not known))
            return [Send(Resumed(message.number, self._log_id, upto, False)), *self._evaluate()]
        shared = [] if self._share is None else self._share(message.number, interest)
        effects: list[Effect] = [Send(Resumed(message.number, self._log_id, upto, True, bool(shared)))]
        effects += shared
        effects += self._comparisons.begin(message.number, interest, shared=bool(shared))
        return effects + self._evaluate()

    def on_ack(self, message: Ack) -> list[Effect]:
        """The peer holds a frame, but for what it now asks for."""
        self._window.acknowledge(message)
        if message.wants:
            if self._only and not all(permits(self._only, want.collection) for want in message.wants):
                raise ProtocolViolation("asked for documents that it may not read")
            self._owed_wants.extend(message.wants)
            for barrier in self._barriers:
                barrier.frame = None
        return self._evaluate()

    def on_summaries(self, message: Summaries) -> list[Effect]:
        """The peer's digests, to be compared with ours."""
        return self._comparisons.on_summaries(message)

    def log_read(self, entries: Sequence[LogEntry], upto: int, graves: Sequence[Grave] = ()) -> list[Effect]:
        """Result of :class:`ReadLog`: the entries found, how far the log has been read for them, and the
        graves up to there."""
        reading, self._reading = self._reading, None
        assert isinstance(reading, tuple)
        scan, interest = reading
        if scan.interest is not interest:  # more is wanted by now, and was passed over: read this again
            return self._evaluate()
        matching: list[LogEntry] = []
        notices: list[Version] = []
        for entry in entries:
            version = entry.version
            if scan.interest.matches(version.collection, entry.document):
                matching.append(entry)
            elif scan.interest.partial(version.collection) and version.collection != "receipts":
                notices.append(version)  # (what a receipt is selected by never changes)
        effects = self._notices(notices)
        batch = Batch()
        offers: list[Version] = []
        for entry in matching:
            if entry.change is None:
                offers.append(entry.version)
                continue
            batch.add(entry.change)
            if batch.size >= sync_window.FRAME_BYTES:
                effects.append(self._window.frame(scan.number, entry.seq, batch, offers, (), (), graves))
                batch, offers, graves = Batch(), [], ()
        scan.cursor = upto
        if batch.changes or offers or notices or graves or scan is not self._live:
            effects.append(self._window.frame(scan.number, upto, batch, offers, (), (), graves))
        if scan is not self._live and upto >= scan.end:
            self._scans.remove(scan)
        return effects + self._evaluate()

    def _notices(self, notices: Sequence[Version]) -> list[Effect]:
        """Those of documents that give way go after them. The others must not be overtaken by what does not
        concern them: who does not hold such a document yet does not heed its notice."""
        late = [version for version in notices if self._window.gives_way(version)]
        at_once = [version for version in notices if not self._window.gives_way(version)]
        return [self._window.frame(0, 0, Batch(), (), some) for some in (at_once, late) if some]

    def wanted_read(self, found: Found) -> list[Effect]:
        """Result of :class:`ReadWanted`."""
        reading, self._reading = self._reading, None
        assert isinstance(reading, ReadWanted)
        batches = self._window.batches(found.changes)
        for batch in batches:
            batch.bulk = batch.bulk or batch.size > sync_window.BULK_BYTES
        effects: list[Effect] = [self._window.frame(0, 0, batch) for batch in batches]
        if found.offers or found.gone or found.graves:
            effects.append(self._window.frame(0, 0, Batch(), found.offers, (), found.gone, found.graves))
        self._owed_wants.extendleft(reversed(reading.wants[found.done :]))
        if reading.pull is not None:
            rest = reading.positions[max(0, found.done - len(reading.wants)) :]
            if rest:
                self._owed_pulls[0].positions[:0] = rest
            effects += self._pulled()
        return effects + self._evaluate()

    def _pulled(self) -> list[Effect]:
        """Say so if the first pull is done."""
        pull = self._owed_pulls[0]
        if pull.positions:
            return []
        self._owed_pulls.popleft()
        if not pull.last:
            return []
        return [Send(Pulled(pull.number, self._window.last)), *self._comparisons.end(pull.number)]

    def keys_read(self, number: int, keys: KeySet) -> list[Effect]:
        """Result of :class:`~mesh.core.sync_effects.ReadKeys`."""
        return self._comparisons.keys_read(number, keys)

    def on_pull(self, message: Pull) -> list[Effect]:
        """The peer has compared, and pulls what differs."""
        positions, last = self._comparisons.on_pull(message)
        if positions or last:
            self._owed_pulls.append(_Pull(message.number, positions, last))
        return self._evaluate()

    def compared(self, number: int, positions: list[int]) -> list[Effect]:
        """Result of :class:`Push`."""
        self._owed_pulls.append(_Pull(number, sorted(positions), True))
        return self._evaluate()

    def on_barrier(self, message: Barrier) -> list[Effect]:
        """The peer wants to know when it has everything that is here now."""
        if len(self._barriers) >= MAX_CATCHUPS:
            raise ProtocolViolation("too many barriers")
        self._barriers.append(_Barrier(message.number, self._head))
        return self._evaluate()

    def _matches(self, commit: Commit) -> bool:
        collection = commit.change.collection
        if commit.evicted or collection not in self._wanted:
            return False
        if self._wanted.matches(collection, commit.after):
            return True
        if commit.source == self._peer and not commit.whole:
            return True  # the peer holds the document, and has to know what became of it here
        return commit.before is not None and self._wanted.matches(collection, commit.before)

    def _was_sent(self, commit: Commit) -> bool:
        """Whether the peer has been sent the document as it was before a commit. It may not have been while
        it is catching up (the place where the document stood in the log has just been left), nor if it
        did not want it as it was."""
        if self._scans or self._comparisons:
            return False
        if commit.before is None:  # of a tombstone that it was sent, the peer may have a grave only
            return commit.source != self._peer
        return self._wanted.matches(commit.change.collection, commit.before)

    def _current_scan(self) -> _Scan | None:
        """What to read next: what happens now comes before what happened long ago."""
        if self._live is not None and self._live.cursor < self._head:
            return self._live
        return self._scans[0] if self._scans else None

    def _evaluate(self) -> list[Effect]:
        """The one step after every event: send what may be sent, read what must be read."""
        effects: list[Effect] = []
        while self._owed_pulls and not self._owed_pulls[0].positions and not self._reading:
            effects += self._pulled()
        if self._reading is None and self._window.has_room(PAGE_FRAMES, PAGE_BYTES + MAX_STATE_BYTES):
            if self._owed_wants or self._owed_pulls:
                self._reading = self._owed()
                effects.append(self._reading)
            elif (scan := self._current_scan()) is not None:
                self._reading = (scan, scan.interest)
                end = self._head if scan is self._live else scan.end
                effects.append(ReadLog(scan.cursor, end, sync_window.PAGE, scan.interest, scan.back))
        if self.idle:
            self.confirmed = self._head
            if len(self._followed) < len(self._resumed):
                self._followed = set(self._resumed)
        return effects + self._answer_barriers()

    def _answer_barriers(self) -> list[Effect]:
        effects: list[Effect] = []
        for barrier in list(self._barriers):  # the first that is not reached stands before the others
            if self._scans or self._comparisons:
                barrier.position = self._head  # what the peer catches up with moves up there when it changes
            if barrier.frame is None and self._sent_up_to(barrier.position):
                barrier.frame = self._window.last
            if barrier.frame is None or self._window.acknowledged < barrier.frame:
                break
            self._barriers.remove(barrier)
            live, window = self._live, self._window
            if live is not None and window.told < live.cursor and window.has_room(1, 0):
                effects.append(window.frame(0, live.cursor, Batch()))
            effects.append(Send(BarrierReached(barrier.number)))
        return effects

    def _owed(self) -> ReadWanted:
        if self._owed_wants:
            wants = [self._owed_wants.popleft() for _ in range(min(sync_window.PAGE, len(self._owed_wants)))]
            return ReadWanted(wants, [])
        pull = self._owed_pulls[0]
        positions, pull.positions = pull.positions[: sync_window.PAGE], pull.positions[sync_window.PAGE :]
        return ReadWanted([], positions, pull=pull.number)

    def _sent_up_to(self, position: int) -> bool:
        """Whether everything that the peer wants, up to a position of our log, has been sent."""
        return (
            self._live is not None
            and self._live.cursor >= position
            and self._reading is None
            and not self._scans
            and not (self._owed_wants or self._owed_pulls or self._comparisons)
        )
