"""What a receiving node decides: what to do about a distribution, what runs next, when to write."""

from __future__ import annotations

import errno
import heapq
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from mesh.core.receipts import DistributionRecord, Receipt
from mesh.core.scopes import NodeFacts, matches, scope_text
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobProgress
from mesh.errors import BlobTooLarge, FetchFailed, InvalidScope, InvalidToken, StorageFull

ReceiveMode = Literal["auto", "manual", "off"]

CANCELLED_BY = "cancelled by the publisher or an admin"
"""Why a cancelled distribution is over: what it says does not tell which of them."""


class Action(Enum):
    """What a node does about one distribution."""

    IGNORE = auto()
    """Nothing, and nothing is running for it any more."""
    FETCH = auto()
    """Get the blob unless it is here, put it into the inbox, write that it is completed."""
    OFFER = auto()
    """Let the application decide (``receive="manual"``)."""
    STOP = auto()
    """Stop what runs; the receipt says cancelled."""
    FAIL = auto()
    """Stop what runs; the receipt says failed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and why.

    ``fresh``: it needs a new receipt, in place of none, of one that is over or of one of an earlier attempt.
    """

    action: Action
    reason: str = ""
    fresh: bool = False


def is_expired(record: DistributionRecord, now: float) -> bool:
    """Whether the distribution's time is over by this node's wall clock ``now``.

    The clocks of publisher and target may differ; a target whose clock is years ahead takes part in
    nothing that expires, one whose clock is behind takes part for longer. Nothing else depends on clocks.
    """
    return record.expires_at is not None and now >= record.expires_at


def may_fetch(record: DistributionRecord, node_id: str, facts: NodeFacts, now: float, *, relay: bool) -> bool:
    """Whether a member of a closed mesh may have the blob of a distribution: as it is in the scope, or has
    published it, or is a relay."""
    if record.cancelled_at is not None or is_expired(record, now):
        return False
    if relay or record.publisher == node_id:
        return True
    try:
        return matches(record.parsed_scope(), node_id, record.publisher, facts)
    except InvalidScope:
        return False


def is_live(record: DistributionRecord, superseded_by: str | None, now: float) -> bool:
    """Whether nodes may still begin: not cancelled, superseded or expired."""
    return record.cancelled_at is None and superseded_by is None and not is_expired(record, now)


def decide(
    record: DistributionRecord,
    receipt: Receipt | None,
    *,
    node_id: str,
    facts: NodeFacts,
    receive: ReceiveMode,
    superseded_by: str | None,
    now: float,
) -> Decision:
    """What the node ``node_id`` should do about a distribution, given its own receipt of it so far."""
    open_receipt = receipt is not None and not receipt.status.is_terminal
    if receipt is not None and receipt.status is TransferState.COMPLETED:
        return Decision(Action.IGNORE, "completed")
    if record.cancelled_at is not None:
        return Decision(Action.STOP if open_receipt else Action.IGNORE, CANCELLED_BY)
    if superseded_by is not None:
        return Decision(Action.STOP if open_receipt else Action.IGNORE, f"superseded by {superseded_by}")
    if is_expired(record, now):
        return Decision(Action.FAIL if open_receipt else Action.IGNORE, "expired before it was complete")
    failed = receipt is not None and receipt.status is TransferState.FAILED
    if failed and receipt is not None and receipt.attempt >= record.attempt:
        return Decision(Action.IGNORE, f"failed ({receipt.error}); the publisher's retry() starts it again")
    fresh = not open_receipt or (receipt is not None and receipt.attempt < record.attempt)
    try:
        scope = record.parsed_scope()
    except InvalidScope as error:
        return Decision(Action.FAIL, f"{error}. Upgrade this node, then retry()", fresh)
    if not matches(scope, node_id, record.publisher, facts):
        reason = f"not in the scope {scope_text(scope)}"
        return Decision(Action.STOP if open_receipt else Action.IGNORE, reason)
    if receive == "off":
        return Decision(Action.FAIL, 'refused: this node receives nothing (receive="off")', fresh)
    return Decision(Action.OFFER if receive == "manual" else Action.FETCH, fresh=fresh)


# --- what runs next ---------------------------------------------------------------------------

MAX_ACTIVE_FETCHES = 4


class FetchQueue:
    """Which fetches run: at most ``limit`` at once, the highest priority first, of equals the oldest.

    A fetch that finds no source is parked: it goes on looking, and the next one starts in its place. Once
    its source is there it counts again, rather over the bound than stopped. Critical ones never wait and
    take nobody's place.
    """

    def __init__(self, limit: int = MAX_ACTIVE_FETCHES) -> None:
        self._limit = limit
        self._waiting: dict[str, tuple[int, float, str]] = {}
        self._heap: list[tuple[int, float, str]] = []
        self._active: set[str] = set()
        self._parked: set[str] = set()
        self._critical: set[str] = set()

    def __contains__(self, job: str) -> bool:
        return any(job in jobs for jobs in (self._waiting, self._active, self._parked, self._critical))

    def add(self, job: str, priority: TransferPriority, created_at: float) -> None:
        """``job`` wants to run. One that waits or runs already keeps its place."""
        if job not in self:
            self._waiting[job] = entry = (-priority, created_at, job)
            heapq.heappush(self._heap, entry)

    def remove(self, job: str) -> None:
        """``job`` has ended, or is no longer wanted."""
        self._waiting.pop(job, None)
        for jobs in (self._active, self._parked, self._critical):
            jobs.discard(job)

    def park(self, job: str) -> None:
        """``job``, if it runs, has no source: until :meth:`resume` it takes nobody's place."""
        if job in self._active:
            self._active.remove(job)
            self._parked.add(job)

    def resume(self, job: str) -> None:
        """``job``, if it was parked, has a source."""
        if job in self._parked:
            self._parked.remove(job)
            self._active.add(job)

    def start(self) -> list[str]:
        """The jobs to start now, in order; from here on they run."""
        started = []
        while self._heap:
            entry = self._heap[0]
            job = entry[2]
            if self._waiting.get(job) == entry:
                critical = entry[0] == -TransferPriority.CRITICAL
                if not critical and len(self._active) >= self._limit:
                    break
                del self._waiting[job]
                (self._critical if critical else self._active).add(job)
                started.append(job)
            heapq.heappop(self._heap)
        return started


def lacks_source(progress: BlobProgress) -> bool:
    """Whether a running fetch can only wait until somebody has the blob for it."""
    return progress.state in ("waiting", "stalled")


def state_of(progress: BlobProgress) -> TransferState:
    """What a receipt says of a running fetch: that it has ended is said by whoever asked for it."""
    waits = progress.state in ("waiting", "failed")
    return TransferState.CONNECTING if waits else TransferState.TRANSFERRING


# --- when to write ----------------------------------------------------------------------------

MIN_WRITE_INTERVAL = 0.5
"""Seconds between two writes of a receipt that is not terminal."""

MIN_PROGRESS_STEP = 0.05
"""Progress that is worth a write, as a share of the blob."""


def write_delay(written: Receipt | None, wanted: Receipt, since_write: float) -> float | None:
    """In how many seconds to write ``wanted``; ``None``: not for what it says.

    ``written``, the receipt before it, was written ``since_write`` seconds ago.

    A first and a terminal receipt are written at once; others at most twice a second, and a receipt
    that differs in nothing but progress only after steps of 5 %, or once nothing comes any more.
    """
    if written is None or wanted.status.is_terminal:
        return 0.0
    same = (wanted.status, wanted.error, wanted.attempt, wanted.round) == (
        written.status,
        written.error,
        written.attempt,
        written.round,
    )
    stopped = written.rate > 0 and not wanted.rate
    step = wanted.progress_bytes - written.progress_bytes
    if same and not stopped and (step <= 0 or step < MIN_PROGRESS_STEP * wanted.total_bytes):
        return None
    return max(0.0, MIN_WRITE_INTERVAL - since_write)


# --- what heals by itself ---------------------------------------------------------------------

ROOM_SECONDS = 30.0
"""After so long it is tried again at the latest where room was all that was missing."""

_LASTING = (FetchFailed, BlobTooLarge, InvalidToken)
_LASTING_ERRNOS = frozenset(
    {
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)


def is_lasting(error: Exception) -> bool:
    """Whether retry() has to follow somebody's act (a change of permissions, a larger disk); else it is tried
    for ever."""
    if isinstance(error, StorageFull):
        return error.is_lasting
    return isinstance(error, _LASTING) or (isinstance(error, OSError) and error.errno in _LASTING_ERRNOS)


def lacks_room(error: Exception) -> bool:
    """Whether room is all that is missing."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, StorageFull)
