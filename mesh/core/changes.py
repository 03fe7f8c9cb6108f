"""What observers are told: how the result of a query changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from mesh.core.values import identical

Document = dict[str, Any]


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A change as JSON."""

    documents: list[Document]
    inserted: list[Document] = msgspec.field(default_factory=list)
    updated: list[Document] = msgspec.field(default_factory=list)
    removed: list[str] = msgspec.field(default_factory=list)


class Change:
    """The result of an observed query after something changed, and what changed.

    The first change of a stream is the snapshot: everything is in ``documents`` and in ``inserted``.
    A document that starts to match is inserted, one that stops to match is removed, whatever the reason.

    Documents are shared with other readers: copy what you want to alter.

    Args:
        documents: the whole result, or what gives it when it is asked for.
        inserted: what is new in the result.
        updated: what was in it and has changed.
        removed: the ids of what is no longer in it.
        before: what the reader has of the documents that were updated or removed, by their ids.
    """

    __slots__ = ("_before", "_documents", "_inserted", "_is_snapshot", "_removed", "_updated")

    def __init__(
        self,
        documents: list[Document] | Callable[[], list[Document]],
        inserted: Iterable[Document] = (),
        updated: Iterable[Document] = (),
        removed: Iterable[str] = (),
        before: Mapping[str, Document] | None = None,
    ) -> None:
        self._documents = documents
        self._inserted = {document["_id"]: document for document in inserted}
        self._updated = {document["_id"]: document for document in updated}
        self._removed = dict.fromkeys(removed)
        self._before = {} if before is None else dict(before)
        self._is_snapshot = False

    @property
    def documents(self) -> list[Document]:
        """The whole result after the change, in the order that was asked for; put together on demand."""
        if not isinstance(self._documents, list):
            self._documents = self._documents()
        return self._documents

    @property
    def inserted(self) -> list[Document]:
        """What is new in the result."""
        return list(self._inserted.values())

    @property
    def updated(self) -> list[Document]:
        """What was in the result and has changed."""
        return list(self._updated.values())

    @property
    def removed(self) -> list[str]:
        """The ids of what is no longer in the result."""
        return list(self._removed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # like the lists in it

    def __repr__(self) -> str:
        return (
            f"Change(documents={self.documents!r}, inserted={self.inserted!r}, updated={self.updated!r}, "
            f"removed={self.removed!r})"
        )

    def to_dict(self) -> dict[str, Any]:
        """This value as plain JSON types."""
        return {
            "documents": self.documents,
            "inserted": self.inserted,
            "updated": self.updated,
            "removed": self.removed,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Change:
        """The value that ``to_dict()`` gave ``plain``.

        Raises:
            msgspec.ValidationError: ``plain`` does not have the shape of a change.
        """
        change = msgspec.convert(plain, _Plain)
        return cls(change.documents, change.inserted, change.updated, change.removed)

    def copy(self) -> Change:
        """The same change, for another reader."""
        change = Change(self._documents, before=self._before)
        change._inserted, change._updated = dict(self._inserted), dict(self._updated)
        change._removed, change._is_snapshot = dict(self._removed), self._is_snapshot
        return change

    @property
    def says_nothing(self) -> bool:
        """Whether the reader has all of it already."""
        return not (self._is_snapshot or self._inserted or self._updated or self._removed)

    def follow_with(self, newer: Change) -> None:
        """Take a reader where this change and then ``newer`` would have taken it, at the cost of ``newer``.

        A document that came and went in between is in neither list; one that went and came back is updated,
        unless it is as it was.
        """
        for document_id, old in newer._before.items():
            if document_id not in self._inserted:
                self._before.setdefault(document_id, old)
        for document_id in newer._removed:
            if self._inserted.pop(document_id, None) is None:
                self._updated.pop(document_id, None)
                self._removed[document_id] = None
        for document_id, document in newer._inserted.items():
            if document_id in self._removed:
                del self._removed[document_id]
                self._update(document_id, document)
            else:
                self._inserted[document_id] = document
        for document_id, document in newer._updated.items():
            if document_id in self._inserted:
                self._inserted[document_id] = document
            else:
                self._update(document_id, document)
        self._documents = newer._documents

    def _update(self, document_id: str, document: Document) -> None:
        before = self._before.get(document_id)
        if before is not None and identical(before, document):
            del self._before[document_id]
            self._updated.pop(document_id, None)
        else:
            self._updated[document_id] = document


def snapshot(documents: list[Document]) -> Change:
    """The first change of a stream, which says something even where it is empty."""
    change = Change(documents, inserted=documents)
    change._is_snapshot = True
    return change


def merge_changes(older: Change, newer: Change) -> Change | None:
    """``older``, which nobody has seen yet, extended by ``newer``: takes a reader where both would have.
    ``None``: the reader is there already."""
    older.follow_with(newer)
    return None if older.says_nothing else older
