"""A damaged store: what can still be read, and proves itself, is carried over into a fresh one.

The fresh store has an identity of its own, so that peers bring back whatever is missing. The damaged file is
kept beside it.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import sqlite_utils

from mesh.core import document, records
from mesh.core.document import ABSENT
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.structs import UNREADABLE
from mesh.core.values import check_collection, check_id, identical
from mesh.core.versions import check_version, decode_vector, key_hash, version_hash
from mesh.core.wire import Change
from mesh.errors import MeshError
from mesh.storage import indexes
from mesh.storage.connection import make_shrinkable
from mesh.storage.lineage import boot_id, host_of
from mesh.storage.references import note_all_references
from mesh.storage.rows import Rows
from mesh.storage.schema import migrate

_log = logging.getLogger("mesh.storage")

_MAX_POSITION = 1 << 53

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 32

_MOST_MISSING = 1000
"""A file that says it was larger by this factor is not believed."""

_COPY = "-copy"
"""The end of the name of a copy that a store is rebuilt from."""

_COLUMNS = (
    "seq, collection, id, json, rank_major, rank_minor, vector, state, key_hash, version_hash, source, "
    "changed_at"
)


_OTHERS: dict[str, dict[str, type]] = {
    "graves": {
        "seq": int,
        "collection": str,
        "key_hash": int,
        "version_hash": int,
        "incarnation": int,
        "buried_at": float,
    },
    "quarantine": {
        "collection": str,
        "id": str,
        "version": bytes,
        "peer": str,
        "reason": str,
        "refused_by": str,
        "at": float,
    },
    "revocations": {"node_id": str, "fact": bytes},
}
"""What else is carried over, and of what types it is."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of a store that was damaged, or gone.

    Attributes:
        at: when it was rebuilt, in seconds since the epoch.
        reason: what was wrong with it.
        kept_as: where the damaged file is now; ``None``: there was none.
        documents: how many documents, removed ones included, were carried over.
        refused: how many could be read, but were not what had once been written.
    """

    at: float
    reason: str
    kept_as: Path | None
    documents: int
    refused: int


def rebuild(path: Path, reason: str, rng: random.Random, clock: Callable[[], float]) -> Rebuilt:
    """Replace the damaged store at ``path``, which nobody has open, by a fresh one with what it still tells.

    The damaged file is put aside as ``<name>.damaged-<time>``; until the fresh one is whole, it stays.

    Raises:
        sqlite3.Error, OSError: the fresh store cannot be written. Nothing has changed.
    """
    draft = path.with_name(path.name + ".rebuilding")
    _remove(draft)
    try:
        documents, refused = _carry_over(path, draft, rng, clock)
        aside = _put_aside(path, clock())
        os.replace(draft, path)
    finally:
        _remove(draft)
    rebuilt = Rebuilt(clock(), reason, aside, documents, refused)
    _log.error(
        "the store %s was damaged (%s): it has been rebuilt with %d documents that could be read, "
        "and starts a log of its own; what is missing comes back from peers that hold it, once it is "
        "subscribed to: see which subscriptions are left. The damaged file is kept as %s",
        path,
        reason,
        documents,
        aside,
    )
    return rebuilt


def begin_again(path: Path, clock: Callable[[], float]) -> Rebuilt:
    """Where a node has lived, nothing was at ``path``, or nothing in it: a fresh store has been made."""
    _log.error(
        "the store %s was gone or empty, though this node has run before: it begins again with no documents, "
        "no subscriptions and no indexes. What peers hold comes back once it is subscribed to; to have the "
        "rest, close the node and put a backup there",
        path,
    )
    return Rebuilt(clock(), "it was gone, or empty", None, 0, 0)


def _carry_over(path: Path, draft: Path, rng: random.Random, clock: Callable[[], float]) -> tuple[int, int]:
    fresh = sqlite3.connect(draft, isolation_level=None)
    try:
        fresh.execute("PRAGMA synchronous=FULL")
        make_shrinkable(fresh)
        migrate(sqlite_utils.Database(fresh, execute_plugins=False))
        rows = Rows(fresh, rng, clock, host_of(draft), boot_id())
        rows.lineage.forget_former()
        rows.close()
        damaged = _opened(path, draft)
        # What has become of text is for the checks to say.
        damaged.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            fresh.execute("BEGIN")
            documents = refused = 0
            insert = f"INSERT OR IGNORE INTO documents({_COLUMNS}) VALUES ({','.join('?' * 12)})"
            for row in _readable(damaged):
                if _proves_itself(row):
                    documents += fresh.execute(insert, row).rowcount
                else:
                    refused += 1
            for statement, other in _others(damaged):
                fresh.execute(statement, other)
            for subscription in _subscriptions(damaged):
                fresh.execute("INSERT OR IGNORE INTO subscriptions VALUES (?, ?, ?)", subscription)
            note_all_references(fresh)
            # Nothing new may stand where a grave does.
            fresh.execute("UPDATE store SET seq = max(seq, (SELECT coalesce(max(seq), 0) FROM graves))")
            for collection, fields in _indexes(damaged):
                indexes.create(rows, collection, fields)
            fresh.execute("COMMIT")
        finally:
            damaged.close()
    finally:
        fresh.close()
    return documents, refused


def _opened(path: Path, draft: Path) -> sqlite3.Connection:
    """The damaged file, to be read. One that was cut short, of which SQLite would read nothing, is read as a
    copy with zeros in place of what is missing."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    page_bytes = int.from_bytes(header[16:18]) or 1
    whole = int.from_bytes(header[28:32]) * (1 << 16 if page_bytes == 1 else page_bytes)
    size = path.stat().st_size
    if header.startswith(_MAGIC) and size < whole <= size * _MOST_MISSING:
        copy = draft.with_name(draft.name + _COPY)
        log = path.with_name(path.name + "-wal")
        if log.exists():
            shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
        shutil.copyfile(path, copy)
        os.truncate(copy, whole)
        path = copy
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def _readable(damaged: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Every row of the documents that can be read, in no order.

    Where reading forwards meets damage, it goes on at the next place that can be read, and from there
    backwards up to the damage.
    """
    last = -1
    while True:
        reading = _read(damaged, f"SELECT {_COLUMNS} FROM documents WHERE seq > ? ORDER BY seq", last)
        for row in reading:
            if row is None:
                break
            last = row[0]
            yield row
        else:
            return
        beyond = _beyond(damaged, last)
        if beyond is None:
            return
        backwards = f"SELECT {_COLUMNS} FROM documents WHERE seq > ? AND seq < ? ORDER BY seq DESC"
        for row in _read(damaged, backwards, last, beyond):
            if row is None:
                break
            yield row
        last = beyond - 1


def _beyond(damaged: sqlite3.Connection, last: int) -> int | None:
    """A position beyond ``last`` and the damage after it that can be read."""
    step = 1
    while step < _MAX_POSITION:
        # All columns: a row may begin on a sound page and go on elsewhere.
        query = f"SELECT {_COLUMNS} FROM documents WHERE seq > ? ORDER BY seq LIMIT 1"
        for row in _read(damaged, query, last + step):
            if row is not None:
                return int(row[0])
        step *= 2
    return None


def _subscriptions(damaged: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    for row in _read(damaged, "SELECT name, collection, selector FROM subscriptions"):
        if row is None:
            return
        try:
            name, collection, selector = row
            check_collection(collection)
            msgspec.json.decode(selector, type=dict[str, Any])
        except (MeshError, TypeError, *UNREADABLE):
            continue
        if isinstance(name, str):
            yield row


def _others(damaged: sqlite3.Connection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Graves, refused changes and revocations: statements, and rows for them."""
    for table, types in _OTHERS.items():
        columns = ", ".join(types)
        insert = f"INSERT OR IGNORE INTO {table}({columns}) VALUES ({', '.join('?' * len(types))})"
        for row in _read(damaged, f"SELECT {columns} FROM {table}"):
            if row is None:
                break
            if all(map(isinstance, row, types.values())):
                yield insert, row


def _indexes(damaged: sqlite3.Connection) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The indexes that were declared."""
    for row in _read(damaged, "SELECT name FROM sqlite_master WHERE type = 'index' AND instr(name, '[') > 0"):
        if row is None:
            return
        collection, _, fields = str(row[0]).partition("[")
        try:
            check_collection(collection)
            yield collection, indexes.check_fields(msgspec.json.decode("[" + fields, type=list[str]))
        except (MeshError, msgspec.MsgspecError):
            continue


def _read(damaged: sqlite3.Connection, query: str, *parameters: int) -> Iterator[tuple[Any, ...] | None]:
    """The rows of a query, then ``None`` if damage ends it."""
    try:
        yield from damaged.execute(query, parameters)
    except (sqlite3.Error, OverflowError):
        yield None


def _proves_itself(row: tuple[Any, ...]) -> bool:
    """Whether a row says in its state what it says as JSON, and its hashes are right."""
    _, collection, document_id, json, major, minor, encoded, state, key, version, source, changed_at = row
    try:
        check_collection(collection)
        check_id(document_id)
        rank, vector = (major, minor), decode_vector(encoded)
        check_version(rank, vector)
        if key != key_hash(collection, document_id) or version != version_hash(key, rank, encoded):
            return False
        if not isinstance(source, str | None) or not isinstance(changed_at, float | int):
            return False
        change = Change(collection, document_id, rank, {}, vector, state)
        if collection in OWNED_COLLECTIONS:
            held = records.arrive(ABSENT, change)
        else:
            merged = document.arrive(ABSENT, change)
            held = None if isinstance(merged, str) else merged
        if held is None or held.fields is None:
            return held is not None and json is None
        says = msgspec.json.decode(json, type=dict[str, Any])
        return identical(says, {**held.fields, "_id": document_id})
    except (MeshError, msgspec.MsgspecError, TypeError, ValueError, OverflowError):
        return False


def _put_aside(path: Path, now: float) -> Path:
    """Give the damaged file a second name, and its log the name that belongs to it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    number = 1
    while True:
        aside = path.with_name(f"{path.name}.damaged-{stamp}" + (f"-{number}" if number > 1 else ""))
        try:
            os.link(path, aside)
            break
        except FileExistsError:
            number += 1
    log = path.with_name(path.name + "-wal")
    if log.exists():  # of another file it must not become the log
        log.rename(aside.with_name(aside.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    return aside


def _remove(draft: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm", _COPY, f"{_COPY}-wal", f"{_COPY}-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
