"""Under which identity a store writes: its log, its clock and how far both have got.

A copy of a store, or a backup of it that was restored, must not go on under the identity of the original:
both would give the same numbers to different writes.
"""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Mapping

from mesh.core.versions import CLOCK_BYTES

_log = logging.getLogger("mesh.storage")

_State = tuple[bytes, bytes, int, int]
"""Log id, clock identity, last counter, last position of the log."""


class Lineage:
    """The one row of the table ``store``; changes are kept or undone with the transaction they belong to.

    Args:
        connection: the open database; every call happens on its thread.
        rng: draws identities.
        host: names the machine and file that the store belongs to; where it has changed, the store is a copy,
            and goes on under a new identity.

    Attributes:
        log_id: names the log; new whenever the store's past is not that of the file.
        clock: the clock identity of local writes.
        seq: the last position of the log.
        positions_era: grows whenever the positions reached in peers' logs have become void.
    """

    def __init__(self, connection: sqlite3.Connection, rng: random.Random, host: str) -> None:
        self._connection = connection
        self._rng = rng
        self.positions_era = 0
        self._load(host)
        self._stored = self._kept = self._state

    def _load(self, host: str) -> None:
        row = self._connection.execute("SELECT log_id, clock, counter, seq, host FROM store").fetchone()
        if row is not None and row[4] == host:
            self._state = row[:4]
            return
        self.seq = row[3] if row is not None else 0
        self._renew()
        self._connection.execute(
            "INSERT OR REPLACE INTO store(id, log_id, clock, counter, seq, host) VALUES (1, ?, ?, ?, ?, ?)",
            (*self._state, host),
        )

    @property
    def _state(self) -> _State:
        return (self.log_id, self.clock, self._counter, self.seq)

    @_state.setter
    def _state(self, state: _State) -> None:
        self.log_id, self.clock, self._counter, self.seq = state

    # --- numbers ----------------------------------------------------------------------------------

    def tick(self) -> tuple[bytes, int]:
        """This store's clock identity and its next counter."""
        self._counter += 1
        return self.clock, self._counter

    def next_position(self) -> int:
        """The next position of the log."""
        self.seq += 1
        return self.seq

    # --- identity ---------------------------------------------------------------------------------

    def met(self, vector: Mapping[bytes, int]) -> None:
        """A version has arrived. One that knows more of this store's writes than it does itself says that
        this is a restored backup: it goes on under a new identity, and its log is a new one."""
        if vector.get(self.clock, 0) > self._counter:
            self.renew()

    def renew(self) -> None:
        """This store turns out to be a restored backup: what it wrote since is held by others only."""
        _log.warning("this store has been restored from a backup: it goes on under a new identity")
        self._renew()

    def _renew(self) -> None:
        self.log_id = self._rng.randbytes(16)
        self.clock = self._rng.randbytes(CLOCK_BYTES)
        self._counter = 0
        # The client ids still belong to the store that this one was copied from.
        self._connection.execute("UPDATE documents SET client_id = NULL")
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
        if self._stored != self._state:
            self._connection.execute(
                "UPDATE store SET log_id = ?, clock = ?, counter = ?, seq = ?", self._state
            )

    def committed(self) -> None:
        """The transaction stands."""
        self._stored = self._kept = self._state

    def undo_all(self) -> None:
        """The transaction has failed: forget what all its jobs changed."""
        self._state = self._kept = self._stored
