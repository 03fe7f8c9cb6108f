"""Local writes, as jobs for the store: each is planned, ticked and stored in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mesh.core import document, records
from mesh.core.identity import Identity
from mesh.core.values import Registers, Writes, identical
from mesh.core.wire import Change
from mesh.errors import DocumentExists, DocumentNotFound
from mesh.storage import graves
from mesh.storage.rows import Row, Rows

Plan = Callable[[Registers], Writes]


def _addressed(change: Change, collection: str, document_id: str) -> Change:
    return Change(collection, document_id, change.rank, change.since, change.until, change.update)


def edit(rows: Rows, collection: str, document_id: str, plan: Plan, *, exists: bool | None = None) -> bool:
    """Carry out the writes that ``plan`` makes of the present registers; whether anything changed.

    Args:
        exists: ``True``: the document must be here; ``False``: it must not; ``None``: either will do.

    Raises:
        DocumentNotFound, DocumentExists: see ``exists``.
        DocumentTooLarge: nothing was written.
    """
    row = rows.get(collection, document_id)
    here = row is not None and row.json is not None
    if exists is True and not here:
        raise DocumentNotFound(collection, document_id)
    if exists is False and here:
        raise DocumentExists(collection, document_id)
    client_id = (row.client_id if row is not None and here else None) or rows.new_client_id()
    outcome = document.edit(
        rows.state_of(row), plan, tick=lambda: rows.tick(row), client_id=client_id, kept=rows.live
    )
    if outcome is None:
        return False
    change, merged = outcome
    rows.put(
        collection,
        document_id,
        row,
        _addressed(change, collection, document_id),
        merged,
        client_id=client_id,
    )
    return True


def remove(rows: Rows, collection: str, document_ids: Iterable[str]) -> int:
    """Remove documents; how many there were."""
    removed = 0
    for document_id in document_ids:
        row = rows.get(collection, document_id)
        if row is None or row.json is None:
            continue
        change, merged = document.remove(row.state, *rows.tick(row))
        rows.put(
            collection,
            document_id,
            row,
            _addressed(change, collection, document_id),
            merged,
            client_id=row.client_id,
        )
        removed += 1
    return removed


def write_record(
    rows: Rows, identity: Identity, collection: str, document_id: str, body: dict[str, Any]
) -> bool:
    """Write the next record of a document that this node owns; whether it says anything new.

    Raises:
        PermissionDenied: the document is another node's.
    """
    row = rows.get(collection, document_id)
    if row is not None and identical(row.document, {"_id": document_id, **body}):
        return False
    change, merged = records.sign(
        identity,
        collection,
        document_id,
        body,
        rows.state_of(row),
        *rows.tick(row),
        adopted=_adopted(row),
    )
    rows.put(collection, document_id, row, change, merged, client_id=records.CLIENT_ID)
    return True


def _adopted(row: Row | None) -> bool:
    """Whether the record held here was met at a peer: then it was written by another life of this node,
    which may have written more, and this one goes on in the next epoch."""
    return row is not None and row.client_id is None


def evict(rows: Rows, collection: str, document_ids: Iterable[str]) -> int:
    """Drop documents from this node only; how many there were."""
    evicted = 0
    for document_id in document_ids:
        held = rows.drop(collection, document_id)
        if held is not None:
            graves.remain(rows, collection, document_id, held)
            evicted += 1
    return evicted
