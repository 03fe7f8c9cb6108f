"""Local writes, as jobs for the store: each is planned, ticked and stored in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec

from mesh.core import document, records
from mesh.core.document import Merged
from mesh.core.identity import Identity
from mesh.core.plans import Writes
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.registers import Registers
from mesh.core.values import identical
from mesh.core.wire import Change
from mesh.errors import DocumentExists, DocumentNotFound
from mesh.storage import shares
from mesh.storage.connection import Outcome
from mesh.storage.rows import Row, Rows

_CHANGED: Outcome = (True, None)
_UNCHANGED: Outcome = (False, None)


class Edit(msgspec.Struct, frozen=True, gc=False):
    """A job: carry out the writes that ``plan`` makes of the present registers and ``wanted``; whether
    anything changed. Many of them read and write their rows together.

    ``exists``: ``True``: the document must be here; ``False``: it must not; ``None``: either will do.

    Raises:
        DocumentNotFound, DocumentExists: see ``exists``.
        DocumentTooLarge: nothing was written.
    """

    collection: str
    document_id: str
    plan: Callable[..., Writes]
    wanted: Any
    exists: bool | None = None

    brief: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> bool:
        row = rows.get(self.collection, self.document_id)
        edited = self._edited(rows, row)
        if edited is None:
            return False
        change, merged, client_id = edited
        rows.put(self.collection, self.document_id, row, change, merged, client_id=client_id)
        return True

    def planned(self, rows: Rows, row: Row | None, held: Registers) -> Writes:
        """The writes, if the document is the one in ``row`` and has the registers ``held``."""
        return self.plan(held, self.wanted)

    def _edited(self, rows: Rows, row: Row | None) -> tuple[Change, Merged, int] | None:
        """What is to be stored, and the client id it was written under; ``None`` if nothing changes."""
        here = row is not None and row.json is not None
        if self.exists is True and not here:
            raise DocumentNotFound(self.collection, self.document_id)
        if self.exists is False and here:
            raise DocumentExists(self.collection, self.document_id)
        client_id = (row.client_id if row is not None and here else None) or rows.new_client_id()
        outcome = document.edit(
            rows.state_of(row),
            lambda held: self.planned(rows, row, held),
            tick=lambda: rows.tick(row),
            client_id=client_id,
            kept=rows.live,
            name=(self.collection, self.document_id),
        )
        return None if outcome is None else (*outcome, client_id)

    @staticmethod
    def together(rows: Rows, edits: list[Edit]) -> list[Outcome]:
        """See :data:`~mesh.storage.connection.Job`."""
        wanted: dict[str, dict[str, None]] = {}
        for one in edits:
            wanted.setdefault(one.collection, {})[one.document_id] = None
        held: dict[tuple[str, str], Row] = {}
        for collection, ids in wanted.items():
            held.update(((collection, id), row) for id, row in rows.get_all(collection, list(ids)).items())
        outcomes: list[Outcome] = []
        prepared: dict[tuple[str, str], tuple[Any, ...]] = {}
        for one in edits:
            key = collection, document_id = one.collection, one.document_id
            row = held.get(key)
            try:
                edited = one._edited(rows, row)
            except Exception as error:  # noqa: BLE001 - it is raised where the edit was asked for
                outcomes.append((None, error))
                continue
            if edited is None:
                outcomes.append(_UNCHANGED)
                continue
            change, merged, client_id = edited
            held[key], prepared[key] = rows.prepare(
                collection, document_id, row, change, merged, client_id=client_id
            )
            outcomes.append(_CHANGED)
        rows.put_all(prepared.values())
        return outcomes


class Increment(Edit, frozen=True, gc=False):
    """An :class:`Edit` whose plan is also given the clock identity under which the document is written."""

    def planned(self, rows: Rows, row: Row | None, held: Registers) -> Writes:
        writes = self.plan(held, *self.wanted, rows.tick(row)[0].hex())
        assert row is not None, "nothing is incremented that is not here"
        for share in writes.sets:
            shares.note(rows, self.collection, self.document_id, row, share, held.get(share, 0))
        return writes


def remove(rows: Rows, collection: str, document_ids: Iterable[str]) -> int:
    """Remove documents; how many there were."""
    removed = 0
    for document_id in document_ids:
        row = rows.get(collection, document_id)
        if row is None or row.json is None:
            continue
        change, merged = document.remove(row.state, *rows.tick(row), name=(collection, document_id))
        rows.put(collection, document_id, row, change, merged, client_id=row.client_id)
        removed += 1
    return removed


def write_record(
    rows: Rows, identity: Identity, collection: str, document_id: str, body: dict[str, Any]
) -> bool:
    """Write the next record of a document that this node owns; whether it says anything new.

    Raises:
        PermissionDenied: the document is another node's, or the certificate does not allow that.
    """
    row = rows.get(collection, document_id)
    said = row is not None and identical(row.document, {"_id": document_id, **body})
    if said and (rows.membership is None or records.stands(rows.state_of(row).update, rows.membership)):
        return False
    change, merged = records.sign(
        identity,
        collection,
        document_id,
        body,
        rows.state_of(row),
        *rows.tick(row),
        adopted=_adopted(row),
        membership=rows.membership,
    )
    rows.put(collection, document_id, row, change, merged, client_id=records.CLIENT_ID)
    return True


def _adopted(row: Row | None) -> bool:
    """Whether the record held here was met at a peer: then it was written by another life of this node,
    which may have written more, and this one goes on in the next epoch."""
    return row is not None and row.client_id is None


def evict(rows: Rows, collection: str, document_ids: Iterable[str]) -> int:
    """Drop documents from this node only; how many there were.

    Of one that had been removed and inserted again, the tombstone comes back: what is written here in its
    place is of the incarnation that peers hold, and merges with it. Its version is not known any more. The
    empty one promises nothing of what was evicted, and joins those of other tombstones of this incarnation.
    """
    evicted = 0
    for document_id in document_ids:
        held = rows.drop(collection, document_id)
        if held is None:
            continue
        evicted += 1
        shares.forget(rows, collection, document_id)
        if held.state.rank[0] and collection not in OWNED_COLLECTIONS:
            removed = document.buried(held.state.rank[0] - 1)
            change = Change(collection, document_id, removed.rank, {}, removed.vector, removed.update)
            rows.put(collection, document_id, None, change, Merged(removed, None), client_id=None)
    return evicted
