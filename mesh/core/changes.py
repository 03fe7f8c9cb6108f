"""What observers are told: how the result of a query changed."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.core.structs import Struct

Document = dict[str, Any]


class Change(Struct, frozen=True):
    """The result of an observed query after something changed, and what changed.

    The first change of a stream is the snapshot: everything is in ``documents`` and in ``inserted``.
    A document that starts to match is inserted, one that stops to match is removed, whatever the reason.

    Attributes:
        documents: the whole result now, in the order that was asked for.
        inserted: what is new in the result.
        updated: what was in it and has changed.
        removed: the ids of what is no longer in it.
    """

    documents: list[Document]
    inserted: list[Document] = msgspec.field(default_factory=list)
    updated: list[Document] = msgspec.field(default_factory=list)
    removed: list[str] = msgspec.field(default_factory=list)


def snapshot(documents: list[Document]) -> Change:
    """The first change of a stream."""
    return Change(documents, inserted=list(documents))


def merge_changes(older: Change, newer: Change) -> Change:
    """One change that takes a reader where ``older`` and then ``newer`` would have taken it.

    A document that came and went in between is in neither list; one that went and came back is updated.
    """
    inserted = {document["_id"]: document for document in older.inserted}
    updated = {document["_id"]: document for document in older.updated}
    removed = dict.fromkeys(older.removed)
    for document_id in newer.removed:
        if inserted.pop(document_id, None) is None:
            updated.pop(document_id, None)
            removed[document_id] = None
    for document in newer.inserted:
        document_id = document["_id"]
        if document_id in removed:
            del removed[document_id]
            updated[document_id] = document
        else:
            inserted[document_id] = document
    for document in newer.updated:
        target = inserted if document["_id"] in inserted else updated
        target[document["_id"]] = document
    return Change(newer.documents, list(inserted.values()), list(updated.values()), list(removed))
