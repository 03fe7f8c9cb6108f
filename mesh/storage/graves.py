"""Graves: what is left of tombstones that have lived their time.

A grave says that a document, named by its hash, has been removed in an incarnation. It stands where the
tombstone stood in the log and in comparisons, so it travels as that did; and it refuses what would bring the
document back. A tombstone's age counts from its arrival, a grave's from the burial, by this node's clock: a
removal of its own that a node has slept over is told of by a grave.

Who sleeps longer than the others keep their graves still holds what they have removed, and brings it back
when it changes it, or when the stores are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mesh.core import document
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.wire import Change, Grave
from mesh.storage.rows import Rows

TOMBSTONE_SECONDS = 30 * 86_400.0
"""How old a tombstone gets."""

GRAVE_SECONDS = 365 * 86_400.0
"""How long a grave is kept after the burial."""

BATCH = 500
"""Tombstones, or graves, of one job."""

SHRINK_PAGES = 256
"""Pages of the file that are given back in one go: others write in between."""

FREE_SHARE = 16
"""Of so many pages one may stay free, for what is written next."""

_COLUMNS = "collection, key_hash, version_hash, incarnation, buried_at"
_OWNED = ", ".join(f"'{collection}'" for collection in sorted(OWNED_COLLECTIONS))


# --- ageing -----------------------------------------------------------------------------------


def bury(rows: Rows, now: float) -> bool:
    """Shrink tombstones, and drop graves, that are too old; whether there may be more of them."""
    execute = rows.connection.execute
    found = execute(
        "SELECT seq, collection, key_hash, version_hash, rank_major, ? FROM documents "
        f"WHERE json IS NULL AND changed_at <= ? AND collection NOT IN ({_OWNED}) "
        "ORDER BY changed_at LIMIT ?",
        (now, now - TOMBSTONE_SECONDS, BATCH),
    ).fetchall()
    if found:
        rows.connection.executemany(
            f"INSERT OR REPLACE INTO graves(seq, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", found
        )
        rows.connection.executemany("DELETE FROM documents WHERE seq = ?", [(row[0],) for row in found])
        rows.lineage.remember_position()
        rows.graves = True
    dropped = execute(
        "DELETE FROM graves WHERE seq IN (SELECT seq FROM graves WHERE buried_at <= ? LIMIT ?)",
        (now - GRAVE_SECONDS, BATCH),
    ).rowcount
    return BATCH in (len(found), dropped)


def shrink(rows: Rows) -> bool:
    """Give free pages back to the file system; whether there are more of them."""

    def pragma(name: str) -> int:
        (value,) = rows.connection.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    spare = pragma("freelist_count") - pragma("page_count") // FREE_SHARE
    if spare <= 0:
        return False
    for _ in range(min(spare, SHRINK_PAGES)):
        rows.connection.execute("PRAGMA incremental_vacuum(1)")  # sqlite3 takes one step of it, however many
    return spare > SHRINK_PAGES


# --- travelling -------------------------------------------------------------------------------


def meet(rows: Rows, peer: str, graves: Sequence[Grave]) -> None:
    """A peer tells of graves: what is held under them is removed, and where nothing is known they are kept,
    so that what is inserted here under the same id starts the next incarnation."""
    if not graves:
        return
    known = _find(rows, "seq, incarnation, version_hash FROM graves", graves)
    held = _find(rows, "collection, id FROM documents", graves)
    for grave in graves:
        if grave.key in held:
            collection, document_id = held[grave.key]
            _remove(rows, peer, collection, document_id, grave.incarnation)
            continue
        seq, incarnation, version = known.get(grave.key, (0, -1, 0))
        if (incarnation, version) >= (grave.incarnation, grave.version):
            continue
        if incarnation < grave.incarnation:
            seq = rows.lineage.next_position()
            rows.lineage.remember_position()
        # Of two removals of one incarnation everybody keeps the same: nobody finds a difference for ever.
        rows.connection.execute("DELETE FROM graves WHERE key_hash = ?", (grave.key,))
        rows.connection.execute(
            f"INSERT INTO graves(seq, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            (seq, grave.collection, grave.key, grave.version, grave.incarnation, rows.now() - grave.age),
        )
        rows.graves = True


def read(
    rows: Rows, where: str, parameters: Sequence[str], after: int, until: int, limit: int
) -> list[tuple[int, Grave]]:
    """The graves, of collections given as an SQL condition, that stand after a position of the log and up to
    another, with theirs."""
    now = rows.now()
    return [
        (seq, Grave(collection, key, version, incarnation, max(0, int(now - buried_at))))
        for seq, collection, key, version, incarnation, buried_at in rows.connection.execute(
            f"SELECT seq, {_COLUMNS} FROM graves WHERE seq > ? AND seq <= ? AND {where} ORDER BY seq LIMIT ?",
            (after, until, *parameters, limit),
        )
    ]


def _remove(rows: Rows, peer: str, collection: str, document_id: str, incarnation: int) -> None:
    row = rows.get(collection, document_id)
    grave = document.buried(incarnation)
    if row is None or row.state.rank >= grave.rank:
        return
    change = Change(collection, document_id, grave.rank, {}, row.state.vector, grave.update)
    removed = document.arrive(row.state, change)
    assert not isinstance(removed, str)
    rows.put(collection, document_id, row, change, removed, source=peer, client_id=None)


def _find(rows: Rows, what: str, graves: Sequence[Grave]) -> dict[int, list[Any]]:
    """Some columns of what is held under the keys of graves, by the key."""
    keys = msgspec.json.encode([grave.key for grave in graves]).decode()
    found = rows.connection.execute(
        f"SELECT key_hash, {what} WHERE key_hash IN (SELECT value FROM json_each(?))", (keys,)
    )
    return {key: columns for key, *columns in found}
