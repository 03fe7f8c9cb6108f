"""What can be done with the documents of a collection, alone or inside of a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.selector import Selector, compile_selector, projected, sort_key
from mesh.core.values import (
    Registers,
    Writes,
    check_collection,
    check_id,
    normalized,
    plan_increment,
    plan_merge,
    plan_replace,
    plan_unset,
    pointer_of,
)
from mesh.errors import InvalidDocument, InvalidSelector, PermissionDenied
from mesh.storage import finding, writes
from mesh.storage.queries import compile_query
from mesh.storage.rows import Rows

R = TypeVar("R")

Fields = Mapping[str, Any]
Sort = Sequence[str | Mapping[str, str]]


class Store(Protocol):
    """Where jobs run: the document store, or a transaction on it."""

    async def write(self, job: Callable[[Rows], R]) -> R:
        """The result of ``job``, which is atomic by itself."""

    async def read(self, job: Callable[[Rows], R]) -> R:
        """The result of ``job``, which only reads."""


class Documents:
    """The documents of one collection: reads and writes.

    A document is a mapping of fields with an immutable ``_id``.
    """

    def __init__(self, name: str, store: Store, new_id: Callable[[], str]) -> None:
        self.name = check_collection(name)
        self._store = store
        self._new_id = new_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    # --- writing ----------------------------------------------------------------------------------

    async def insert(self, document: Fields) -> str:
        """Add a document; its ``_id``, generated if it has none.

        Raises:
            DocumentExists: the ``_id`` is taken.
            InvalidDocument: it cannot be stored; nothing was written.
        """
        fields = _snapshot(document)
        return await self._write(fields, lambda held: plan_merge(held, fields), exists=False)

    async def upsert(self, document: Fields) -> str:
        """Merge fields into the document with its ``_id``, or add it; the ``_id``.

        Nested objects merge field by field; fields that are absent are left alone.

        Raises:
            InvalidDocument: it cannot be stored; nothing was written.
        """
        fields = _snapshot(document)
        return await self._write(fields, lambda held: plan_merge(held, fields))

    async def replace(self, document: Fields) -> str:
        """Make the document with its ``_id`` read exactly so, or add it; fields that are absent are removed.

        Raises:
            InvalidDocument: it cannot be stored; nothing was written.
        """
        fields = _snapshot(document)
        return await self._write(fields, lambda held: plan_replace(held, fields))

    async def update(self, _id: str, fields: Fields) -> None:
        """Merge ``fields`` into a document that is here.

        Raises:
            DocumentNotFound: it is not.
            InvalidDocument: a field cannot be stored; nothing was written.
        """
        changes = _snapshot(fields)
        if changes.get("_id", _id) != _id:
            raise InvalidDocument("the _id of a document never changes", "/_id")
        await self._write({"_id": _id}, lambda held: plan_merge(held, changes), exists=True)

    async def unset(self, _id: str, *fields: str) -> None:
        """Remove fields, named by dotted paths or JSON Pointers; what is not there stays not there.

        Raises:
            DocumentNotFound: there is no such document here.
        """
        pointers = [pointer_of(field) for field in fields]
        await self._write({"_id": _id}, lambda held: plan_unset(held, pointers), exists=True)

    async def increment(self, _id: str, field: str, by: float = 1) -> None:
        """Add ``by`` to a counter; concurrent increments on other nodes add up.

        Raises:
            DocumentNotFound: there is no such document here.
            InvalidDocument: the field holds something other than a number, or ``by`` is none.
        """
        pointer = pointer_of(field)
        document_id = self._writable(_id)

        def job(rows: Rows) -> None:
            clock = rows.lineage.clock.hex()

            def plan(held: Registers) -> Writes:
                return plan_increment(held, pointer, by, clock)

            writes.edit(rows, self.name, document_id, plan, exists=True)

        await self._store.write(job)

    async def remove(self, selector_or_id: Selector | str, *, all: bool = False) -> int:
        """Remove one document, or every one that matches; how many there were. The removal syncs.

        Raises:
            InvalidSelector: the selector is malformed, or empty without ``all=True``.
        """
        self._check_owner()

        def job(rows: Rows) -> int:
            return writes.remove(rows, self.name, self._ids(rows, selector_or_id))

        self._check_sweep(selector_or_id, all)
        return await self._store.write(job)

    async def _write(
        self, document: Fields, plan: Callable[[Registers], Writes], *, exists: bool | None = None
    ) -> str:
        document_id = self._writable(document["_id"] if "_id" in document else self._new_id())
        await self._store.write(lambda rows: writes.edit(rows, self.name, document_id, plan, exists=exists))
        return document_id

    def _writable(self, document_id: object) -> str:
        self._check_owner()
        return check_id(document_id)

    def _check_owner(self) -> None:
        if self.name in OWNED_COLLECTIONS:
            raise PermissionDenied(
                f"{self.name} belongs to the mesh: its documents are written by their owners only. "
                "Use node.distributions, or a collection of your own"
            )

    def _check_sweep(self, selector_or_id: Selector | str, all: bool) -> None:
        if isinstance(selector_or_id, str):
            return
        compile_selector(selector_or_id)
        if not selector_or_id and not all:
            raise InvalidSelector("{} would remove every document: say so with all=True")

    def _ids(self, rows: Rows, selector_or_id: Selector | str) -> list[str]:
        if isinstance(selector_or_id, str):
            return [selector_or_id]
        found = finding.find(rows, self.name, compile_query(selector_or_id))
        return [document["_id"] for document in found]

    # --- reading ----------------------------------------------------------------------------------

    async def get(self, _id: str) -> dict[str, Any] | None:
        """The document with this ``_id``, or ``None``.

        Raises:
            InvalidDocument: nothing can have this ``_id``.
        """
        check_id(_id)
        return await self._store.read(lambda rows: finding.get(rows, self.name, _id))

    async def find(
        self,
        selector: Selector | None = None,
        *,
        sort: Sort | None = None,
        limit: int | None = None,
        skip: int = 0,
        fields: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The documents that match a Mango selector, in the order of ``sort``, then of their ids.

        Args:
            selector: e.g. ``{"color": "red", "year": {"$gt": 2010}}``; ``None`` for all.
            sort: e.g. ``[{"year": "desc"}, "name"]``.
            limit: at most so many.
            skip: leave out so many first.
            fields: only these fields (dotted paths), and the ``_id``.

        Raises:
            InvalidSelector: the selector or the sort order is malformed.
        """
        query = compile_query(selector)
        order = sort_key(sort)
        if skip < 0 or (limit is not None and limit < 0):
            raise InvalidSelector(f"skip and limit cannot be negative: {skip}, {limit}")

        def job(rows: Rows) -> list[dict[str, Any]]:
            found = finding.find(rows, self.name, query)
            if sort:
                order(found)
            return found[skip:] if limit is None else found[skip : skip + limit]

        found = await self._store.read(job)
        return found if fields is None else [projected(document, fields) for document in found]

    async def count(self, selector: Selector | None = None) -> int:
        """How many documents match.

        Raises:
            InvalidSelector: the selector is malformed.
        """
        query = compile_query(selector)
        return await self._store.read(lambda rows: finding.count(rows, self.name, query))


def _snapshot(fields: Fields) -> dict[str, Any]:
    """``fields`` as they are now: what the caller changes while the write is queued is not written.

    Raises:
        InvalidDocument: they cannot be stored.
    """
    if not isinstance(fields, Mapping):
        raise InvalidDocument(f"a document is a mapping of fields, not a {type(fields).__name__}")
    snapshot: dict[str, Any] = normalized(fields)
    return snapshot
