"""The raw reference: what SQLite, JSON and pycrdt do with the same documents, and nothing else.

One row per document: its CRDT state, the same as JSON, a digest of the state, and the position of its
last change.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pycrdt

Record = tuple[str, bytes]
"""The ``_id`` of a document, and an update of it."""

BUCKETS = 256


class RawStore:
    """The documents of one peer."""

    def __init__(self, folder: str, synchronous: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(f"{folder}/raw.sqlite", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS documents"
            "(id TEXT PRIMARY KEY, seq INTEGER, digest INTEGER, state BLOB, json TEXT) WITHOUT ROWID"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS by_seq ON documents(seq)")
        self._db.execute("CREATE TABLE IF NOT EXISTS log(seq INTEGER PRIMARY KEY, id TEXT, change BLOB)")
        self.position: int = self._db.execute("SELECT ifnull(max(seq), 0) FROM documents").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def put(self, rows: Iterable[tuple[str, bytes, dict[str, Any]]]) -> None:
        """Store states and what they say, in one commit."""
        values = []
        for name, state, fields in rows:
            self.position += 1
            digest = hashlib.blake2b(state, digest_size=8).digest()
            values.append(
                (
                    name,
                    self.position,
                    int.from_bytes(digest, "big", signed=True),
                    state,
                    json.dumps(fields, separators=(",", ":")),
                )
            )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)", values)
        self._db.execute("COMMIT")

    def log(self, records: Iterable[Record]) -> None:
        """Keep changes as they are, in one commit."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO log(id, change) VALUES (?, ?)", records)
        self._db.execute("COMMIT")

    def logged(self) -> list[Record]:
        """All of these changes."""
        return self._db.execute("SELECT id, change FROM log ORDER BY seq").fetchall()

    def merge(self, records: list[Record], *, strangers: bool) -> None:
        """Merge updates into what is here; ``strangers``: none of the documents is."""
        rows = []
        for name, update in records:
            held = None if strangers else self.state(name)
            document = load(held) if held is not None else pycrdt.Doc()
            root = document.get("doc", type=pycrdt.Map)
            document.apply_update(update)
            rows.append((name, update if held is None else document.get_update(), root.to_py() or {}))
        self.put(rows)

    def state(self, name: str) -> bytes | None:
        """The state of a document."""
        row = self._db.execute("SELECT state FROM documents WHERE id = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def records(self, names: Iterable[str]) -> list[Record]:
        """These documents, whole."""
        return [(name, state) for name in names if (state := self.state(name)) is not None]

    def since(self, position: int, page: int) -> Iterable[list[Record]]:
        """What has changed after a position, in pages."""
        cursor = self._db.execute("SELECT id, state FROM documents WHERE seq > ? ORDER BY seq", (position,))
        while rows := cursor.fetchmany(page):
            yield rows

    def buckets(self) -> tuple[list[int], list[dict[str, int]]]:
        """The documents in buckets by their ids: the exclusive or of each one's digests, and its content."""
        sums = [0] * BUCKETS
        members: list[dict[str, int]] = [{} for _ in range(BUCKETS)]
        for name, digest in self._db.execute("SELECT id, digest FROM documents"):
            bucket = zlib.crc32(name.encode()) % BUCKETS
            sums[bucket] ^= digest
            members[bucket][name] = digest
        return sums, members

    def fields(self, name: str) -> dict[str, Any] | None:
        """What a document says."""
        row = self._db.execute("SELECT json FROM documents WHERE id = ?", (name,)).fetchone()
        found: dict[str, Any] | None = None if row is None else json.loads(row[0])
        return found

    def count(self) -> int:
        """How many documents there are."""
        found: int = self._db.execute("SELECT count(*) FROM documents").fetchone()[0]
        return found

    def index(self, field: str) -> None:
        """Make queries for one field fast."""
        self._db.execute(
            f"CREATE INDEX IF NOT EXISTS by_{field} ON documents(json_extract(json, '$.{field}'))"
        )

    def find(self, field: str, value: Any) -> list[dict[str, Any]]:
        """What says ``value`` there."""
        query = f"SELECT json FROM documents WHERE json_extract(json, '$.{field}') = ?"
        return [json.loads(row[0]) for row in self._db.execute(query, (value,))]


def make(fields: dict[str, Any]) -> pycrdt.Doc[Any]:
    """A document with these fields."""
    document: pycrdt.Doc[Any] = pycrdt.Doc()
    root = document.get("doc", type=pycrdt.Map)
    with document.transaction():
        for key, value in fields.items():
            root[key] = value
    return document


def load(state: bytes) -> pycrdt.Doc[Any]:
    """A document of which this is the state."""
    document: pycrdt.Doc[Any] = pycrdt.Doc()
    document.get("doc", type=pycrdt.Map)
    document.apply_update(state)
    return document
