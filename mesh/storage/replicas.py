"""What a sync session asks of the store, as jobs: apply frames, read the log, compare, remember positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from mesh.core import document, library, records
from mesh.core.access import Only
from mesh.core.commits import PAGE_BYTES, SMALL_DOCUMENT_BYTES, Found, LogEntry, change_size
from mesh.core.interest import InterestSet, entry_digest
from mesh.core.reconcile import KeySet
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.sync_effects import Standing
from mesh.core.values import check_collection, check_id
from mesh.core.versions import check_version, covers, decode_vector
from mesh.core.wire import Change, Changes, Grave, InterestEntry, Version, Want
from mesh.errors import InvalidCollectionName, InvalidDocument, PermissionDenied
from mesh.storage import graves, restored
from mesh.storage.queries import BY_ID
from mesh.storage.rows import Row, Rows

SCANNED_SHARE = 8
"""Reading a row out of order costs about as much as passing over so many."""

FEW_DOCUMENTS = 20_000
"""Of more documents, the positions are not looked up for every page."""

MAX_PASSED = 50_000
"""Positions of the log that one page is read along: other reads wait for that."""

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


# --- arriving ---------------------------------------------------------------------------------


def apply_frame(rows: Rows, peer: str, frame: Changes) -> list[Want]:
    """Store what a frame brings; what of it is lacking is returned, to be asked for.

    A change that is refused is put into quarantine with the reason, and the rest goes on.
    """
    lies = {id(change) for change in frame.changes if restored.meet(rows, change.until)}
    graves.meet(rows, peer, frame.graves)
    wants: dict[tuple[str, str], Want] = {}
    held = _read_rows(rows, frame.changes)
    written: dict[tuple[str, str], tuple[Any, ...]] = {}
    for change in frame.changes:
        key = (change.collection, change.id)
        row = held.get(key)
        wants.pop(key, None)  # what was lacking may have come since
        try:
            if id(change) in lies:
                raise InvalidDocument("it knows of writes of this store that were never made")
            arrived = _arrive(rows, peer, row, change)
        except (InvalidDocument, InvalidCollectionName, PermissionDenied) as error:
            rows.refused += isinstance(error, PermissionDenied)
            rows.quarantine(change, peer, str(error))
            continue
        if arrived == "lacking":
            wants[key] = _want(row, *key)
        elif arrived is not None:
            held[key], written[key] = arrived
    rows.put_all(written.values())
    for version in frame.offers:
        row = rows.get(version.collection, version.id)
        if not _holds(row, version):
            wants[version.collection, version.id] = _want(row, version.collection, version.id)
    for version in frame.notices:
        row = rows.get(version.collection, version.id)
        outdated = row is not None and row.buried and version.rank > row.state.rank
        if row is not None and not outdated and not _holds(row, version):
            wants[version.collection, version.id] = _want(row, version.collection, version.id)
    return list(wants.values())


def _read_rows(rows: Rows, changes: Sequence[Change]) -> dict[tuple[str, str], Row]:
    """The rows of what changes, read together if there are several."""
    if len(changes) == 1:
        key = (changes[0].collection, changes[0].id)
        row = rows.get(*key)
        return {} if row is None else {key: row}
    changing: dict[str, dict[str, None]] = {}
    for change in changes:
        changing.setdefault(change.collection, {})[change.id] = None
    return {
        (collection, document_id): row
        for collection, ids in changing.items()
        for document_id, row in rows.get_all(collection, list(ids)).items()
    }


def _arrive(
    rows: Rows, peer: str | None, row: Row | None, change: Change
) -> tuple[Row, tuple[Any, ...]] | Literal["lacking"] | None:
    """Prepare what one change makes of a document: ``None`` if nothing, ``"lacking"`` if it builds on what is
    not held here."""
    check_collection(change.collection)
    check_id(change.id)
    check_version(change.rank, change.until)
    held = rows.state_of(row)
    client_id = row.client_id if row is not None else None
    if change.collection in OWNED_COLLECTIONS:
        record = records.arrive(held, change, rows.membership)
        if record is None:
            return None
        state = record.state
        if state.update != held.update:
            client_id = None  # not written here
        # What was verified is passed on, not how it came.
        change = Change(change.collection, change.id, state.rank, {}, state.vector, state.update)
        return rows.prepare(
            change.collection, change.id, row, change, record, source=peer, client_id=client_id
        )
    buried = row is not None and row.buried
    if buried and change.rank == held.rank:
        return None  # its tombstone has not lived its time there
    outcome = document.arrive(held, change, rows.live)
    if outcome == "lacking":
        return "lacking"
    if outcome == "held":
        return None
    if buried and outcome.state.rank == held.rank:
        # Whoever holds it has slept through its removal: that becomes news again, for the peer as well.
        state, peer = outcome.state, None
        change = Change(change.collection, change.id, state.rank, {}, state.vector, state.update)
    check_version(outcome.state.rank, outcome.state.vector)
    return rows.prepare(change.collection, change.id, row, change, outcome, source=peer, client_id=client_id)


def _holds(row: Row | None, version: Version) -> bool:
    if row is None or row.buried:
        return row is not None and row.state.rank == version.rank
    return row.state.rank >= version.rank and covers(row.state.vector, version.vector)


def _want(row: Row | None, collection: str, document_id: str) -> Want:
    if row is None or collection in OWNED_COLLECTIONS:
        return Want(collection, document_id, document.NEVER, {}, b"\0")
    state = row.state
    return Want(collection, document_id, state.rank, state.vector, library.state_vector(state.update))


# --- serving ----------------------------------------------------------------------------------


def read_log(
    rows: Rows, peer: str, after: int, until: int, limit: int, interest: InterestSet
) -> tuple[list[LogEntry], int, list[Grave]]:
    """Up to ``limit`` documents of the interest's collections that last changed after position ``after`` and
    up to ``until``, but for those that are as ``peer`` sent them; the position up to which the log has been
    read for them; and the graves up to there. They may be fewer, so that they have about ``PAGE_BYTES``."""
    entries, upto = _read_documents(rows, peer, after, until, limit, interest)
    found = graves.read(rows, *_in_collections(interest), after, upto, limit)
    if len(found) == limit:
        upto = found[-1][0]
        entries = [entry for entry in entries if entry.seq <= upto]
    return entries, upto, [grave for _, grave in found]


def _read_documents(
    rows: Rows, peer: str, after: int, until: int, limit: int, interest: InterestSet
) -> tuple[list[LogEntry], int]:
    where, parameters = _in_collections(interest)
    there = f"seq > ? AND seq <= ? AND {where}"
    if _are_few(rows, interest, min((until - after) // SCANNED_SHARE, FEW_DOCUMENTS)):
        there = f"seq IN (SELECT seq FROM documents INDEXED BY {BY_ID} WHERE {there})"
    else:
        until = min(until, after + MAX_PASSED)
    found = rows.connection.execute(
        "SELECT seq, collection, id, rank_major, rank_minor, vector, json, "
        f"CASE WHEN length(state) <= {SMALL_DOCUMENT_BYTES} THEN state END "
        f"FROM documents NOT INDEXED WHERE {there} AND source IS NOT ? ORDER BY seq LIMIT ?",
        (after, until, *parameters, peer, limit),
    )
    entries: list[LogEntry] = []
    size = 0
    for seq, collection, document_id, major, minor, encoded, json, state in found:
        version = Version(collection, document_id, (major, minor), decode_vector(encoded))
        change = None
        if state is not None:
            change = Change(collection, document_id, version.rank, {}, version.vector, state)
        # Only a selector looks at the fields.
        selective = json is not None and interest.partial(collection)
        entries.append(LogEntry(seq, version, change, _decode_json(json) if selective else None))
        size += len(state or b"") + len(encoded)
        if size >= PAGE_BYTES:
            return entries, seq
    return entries, entries[-1].seq if len(entries) == limit else until


def _are_few(rows: Rows, interest: InterestSet, most: int) -> bool:
    """Whether documents of these collections are to be looked up one by one, as there are at most so many. In
    the order of the index, each is on another page; left to itself, SQLite always takes that."""
    if not most or interest.everything:
        return False
    where, parameters = _in_collections(interest)
    more = rows.connection.execute(
        f"SELECT 1 FROM documents INDEXED BY {BY_ID} WHERE {where} LIMIT 1 OFFSET ?", (*parameters, most)
    )
    return not more.fetchall()


def read_wanted(rows: Rows, wants: Sequence[Want], positions: Sequence[int]) -> Found:
    """The changes that answer ``wants`` and those that stand at ``positions`` of the log, up to about
    ``PAGE_BYTES`` of them."""
    changes: list[Change] = []
    offers: list[Version] = []
    gone: list[tuple[str, str]] = []
    buried: list[Grave] = []
    size = 0
    for done, want in enumerate(wants):
        if size >= PAGE_BYTES:
            return Found(changes, offers, gone, done)  # positions come last
        row = rows.get(want.collection, want.id)
        if row is None or row.buried:
            gone.append((want.collection, want.id))
            continue
        state = row.state
        since, update = {}, state.update
        if want.rank == state.rank and want.vector and want.collection not in OWNED_COLLECTIONS:
            since, update = want.vector, library.difference(state.update, want.state_vector)
        changes.append(Change(want.collection, want.id, state.rank, since, state.vector, update))
        size += change_size(changes[-1])
    for done, position in enumerate(positions):
        if size >= PAGE_BYTES:
            return Found(changes, offers, gone, len(wants) + done, buried)
        found = rows.connection.execute(
            "SELECT collection, id, rank_major, rank_minor, vector, "
            f"CASE WHEN length(state) <= {SMALL_DOCUMENT_BYTES} THEN state END FROM documents WHERE seq = ?",
            (position,),
        ).fetchone()
        if found is not None:
            collection, document_id, major, minor, encoded, update = found
            version = Version(collection, document_id, (major, minor), decode_vector(encoded))
            if update is None:
                offers.append(version)
                continue
            changes.append(Change(collection, document_id, version.rank, {}, version.vector, update))
            size += change_size(changes[-1])
        else:
            buried += [grave for _, grave in graves.read(rows, "1", [], position - 1, position, 1)]
    return Found(changes, offers, gone, len(wants) + len(positions), buried)


def key_set(rows: Rows, interest: InterestSet) -> KeySet:
    """Everything held of ``interest``, ready for comparison."""
    where, parameters = _in_collections(interest)
    execute = rows.connection.execute
    columns = "key_hash, version_hash, seq"
    buried = execute(f"SELECT {columns} FROM graves WHERE {where}", parameters).fetchall()
    [(held,)] = execute("SELECT count(*) FROM documents").fetchall()
    documents = "documents" if _are_few(rows, interest, held // SCANNED_SHARE) else "documents NOT INDEXED"
    if not interest.selective:
        found = execute(f"SELECT {columns} FROM {documents} WHERE {where} ORDER BY key_hash", parameters)
        return KeySet(sorted([*found, *buried]) if buried else found)
    matching: list[tuple[int, int, int]] = buried
    others: list[tuple[int, int]] = []
    for key, version, seq, collection, json in execute(
        f"SELECT {columns}, collection, json FROM {documents} WHERE {where}", parameters
    ):
        if not interest.partial(collection) or interest.matches(
            collection, None if json is None else _decode_json(json)
        ):
            matching.append((key, version, seq))
        else:
            others.append((key, seq))
    matching.sort()
    return KeySet(matching, others)


def _in_collections(interest: InterestSet) -> tuple[str, list[str]]:
    """An SQL condition, and its parameters, for the collections that an interest is about."""
    if interest.everything:
        return _permitted(interest.only)
    collections = sorted(interest.collections)
    return f"collection IN ({','.join('?' * len(collections))})", collections


def _permitted(only: Only) -> tuple[str, list[str]]:
    if not only:
        return "1", []
    owned = sorted(OWNED_COLLECTIONS)
    lists = [" OR ".join(["collection GLOB ?"] * len(patterns)) or "0" for patterns in sorted(only)]
    where = " AND ".join(f"({patterns})" for patterns in lists)
    parameters = [pattern for patterns in sorted(only) for pattern in patterns]
    return f"(collection IN ({','.join('?' * len(owned))}) OR ({where}))", [*owned, *parameters]


# --- positions --------------------------------------------------------------------------------


def read_standings(rows: Rows, peer: str, entries: Iterable[InterestEntry]) -> list[Standing]:
    """Where this node stands with ``entries`` in the log of ``peer``, grouped by equal standing.

    Whether anything is held of one matters only without a position in the log: entries that have reached the
    same one are resumed together, empty or not.
    """
    groups: dict[tuple[bytes, int, bool], list[InterestEntry]] = {}
    for entry in entries:
        found = rows.connection.execute(
            "SELECT log_id, upto FROM positions WHERE peer = ? AND entry = ?", (peer, entry_digest(entry))
        ).fetchone()
        log_id, upto = found or (b"", 0)
        empty = not upto and _is_empty(rows, entry)
        groups.setdefault((log_id, upto, empty), []).append(entry)
    return [Standing(log_id, upto, empty, group) for (log_id, upto, empty), group in groups.items()]


def _is_empty(rows: Rows, entry: InterestEntry) -> bool:
    where, parameters = _in_collections(InterestSet([entry]))
    return not rows.connection.execute(
        f"SELECT 1 FROM documents WHERE {where} LIMIT 1", parameters
    ).fetchall()


def save_position(rows: Rows, peer: str, log_id: bytes, entries: Iterable[bytes], upto: int) -> None:
    """Remember that everything of ``entries`` up to ``upto`` in the log ``log_id`` of ``peer`` is held."""
    rows.connection.executemany(
        "INSERT OR REPLACE INTO positions(peer, entry, log_id, upto) VALUES (?, ?, ?, ?)",
        [(peer, entry, log_id, upto) for entry in entries],
    )
