"""Which documents refer to which blobs: a table beside the documents, written in the same commits.

What becomes of a document without a token costs two searches of a text; and whether a blob is referred to is
a look into an index, however many documents there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from mesh.core.references import TOKEN_MARK, referred_blobs

if TYPE_CHECKING:
    from mesh.storage.rows import Rows

_HASHES_PER_QUERY = 500

_decode_json = msgspec.json.Decoder().decode


def note_references(
    connection: sqlite3.Connection, collection: str, document_id: str, before: str | None, after: str | None
) -> frozenset[str]:
    """Bring the table in line with a document whose JSON was ``before`` and is ``after`` (``None``: it is
    not there); the blobs that it refers to no more, or newly."""
    old, new = _blobs_in(before), _blobs_in(after)
    if old == new:
        return old - new
    for statement, hashes in (
        ("DELETE FROM blob_references WHERE hash = ? AND collection = ? AND id = ?", old - new),
        ("INSERT OR IGNORE INTO blob_references(hash, collection, id) VALUES (?, ?, ?)", new - old),
    ):
        connection.executemany(statement, [(hash, collection, document_id) for hash in sorted(hashes)])
    return old ^ new


def note_all_references(connection: sqlite3.Connection) -> None:
    """Fill the table from the documents, for a store that has none yet."""
    found = connection.execute(
        "SELECT collection, id, json FROM documents WHERE instr(json, ?) > 0", (TOKEN_MARK,)
    )
    for collection, document_id, json in found.fetchall():
        note_references(connection, collection, document_id, None, json)


def referred(rows: Rows, hashes: Collection[str], *, besides: str) -> set[str]:
    """Which of these blobs are referred to by documents of any collection but ``besides``."""
    wanted = list(hashes)
    found: set[str] = set()
    for start in range(0, len(wanted), _HASHES_PER_QUERY):
        some = wanted[start : start + _HASHES_PER_QUERY]
        query = (
            f"SELECT DISTINCT hash FROM blob_references WHERE hash IN ({','.join('?' * len(some))}) "
            "AND collection <> ?"
        )
        found.update(hash for (hash,) in rows.connection.execute(query, (*some, besides)))
    return found


def referring(rows: Rows, hash: str) -> tuple[set[str], list[str]]:
    """The collections with documents that refer to a blob, and the ids of some distributions that do."""
    execute = rows.connection.execute
    collections = execute("SELECT DISTINCT collection FROM blob_references WHERE hash = ?", (hash,))
    distributions = execute(
        "SELECT id FROM blob_references WHERE hash = ? AND collection = 'distributions' LIMIT ?",
        (hash, _HASHES_PER_QUERY),
    )
    return {name for (name,) in collections}, [id for (id,) in distributions]


def _blobs_in(json: str | None) -> frozenset[str]:
    if json is None or TOKEN_MARK not in json:
        return frozenset()
    return frozenset(referred_blobs(_decode_json(json)))
