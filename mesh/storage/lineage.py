"""Under which identity a store writes: its log, its clock and how far both have got.

A copy of a store, or a backup of it that was put back, must not go on under the identity of the original:
both would give the same numbers to different writes.

Positions and counters are one sequence: a local write ticks with the position that it takes. So the last row
of the documents says how far it has got, and no commit has to write it down.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

import msgspec

from mesh.core.numbering import MAX_GAP, MIN_GAP, ONE_RUN, Numbering
from mesh.core.versions import CLOCK_BYTES
from mesh.storage.file_birth import born

_log = logging.getLogger("mesh.storage")

ERA_BYTES = 2
"""The end of a clock identity counts how often documents were evicted that had been written under it: if they
are written again, it is not as if what was written first were still here."""

LOG_BYTES = 16
"""Length of the name of a log."""

MAX_FORMER = 100
"""Former logs that are remembered. A peer that has slept longer makes the store renew itself once more."""

RENEW_SECONDS = 86_400.0
"""So long after it has got an identity, a store does not change it for what a peer says: nobody can know it
from another life, and whoever seems to is wrong, or lies."""

_State = tuple[bytes, bytes, int, int, Numbering, bytes | None, float]


class Lineage:
    """The one row of the table ``store``; changes are kept or undone with the transaction they belong to.

    A store starts a log of its own where ``host`` has changed: it is a copy. So it does where it was not
    closed before the machine went down: a disk that lost power may have lost what peers have seen. After a
    mere crash of the process it goes on as it was.

    Args:
        connection: the open database; every call happens on its thread.
        rng: draws identities and gaps.
        host: names the machine and file that the store belongs to.
        boot: names the present run of the machine; empty: unknown, which counts as another one.
        now: the wall clock, in seconds since the epoch.

    Attributes:
        log_id: names the log; new whenever the store's past is not that of the file.
        clock: the clock identity of local writes, but for documents that were written here before: see
            :meth:`tick`.
        seq: the last position of the log.
        numbering: which positions and counters have been given under this identity.
        former: the names of the logs that it has had before, in a row; ``None``: not all are known, as the
            store has begun anew, or is older than this record, or is in memory.
        positions_era: grows whenever the positions reached in peers' logs have become void.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        rng: random.Random,
        host: str,
        boot: str = "",
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._connection = connection
        self._rng = rng
        self._now = now
        self._since = -inf  # when it got its identity, if that was since it was opened
        self.positions_era = 0
        self._load(host, boot)
        self._stored = self._kept = self._state

    def _load(self, host: str, boot: str) -> None:
        last: int
        (last,) = self._connection.execute("SELECT coalesce(max(seq), 0) FROM documents").fetchone()
        columns = "log_id, clock, seq, host, boot, runs, former"
        row = self._connection.execute(f"SELECT {columns} FROM store").fetchone()
        if row is None:
            self.seq = last
            self.log_id, self.former = b"", b"" if host else None
            self._renew()
        else:
            self.log_id, self.clock, floor, known_host, open_since, runs, self.former = row
            self.numbering = msgspec.json.decode(runs, type=Numbering)
            last = max(last, floor)
            self.numbering = self.numbering.reopened(last, self._rng.randint(MIN_GAP, MAX_GAP))
            self.seq = self.numbering.start
            if known_host not in (host, host.rpartition(":")[0]):  # older versions did not note the birth
                _log.warning("this store is a copy, or was put back: it starts a log of its own")
                self._renew()
            elif open_since is not None and open_since != (boot or None):
                _log.warning(
                    "the machine went down while this store was open, and its disk may have lost what peers "
                    "have seen: it starts a new log"
                )
                self._renew()
        self._floor = self.seq  # nothing stands there
        self._connection.execute(
            "INSERT OR REPLACE INTO store(id, log_id, clock, seq, runs, former, host, boot) "
            "VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
            (*self._row(), host, boot),
        )

    @property
    def _state(self) -> _State:
        return (self.log_id, self.clock, self.seq, self._floor, self.numbering, self.former, self._since)

    @_state.setter
    def _state(self, state: _State) -> None:
        self.log_id, self.clock, self.seq, self._floor, self.numbering, self.former, self._since = state

    def _row(self) -> tuple[bytes, bytes, int, str, bytes | None]:
        """What the table holds of it: only what the documents do not say."""
        runs = msgspec.json.encode(self.numbering).decode()
        return (self.log_id, self.clock, self._floor, runs, self.former)

    # --- numbers ----------------------------------------------------------------------------------

    def tick(self, written: Mapping[bytes, int] | None = None) -> tuple[bytes, int]:
        """The clock identity and the counter of the write that takes the next position.

        Args:
            written: the version of the document, if this store has written the copy that it holds: then it
                goes on under the same clock identity, so that versions do not grow with every eviction.
        """
        clock = self.clock
        if written and not clock.endswith(bytes(ERA_BYTES)):
            clock = max(self._own(written), default=(0, clock))[1]
        return clock, self.seq + 1

    def last_tick(self, vector: Mapping[bytes, int]) -> int:
        """The counter of the last write of this store in a version; 0: there is none."""
        return max(self._own(vector), default=(0, b""))[0]

    def _own(self, vector: Mapping[bytes, int]) -> list[tuple[int, bytes]]:
        store = self.clock[:-ERA_BYTES]
        return [(counter, clock) for clock, counter in vector.items() if clock.startswith(store)]

    def evicted(self, vector: Mapping[bytes, int]) -> None:
        """A document is no longer here of which this store may have written what nobody else holds."""
        if self.clock not in vector:
            return
        era = int.from_bytes(self.clock[-ERA_BYTES:], "big") + 1
        if era >> 8 * ERA_BYTES:
            self._renew()
        else:
            self.clock = self.clock[:-ERA_BYTES] + era.to_bytes(ERA_BYTES, "big")

    def next_position(self) -> int:
        """The next position of the log."""
        self.seq += 1
        return self.seq

    def remember_position(self) -> None:
        """The row at the end of the log may be about to go, or never come: say otherwise where it ends."""
        self._floor = self.seq

    # --- identity ---------------------------------------------------------------------------------

    def unknown(self, vector: Mapping[bytes, int]) -> int | None:
        """The counter in a version that only another life of this store can have given: this one is a backup
        that was put back."""
        issued, seq = self.numbering.issued, self.seq
        return next((counter for counter, _ in self._own(vector) if not issued(counter, seq)), None)

    @property
    def logs(self) -> frozenset[bytes] | None:
        """The logs that the store has had, the present one included; ``None``: not all are known."""
        if self.former is None:
            return None
        starts = range(0, len(self.former), LOG_BYTES)
        return frozenset([self.log_id, *(self.former[start : start + LOG_BYTES] for start in starts)])

    def forget_former(self) -> None:
        """There were logs before of which nothing is known."""
        self.former = None
        self._connection.execute("UPDATE store SET former = NULL")

    @property
    def renewable(self) -> float:
        """From when on the identity may be changed for what a peer says."""
        return self._since + RENEW_SECONDS

    def may_renew(self) -> bool:
        """Whether it may be now."""
        return self._now() >= self.renewable

    def renew(self, found: bytes = b"") -> None:
        """Start a log of its own, under a new clock identity; ``found`` is the log of another life."""
        if self.former is not None:
            self.former += found
        _log.warning(
            "this store was restored from a backup, or a copy of it is in use: it starts a log of its own"
        )
        self._renew()

    def _renew(self) -> None:
        if self.former is not None:
            self.former = (self.former + self.log_id)[-MAX_FORMER * LOG_BYTES :]
        self.log_id = self._rng.randbytes(LOG_BYTES)
        self.clock = self._rng.randbytes(CLOCK_BYTES - ERA_BYTES) + bytes(ERA_BYTES)
        self.numbering = ONE_RUN
        self._since = self._now()
        # The client ids still belong to the store that this one was copied from.
        self._connection.execute("UPDATE documents SET client_id = NULL")
        self._connection.execute("DELETE FROM shares")
        # Peers do not send what came from here: past the positions in their logs it would stay lost.
        self.forget_positions()

    def forget_positions(self) -> None:
        """Start over with everybody's log; positions reached before ``positions_era`` changed are void."""
        self._connection.execute("DELETE FROM positions")
        self.positions_era += 1

    # --- following the transaction ----------------------------------------------------------------

    def keep(self) -> None:
        """A job is done: what it changed stands."""
        self._kept = self._state

    def undo(self) -> None:
        """A job has failed: forget what it changed."""
        self._state = self._kept

    def finish(self) -> None:
        """The commit is next: write what is still to be written."""
        if (self.log_id, self._floor) != (self._stored[0], self._stored[3]):
            self._connection.execute(
                "UPDATE store SET log_id = ?, clock = ?, seq = ?, runs = ?, former = ?", self._row()
            )

    def committed(self) -> None:
        """The transaction stands."""
        self._stored = self._kept = self._state

    def undo_all(self) -> None:
        """The transaction has failed: forget what all its jobs changed."""
        self._state = self._kept = self._stored

    def close(self) -> None:
        """Note that the store is closed in good order."""
        self._connection.execute("UPDATE store SET boot = NULL")


def host_of(path: Path) -> str:
    """Names this machine and this very file: a copy of the file, or its restored backup, differs, unless it
    was written over the file or is one of the whole disk."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = os.uname().nodename
    return f"{machine}:{path.stat().st_ino}:{born(path)}"


def boot_id() -> str:
    """Names the time since this machine was started; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
