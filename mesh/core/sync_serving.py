"""The serving side of a sync session: keeps one peer up to date with what it wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.core import reconcile
from mesh.core.commits import Commit, LogEntry
from mesh.core.document import NEVER
from mesh.core.interest import InterestSet
from mesh.core.reconcile import KeySet, Range
from mesh.core.sync_effects import Effect, ReadKeys, ReadLog, ReadWanted, Send
from mesh.core.wire import (
    Ack,
    Barrier,
    BarrierReached,
    Change,
    Changes,
    Differences,
    Pulled,
    PullKeys,
    Resume,
    Resumed,
    Summaries,
    Version,
    Want,
)
from mesh.errors import ProtocolViolation

PAGE = 500
"""Documents per frame and per page read from the log (PEERS.md: frames of about 500)."""

FRAME_BYTES = 192 * 1024
"""A frame is closed once its changes have this many bytes."""

WINDOW_FRAMES = 16
WINDOW_BYTES = 4 * 1024 * 1024
"""Unacknowledged frames and bytes after which nothing more is sent: what a slow peer costs at most."""

SILENT_LAG = 256
"""Log positions that may pass without news for the peer before it is told that it is up to date."""


@dataclass(slots=True)
class _Scan:
    """A walk over our own log on behalf of the peer."""

    number: int
    cursor: int
    end: int
    interest: InterestSet


class Serving:
    """Sends one peer what it wants of our log, at the peer's pace.

    Invariants:
      1. Nothing is sent that the peer did not ask for, nor back to where it came from.
      2. A position is told only after everything before it that the peer wants has been sent.
      3. Unacknowledged frames stay within the window; a slow peer only falls behind in the log.
      4. A barrier is answered only when everything before it is acknowledged.
    """

    def __init__(self, peer: str, log_id: bytes, head: int) -> None:
        """
        Args:
            peer: the peer's node_id.
            log_id: names our log; new when the store is.
            head: the last position of our log.
        """
        self._peer = peer
        self._log_id = log_id
        self._head = head
        self._wanted = InterestSet()
        self._live: _Scan | None = None
        self._scans: deque[_Scan] = deque()
        self._told = head
        self._reading: tuple[_Scan, InterestSet] | ReadWanted | None = None
        self._owed_wants: deque[Want] = deque()
        self._owed_pulls: deque[tuple[int, list[int]]] = deque()
        self._reconciling: dict[int, InterestSet] = {}
        self._keys: dict[int, KeySet] = {}
        self._waiting_summaries: dict[int, list[Summaries]] = {}
        self._next_frame = 1
        self._in_flight: dict[int, int] = {}
        self._barriers: list[tuple[int, int]] = []

    @property
    def idle(self) -> bool:
        """Whether the peer has acknowledged everything that it wants and we hold."""
        return self._drained_to(self._head)

    def wanted(self, interest: InterestSet) -> list[Effect]:
        """What the peer wants is now ``interest``."""
        self._wanted = interest
        if self._live is not None:
            self._live.interest = interest
        return []

    def committed(self, commits: Sequence[Commit]) -> list[Effect]:
        """The local store has committed these changes."""
        live = self._live
        current = live is not None and not self._reading and live.cursor == self._head and self._room()
        self._head = commits[-1].seq
        if live is None or not current:
            return self._evaluate()
        wanted: list[Change] = []
        for commit in commits:
            if not self._matches(commit):
                continue
            change = commit.change
            if not commit.whole and (self._scans or self._reconciling):
                # The peer may still lack what this was merged with, and the place where that stood in the log
                # has just been left: it gets the document as it is now.
                self._owed_wants.append(Want(change.collection, change.id, NEVER, {}, b"\0"))
            elif commit.source != self._peer:
                wanted.append(change)
        live.cursor = self._head
        effects: list[Effect] = []
        if wanted or self._head - self._told >= SILENT_LAG:
            *full, last = _batches(wanted) or [[]]
            effects += [self._frame(0, 0, batch) for batch in full]
            effects.append(self._frame(0, self._head, last))  # the position is told with the last frame
        return effects + self._evaluate()

    def on_resume(self, message: Resume) -> list[Effect]:
        """The peer says where it stands, and wants the rest."""
        # What a peer asks for, it also has to have announced as interest.
        if not all(map(self._wanted.covers, message.entries)):
            raise ProtocolViolation("asked to resume what no interest was announced for")
        if self._live is None:
            self._live = _Scan(0, self._head, 0, self._wanted)
            self._told = self._head
        upto = self._live.cursor
        interest = InterestSet(message.entries)
        known = message.log_id == self._log_id and 0 < message.after <= upto
        if known or message.empty:
            self._scans.append(_Scan(message.number, message.after if known else 0, upto, interest))
        else:
            self._reconciling[message.number] = interest
        answer = Resumed(message.number, self._log_id, upto, not (known or message.empty))
        return [Send(answer), *self._evaluate()]

    def on_ack(self, message: Ack) -> list[Effect]:
        """The peer holds a frame, but for what it now asks for."""
        if self._in_flight.pop(message.number, None) is None:
            raise ProtocolViolation(f"an acknowledgement of frame {message.number}, which is not in flight")
        self._owed_wants.extend(message.wants)
        return self._evaluate()

    def on_summaries(self, message: Summaries) -> list[Effect]:
        """The peer's digests, to be compared with ours."""
        interest = self._interest_of(message.number)
        keys = self._keys.get(message.number)
        if keys is None:
            waiting = self._waiting_summaries.setdefault(message.number, [])
            waiting.append(message)
            return [ReadKeys(message.number, False, interest)] if len(waiting) == 1 else []
        theirs = [(Range(depth, prefix), digest) for depth, prefix, digest in message.summaries]
        if any(not 0 < r.depth <= reconcile.MAX_DEPTH for r, _ in theirs):
            raise ProtocolViolation("a summary of no range")
        divide, listings = reconcile.answer(keys, theirs)
        return [
            Send(
                Differences(
                    message.number,
                    [(r.depth, r.prefix) for r in divide],
                    [(r.depth, r.prefix, pairs) for r, pairs in listings],
                )
            )
        ]

    def log_read(self, entries: Sequence[LogEntry], upto: int) -> list[Effect]:
        """Result of :class:`ReadLog`: the entries found, and how far the log has been read for them."""
        reading, self._reading = self._reading, None
        assert isinstance(reading, tuple)
        scan, interest = reading
        if scan.interest is not interest:  # more is wanted by now, and was passed over: read this again
            return self._evaluate()
        effects: list[Effect] = []
        changes: list[Change] = []
        offers: list[Version] = []
        notices: list[Version] = []
        size = 0
        for entry in entries:
            version = entry.version
            if entry.source == self._peer:
                continue
            if scan.interest.matches(version.collection, entry.document):
                if entry.change is None:
                    offers.append(version)
                    continue
                changes.append(entry.change)
                size += len(entry.change.update)
                if size >= FRAME_BYTES:
                    effects.append(self._frame(scan.number, entry.seq, changes, offers, notices))
                    changes, offers, notices, size = [], [], [], 0
            elif scan.interest.partial(version.collection) and version.collection != "receipts":
                notices.append(version)  # (what a receipt is selected by never changes)
        scan.cursor = upto
        if changes or offers or notices or scan is not self._live:
            effects.append(self._frame(scan.number, upto, changes, offers, notices))
        if scan is not self._live and upto >= scan.end:
            self._scans.remove(scan)
        return effects + self._evaluate()

    def wanted_read(self, changes: Sequence[Change], gone: Sequence[tuple[str, str]]) -> list[Effect]:
        """Result of :class:`ReadWanted`."""
        reading, self._reading = self._reading, None
        assert isinstance(reading, ReadWanted)
        effects: list[Effect] = [self._frame(0, 0, batch) for batch in _batches(changes)]
        if gone:
            effects.append(self._frame(0, 0, [], gone=list(gone)))
        if reading.completes is not None:
            del self._reconciling[reading.completes]
            self._keys.pop(reading.completes, None)
            effects.append(Send(Pulled(reading.completes)))
        return effects + self._evaluate()

    def keys_read(self, number: int, keys: KeySet) -> list[Effect]:
        """Result of :class:`ReadKeys`."""
        self._keys[number] = keys
        effects: list[Effect] = []
        for waiting in self._waiting_summaries.pop(number, []):
            effects += self.on_summaries(waiting)
        return effects

    def on_pull(self, message: PullKeys) -> list[Effect]:
        """The peer has compared, and pulls what differs."""
        self._interest_of(message.number)
        keys = self._keys.get(message.number)
        if keys is None:
            raise ProtocolViolation("pulled before anything was compared")
        # What is not in the set, or has moved on in the log since, comes with the live changes.
        found = [position for key in message.keys if (position := keys.position(key)) is not None]
        self._owed_pulls.append((message.number, found))
        return self._evaluate()

    def on_barrier(self, message: Barrier) -> list[Effect]:
        """The peer wants to know when it has everything that is here now."""
        self._barriers.append((message.number, self._head))
        return self._evaluate()

    def _interest_of(self, number: int) -> InterestSet:
        interest = self._reconciling.get(number)
        if interest is None:
            raise ProtocolViolation(f"a reconciliation {number} that was not agreed on")
        return interest

    def _frame(
        self,
        scan: int,
        upto: int,
        changes: Sequence[Change],
        offers: Sequence[Version] = (),
        notices: Sequence[Version] = (),
        gone: Sequence[tuple[str, str]] = (),
    ) -> Effect:
        number = self._next_frame
        self._next_frame += 1
        self._in_flight[number] = sum(len(change.update) for change in changes) + 1
        if scan == 0 and upto:
            self._told = upto
        return Send(Changes(number, scan, upto, list(changes), list(offers), list(notices), list(gone)))

    def _matches(self, commit: Commit) -> bool:
        collection = commit.change.collection
        if commit.evicted or collection not in self._wanted:
            return False
        if self._wanted.matches(collection, commit.after):
            return True
        return commit.before is not None and self._wanted.matches(collection, commit.before)

    def _room(self) -> bool:
        return len(self._in_flight) < WINDOW_FRAMES and sum(self._in_flight.values()) < WINDOW_BYTES

    def _current_scan(self) -> _Scan | None:
        """What to read next: what happens now comes before what happened long ago."""
        if self._live is not None and self._live.cursor < self._head:
            return self._live
        return self._scans[0] if self._scans else None

    def _evaluate(self) -> list[Effect]:
        """The one step after every event: send what may be sent, read what must be read."""
        effects: list[Effect] = []
        if self._reading is None and self._room():
            if self._owed_wants or self._owed_pulls:
                self._reading = self._owed()
                effects.append(self._reading)
            elif (scan := self._current_scan()) is not None:
                self._reading = (scan, scan.interest)
                end = self._head if scan is self._live else scan.end
                effects.append(ReadLog(scan.cursor, end, PAGE, scan.interest))
        while self._barriers and self._drained_to(self._barriers[0][1]):
            number, _ = self._barriers.pop(0)
            if self._live is not None and self._told < self._live.cursor:
                effects.append(self._frame(0, self._live.cursor, []))
            effects.append(Send(BarrierReached(number)))
        return effects

    def _owed(self) -> ReadWanted:
        if self._owed_wants:
            wants = [self._owed_wants.popleft() for _ in range(min(PAGE, len(self._owed_wants)))]
            return ReadWanted(wants, [])
        number, positions = self._owed_pulls[0]
        if len(positions) > PAGE:
            self._owed_pulls[0] = (number, positions[PAGE:])
            return ReadWanted([], positions[:PAGE])
        self._owed_pulls.popleft()
        return ReadWanted([], positions, completes=number)

    def _drained_to(self, position: int) -> bool:
        return (
            self._live is not None
            and self._live.cursor >= position
            and self._reading is None
            and not (self._scans or self._in_flight)
            and not (self._owed_wants or self._owed_pulls or self._reconciling)
        )


def _batches(changes: Sequence[Change]) -> list[list[Change]]:
    """``changes``, in order, in lists that fit a frame."""
    batches: list[list[Change]] = []
    size = FRAME_BYTES
    for change in changes:
        if size >= FRAME_BYTES or len(batches[-1]) >= PAGE:
            batches.append([])
            size = 0
        batches[-1].append(change)
        size += len(change.update)
    return batches
