"""Rows of the document table.

A :class:`Rows` lives on the store's worker, and is what the jobs of a
:class:`~mesh.storage.database.Database` are given. It collects what was committed for those who follow the
store.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import msgspec

from mesh.core.commits import Commit
from mesh.core.document import ABSENT, DocumentState, Merged, buried
from mesh.core.limits import peer_log
from mesh.core.live import LiveDocuments
from mesh.core.membership import Membership
from mesh.core.versions import decode_vector, encode_vector, key_hash, moved_clocks, version_hash
from mesh.core.wire import Change
from mesh.storage.lineage import Lineage
from mesh.storage.references import note_references
from mesh.version import VERSION

_log = peer_log("mesh.storage")

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode
_encode_json = msgspec.json.Encoder().encode

CLIENT_ID_BITS = 53
"""Yjs client ids must be safe integers in JavaScript."""

MAX_QUARANTINE = 1000
"""Refused changes that are remembered."""

_ROWS_AT_ONCE = 64

_ROW = "seq, rank_major, rank_minor, state, vector, json, client_id, source"

_MANY_ROWS = (
    f"SELECT id, {_ROW} FROM documents WHERE collection = ? AND id IN ({','.join('?' * _ROWS_AT_ONCE)})"
)

_PUT = (
    "INSERT OR REPLACE INTO documents(seq, collection, id, json, rank_major, rank_minor, vector, state, "
    "key_hash, version_hash, client_id, source, changed_at, changed_by) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One document as it is stored.

    ``source`` is the peer that is known to hold this very version. ``client_id`` is the Yjs client id under
    which this store has written this copy of the document; ``None`` while it has not. ``buried``: only a
    grave is left of it (see :mod:`mesh.storage.graves`).
    """

    seq: int
    state: DocumentState
    json: str | None
    client_id: int | None
    source: str | None
    buried: bool = False

    @property
    def document(self) -> dict[str, Any] | None:
        """The fields and the ``_id``; ``None`` for a removed document."""
        return None if self.json is None else _decode_json(self.json)


def _row(found: tuple[Any, ...]) -> Row:
    seq, major, minor, state, vector, json, client_id, source = found
    return Row(seq, DocumentState((major, minor), state, decode_vector(vector)), json, client_id, source)


class Rows:
    """The document table, read and written row by row.

    Args:
        connection: the open database; every call happens on its thread.
        rng: draws identities and client ids.
        clock: wall clock, in seconds since the epoch.
        host, boot: see :class:`~mesh.storage.lineage.Lineage`.

    Attributes:
        graves: whether there may be any.
        membership: of a closed mesh, whose members alone write records.
        refused: records that were dropped, as who made them had no right to.
        now: the wall clock.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        rng: random.Random,
        clock: Callable[[], float],
        host: str,
        boot: str = "",
    ) -> None:
        self.connection = connection
        self.lineage = Lineage(connection, rng, host, boot, clock)
        # Drawn often, and no secret: the system's own source costs more than the rest of a small write.
        self._client_ids = random.Random(rng.getrandbits(128))
        self.now = clock
        self.membership: Membership | None = None
        self.refused = 0
        self.graves = bool(connection.execute("SELECT 1 FROM graves LIMIT 1").fetchall())
        self.live = LiveDocuments()
        self.commits: list[Commit] = []
        self._kept_commits = 0

    def new_client_id(self) -> int:
        """A Yjs client id for this store's copy of a document."""
        return max(1, self._client_ids.getrandbits(CLIENT_ID_BITS))

    def tick(self, row: Row | None) -> tuple[bytes, int]:
        """The clock identity and the counter of the next write, if it is one of the document in ``row``."""
        return self.lineage.tick(None if row is None or row.client_id is None else row.state.vector)

    # --- following the transaction ----------------------------------------------------------------

    @property
    def changes(self) -> int:
        """See :class:`~mesh.storage.connection.Session`."""
        return len(self.commits)

    def keep(self) -> None:
        """See :class:`~mesh.storage.connection.Session`."""
        self.lineage.keep()
        self._kept_commits = len(self.commits)

    def undo(self) -> None:
        """See :class:`~mesh.storage.connection.Session`."""
        self.lineage.undo()
        del self.commits[self._kept_commits :]

    def finish(self) -> None:
        """See :class:`~mesh.storage.connection.Session`."""
        self.lineage.finish()

    def undo_all(self) -> None:
        """See :class:`~mesh.storage.connection.Session`."""
        self.lineage.undo_all()
        self.commits.clear()
        self._kept_commits = 0

    def close(self) -> None:
        """See :class:`~mesh.storage.connection.Session`."""
        self.live.clear()
        self.lineage.close()

    def take_commits(self) -> list[Commit]:
        """What has been committed since the last call."""
        self.lineage.committed()
        self._kept_commits = 0
        commits, self.commits = self.commits, []
        return commits

    # --- rows -------------------------------------------------------------------------------------

    def get(self, collection: str, document_id: str) -> Row | None:
        """The row of a document, removed and buried ones included."""
        found = self.connection.execute(
            f"SELECT {_ROW} FROM documents WHERE collection = ? AND id = ?", (collection, document_id)
        ).fetchone()
        return self._grave(collection, document_id) if found is None else _row(found)

    def get_all(self, collection: str, document_ids: Sequence[str]) -> dict[str, Row]:
        """The rows of those of the documents that have one, as :meth:`get`."""
        if len(document_ids) == 1:
            row = self.get(collection, document_ids[0])
            return {} if row is None else {document_ids[0]: row}
        found: dict[str, Row] = {}
        for start in range(0, len(document_ids), _ROWS_AT_ONCE):
            some = document_ids[start : start + _ROWS_AT_ONCE]
            padded = (*some, *repeat(some[0], _ROWS_AT_ONCE - len(some)))  # one statement fits all
            found.update(
                (row[0], _row(row[1:])) for row in self.connection.execute(_MANY_ROWS, (collection, *padded))
            )
        if self.graves:
            for document_id in document_ids:
                if document_id not in found and (grave := self._grave(collection, document_id)) is not None:
                    found[document_id] = grave
        return found

    def _grave(self, collection: str, document_id: str) -> Row | None:
        if not self.graves:
            return None
        found = self.connection.execute(
            "SELECT seq, incarnation FROM graves WHERE key_hash = ?", (key_hash(collection, document_id),)
        ).fetchone()
        if found is None:
            return None
        return Row(found[0], buried(found[1]), None, None, None, buried=True)

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
        _, values = self.prepare(
            collection, document_id, held, change, merged, source=source, client_id=client_id
        )
        self.connection.execute(_PUT, values)

    def put_all(self, prepared: Iterable[tuple[Any, ...]]) -> None:
        """Store what was prepared."""
        self.connection.executemany(_PUT, prepared)

    def prepare(
        self,
        collection: str,
        document_id: str,
        held: Row | None,
        change: Change,
        merged: Merged,
        *,
        source: str | None = None,
        client_id: int | None,
    ) -> tuple[Row, tuple[Any, ...]]:
        """As :meth:`put`, but for the row itself: what it is to be, and how :meth:`put_all` wants it."""
        seq = self.lineage.next_position()
        state = merged.state
        rank = state.rank
        vector = encode_vector(state.vector)
        key = key_hash(collection, document_id)
        after = None
        if merged.fields is not None:  # what else claims to be the _id is not
            after = {"_id": document_id, **merged.fields}
            after["_id"] = document_id
        if held is not None and held.buried:
            self.connection.execute("DELETE FROM graves WHERE key_hash = ?", (key,))
        json = None if after is None else _encode_json(after).decode()
        blobs = note_references(
            self.connection, collection, document_id, held.json if held is not None else None, json
        )
        # A peer is known to hold this version only if its change was all there is to it.
        whole = rank == change.rank and (state.vector is change.until or state.vector == change.until)
        before = held.document if held is not None else None
        self.commits.append(Commit(seq, change, before, after, source, whole, blobs=blobs))
        row = Row(seq, state, json, client_id, source if whole else None)
        return row, (
            seq,
            collection,
            document_id,
            json,
            *rank,
            vector,
            state.update,
            key,
            version_hash(key, rank, vector),
            client_id,
            row.source,
            self.now(),
            moved_clocks({} if held is None else held.state.vector, state.vector),
        )

    def drop(self, collection: str, document_id: str) -> Row | None:
        """Forget a document here, without a tombstone; what was held of it. That one was removed is not
        forgotten: a document written in its place would not outrank the removal."""
        held = self.get(collection, document_id)
        if held is None or held.json is None:
            return None
        self.connection.execute("DELETE FROM documents WHERE seq = ?", (held.seq,))
        blobs = note_references(self.connection, collection, document_id, held.json, None)
        seq = self.lineage.next_position()
        self.lineage.remember_position()
        state = held.state
        change = Change(collection, document_id, state.rank, {}, state.vector, state.update)
        self.commits.append(
            Commit(seq, change, held.document, None, None, whole=True, evicted=True, blobs=blobs)
        )
        self.lineage.evicted(state.vector)
        # What was evicted is not held any more up to any position of anybody's log.
        self.lineage.forget_positions()
        return held

    def state_of(self, row: Row | None) -> DocumentState:
        """The state in a row, or that of a document which does not exist."""
        return ABSENT if row is None else row.state

    def quarantine(self, change: Change, peer: str, reason: str) -> None:
        """Note a change that was refused, so that it is asked for again after an upgrade."""
        version = msgspec.msgpack.encode((change.rank, encode_vector(change.until)))
        self.connection.execute(
            "INSERT OR REPLACE INTO quarantine(collection, id, version, peer, reason, refused_by, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (change.collection, change.id, version, peer, reason, VERSION, self.now()),
        )
        self.connection.execute(
            "DELETE FROM quarantine WHERE rowid <= (SELECT max(rowid) FROM quarantine) - ?", (MAX_QUARANTINE,)
        )
        _log.warning("of what %s sent, refused %s/%s: %s", peer[:8], change.collection, change.id, reason)

    def retry_refused(self) -> None:
        """Ask every peer again for what another version of the mesh has refused: positions are forgotten, so
        that what is held is compared with what they hold."""
        retried = self.connection.execute("DELETE FROM quarantine WHERE refused_by <> ?", (VERSION,)).rowcount
        if retried:
            _log.info("%d changes that another version refused are asked for again", retried)
            self.lineage.forget_positions()


class Snapshot(Rows):
    """Rows as they were at one moment, to be read only. The lineage belongs to whoever writes: there is none
    here."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.connection = connection
        self.now = clock
        self.graves = False  # nobody reads a row for its grave
