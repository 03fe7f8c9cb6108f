"""Rows of the document table, and the identity under which they are written.

A :class:`Rows` lives on the store's worker, and is what the jobs of a
:class:`~mesh.storage.database.Database` are given. It hands out log positions and clock ticks, and collects
what was committed for those who follow the store.
"""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.core.commits import Commit
from mesh.core.document import ABSENT, DocumentState, Merged
from mesh.core.versions import CLOCK_BYTES, decode_vector, encode_vector, key_hash, version_hash
from mesh.core.wire import Change

_log = logging.getLogger("mesh.storage")

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode
_encode_json = msgspec.json.Encoder().encode

MAX_CLIENT_ID = (1 << 53) - 1
"""Yjs client ids must be safe integers in JavaScript."""

_Identity = tuple[bytes, bytes, int, int]
"""Log id, clock identity, last counter, last position of the log."""

MAX_QUARANTINE = 1000
"""Refused changes that are remembered."""


@dataclass(frozen=True, slots=True)
class Row:
    """One document as it is stored.

    ``source`` is the peer that is known to hold this very version. ``client_id`` is the Yjs client id under
    which this store has written this copy of the document; ``None`` while it has not.
    """

    seq: int
    state: DocumentState
    json: str | None
    client_id: int | None
    source: str | None

    @property
    def document(self) -> dict[str, Any] | None:
        """The fields and the ``_id``; ``None`` for a removed document."""
        return None if self.json is None else _decode_json(self.json)


class Rows:
    """The document table, read and written row by row.

    Args:
        connection: the open database; every call happens on its thread.
        rng: draws identities and client ids.
        clock: wall clock, in seconds since the epoch.
        host: names the machine and file that the store belongs to; where it has changed, the store is a copy,
            and goes on under a new identity.
    """

    def __init__(
        self, connection: sqlite3.Connection, rng: random.Random, clock: Callable[[], float], host: str
    ) -> None:
        self.connection = connection
        self._rng = rng
        self._now = clock
        self.commits: list[Commit] = []
        self.positions_era = 0
        self._load_identity(host)
        self._stored = self._identity
        self._kept = (self._stored, 0)

    # --- identity ---------------------------------------------------------------------------------

    def _load_identity(self, host: str) -> None:
        row = self.connection.execute("SELECT log_id, clock, counter, seq, host FROM store").fetchone()
        if row is not None and row[4] == host:
            self._identity = row[:4]
            return
        self.seq = row[3] if row is not None else 0
        self._renew_identity()
        self.connection.execute(
            "INSERT OR REPLACE INTO store(id, log_id, clock, counter, seq, host) VALUES (1, ?, ?, ?, ?, ?)",
            (*self._identity, host),
        )

    def _renew_identity(self) -> None:
        self.log_id = self._rng.randbytes(16)
        self.clock = self._rng.randbytes(CLOCK_BYTES)
        self._counter = 0
        # The client ids still belong to the store that this one was copied from.
        self.connection.execute("UPDATE documents SET client_id = NULL")
        # Peers do not send what came from here: past the positions in their logs it would stay lost.
        self.forget_positions()

    @property
    def _identity(self) -> _Identity:
        return (self.log_id, self.clock, self._counter, self.seq)

    @_identity.setter
    def _identity(self, identity: _Identity) -> None:
        self.log_id, self.clock, self._counter, self.seq = identity

    def met(self, vector: Mapping[bytes, int]) -> None:
        """A version has arrived. One that knows more of this store's writes than it does itself says that
        this is a restored backup: it goes on under a new identity, and its log is a new one."""
        if vector.get(self.clock, 0) > self._counter:
            self.renew()

    def renew(self) -> None:
        """This store turns out to be a restored backup: what it wrote since is held by others only."""
        _log.warning("this store has been restored from a backup: it goes on under a new identity")
        self._renew_identity()

    def tick(self) -> tuple[bytes, int]:
        """This store's clock identity and its next counter."""
        self._counter += 1
        return self.clock, self._counter

    def new_client_id(self) -> int:
        """A Yjs client id for this store's copy of a document."""
        return self._rng.randint(1, MAX_CLIENT_ID)

    # --- following the transaction ----------------------------------------------------------------

    def keep(self) -> None:
        """See :class:`~mesh.storage.database.Session`."""
        self._kept = (self._identity, len(self.commits))

    def undo(self) -> None:
        """See :class:`~mesh.storage.database.Session`."""
        self._identity, commits = self._kept
        del self.commits[commits:]

    def finish(self) -> None:
        """See :class:`~mesh.storage.database.Session`."""
        if self._stored != self._identity:
            self.connection.execute(
                "UPDATE store SET log_id = ?, clock = ?, counter = ?, seq = ?", self._identity
            )

    def undo_all(self) -> None:
        """See :class:`~mesh.storage.database.Session`."""
        self._identity = self._stored
        self.commits.clear()
        self._kept = (self._stored, 0)

    def take_commits(self) -> list[Commit]:
        """What has been committed since the last call."""
        self._stored = self._identity
        self._kept = (self._stored, 0)
        commits, self.commits = self.commits, []
        return commits

    # --- rows -------------------------------------------------------------------------------------

    def get(self, collection: str, document_id: str) -> Row | None:
        """The row of a document, removed ones included."""
        found = self.connection.execute(
            "SELECT seq, rank_major, rank_minor, state, vector, json, client_id, source "
            "FROM documents WHERE collection = ? AND id = ?",
            (collection, document_id),
        ).fetchone()
        if found is None:
            return None
        seq, major, minor, state, vector, json, client_id, source = found
        return Row(
            seq,
            DocumentState((major, minor), state, decode_vector(vector)),
            json,
            client_id,
            source,
        )

    def put(
        self,
        collection: str,
        document_id: str,
        held: Row | None,
        change: Change,
        merged: Merged,
        *,
        source: str | None = None,
        client_id: int | None,
    ) -> None:
        """Store a document's new state at the end of the log, and note the commit."""
        self.seq += 1
        state = merged.state
        vector = encode_vector(state.vector)
        after = None
        if merged.fields is not None:  # what else claims to be the _id is not
            after = {"_id": document_id} | merged.fields | {"_id": document_id}
        # A peer is known to hold this version only if its change was all there is to it.
        whole = state.vector == change.until and state.rank == change.rank
        self.connection.execute(
            "INSERT OR REPLACE INTO documents(seq, collection, id, json, rank_major, rank_minor, vector, "
            "state, key_hash, version_hash, client_id, source, changed_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.seq,
                collection,
                document_id,
                None if after is None else _encode_json(after).decode(),
                *state.rank,
                vector,
                state.update,
                key_hash(collection, document_id),
                version_hash(state.rank, vector),
                client_id,
                source if whole else None,
                self._now(),
            ),
        )
        before = held.document if held is not None else None
        self.commits.append(Commit(self.seq, change, before, after, source, whole))

    def drop(self, collection: str, document_id: str) -> bool:
        """Forget a document here, without a tombstone; whether there was one."""
        held = self.get(collection, document_id)
        if held is None:
            return False
        self.connection.execute("DELETE FROM documents WHERE seq = ?", (held.seq,))
        self.seq += 1
        state = held.state
        change = Change(collection, document_id, state.rank, {}, state.vector, state.update)
        self.commits.append(Commit(self.seq, change, held.document, None, None, whole=True, evicted=True))
        # What was evicted is not held any more up to any position of anybody's log.
        self.forget_positions()
        return True

    def forget_positions(self) -> None:
        """Start over with everybody's log; positions reached before ``positions_era`` changed are void."""
        self.connection.execute("DELETE FROM positions")
        self.positions_era += 1

    def state_of(self, row: Row | None) -> DocumentState:
        """The state in a row, or that of a document which does not exist."""
        return ABSENT if row is None else row.state

    def quarantine(self, change: Change, peer: str, reason: str) -> None:
        """Note a change that was refused, so that it can be asked for again after an upgrade."""
        version = msgspec.msgpack.encode((change.rank, encode_vector(change.until)))
        self.connection.execute(
            "INSERT OR REPLACE INTO quarantine(collection, id, version, peer, reason, at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (change.collection, change.id, version, peer, reason, self._now()),
        )
        self.connection.execute(
            "DELETE FROM quarantine WHERE rowid <= (SELECT max(rowid) FROM quarantine) - ?", (MAX_QUARANTINE,)
        )
        _log.warning("refused %s/%s from %s: %s", change.collection, change.id, peer[:8], reason)
