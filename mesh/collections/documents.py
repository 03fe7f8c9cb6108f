"""What can be done with the documents of a collection, alone or inside of a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from mesh.core.membership import Membership
from mesh.core.plans import Writes, merge_registers, plan_increment, plan_unset, replace_registers
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.registers import Registers, flatten
from mesh.core.selector import Selector, Sort, check_window
from mesh.core.values import check_collection, check_id, pointer_of
from mesh.errors import InvalidDocument, InvalidSelector, PermissionDenied
from mesh.storage import authors, finding, indexes, writes
from mesh.storage.authors import LastChange
from mesh.storage.queries import compile_query
from mesh.storage.rows import Rows

R = TypeVar("R")

Fields = Mapping[str, Any]


class Store(Protocol):
    """Where jobs run: the document store, or a transaction on it."""

    async def write(self, job: Callable[[Rows], R]) -> R:
        """The result of ``job``, which is atomic by itself."""

    async def read(self, job: Callable[[Rows], R]) -> R:
        """The result of ``job``, which only reads."""


class Documents:
    """The documents of one collection: reads and writes.

    A document is a mapping of fields with an immutable ``_id``. In a closed mesh, every write raises
    ``PermissionDenied`` where the node's certificate does not allow it.

    Wherever a field is named, ``a.b`` is ``b`` in the object ``a``; a dot that is part of a name is written
    ``\\.``. What begins with a slash is a JSON Pointer, in which any name can be said: ``/a/b``.
    """

    def __init__(
        self, name: str, store: Store, new_id: Callable[[], str], membership: Membership | None = None
    ) -> None:
        """``membership``: of a closed mesh, where certificates say who may write what."""
        self.name = check_collection(name)
        self._store = store
        self._new_id = new_id
        self._membership = membership

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    # --- writing ----------------------------------------------------------------------------------

    async def insert(self, document: Fields) -> str:
        """Add a document; its ``_id``, generated if it has none.

        Raises:
            DocumentExists: the ``_id`` is taken.
            InvalidDocument: it cannot be stored; nothing was written.
        """
        edit = self._edit(document, merge_registers, exists=False)
        await self._store.write(edit)
        return edit.document_id

    async def upsert(self, document: Fields) -> str:
        """Merge fields into the document with its ``_id``, or add it; the ``_id``.

        Nested objects merge field by field; fields that are absent are left alone.

        Raises:
            InvalidDocument: it cannot be stored; nothing was written.
        """
        edit = self._edit(document, merge_registers)
        await self._store.write(edit)
        return edit.document_id

    async def replace(self, document: Fields) -> str:
        """Make the document with its ``_id`` read exactly so, or add it; fields that are absent are removed.

        Raises:
            InvalidDocument: it cannot be stored; nothing was written.
        """
        edit = self._edit(document, replace_registers)
        await self._store.write(edit)
        return edit.document_id

    async def update(self, _id: str, fields: Fields) -> None:
        """Merge ``fields`` into a document that is here.

        Raises:
            DocumentNotFound: it is not.
            InvalidDocument: a field cannot be stored; nothing was written.
        """
        registers = flatten(fields)
        if fields.get("_id", _id) != _id:
            raise InvalidDocument("the _id of a document never changes", "/_id")
        await self._store.write(
            writes.Edit(self.name, self._writable(_id), merge_registers, registers, exists=True)
        )

    async def unset(self, _id: str, *fields: str) -> None:
        """Remove fields; what is not there stays not there.

        Raises:
            DocumentNotFound: there is no such document here.
            InvalidDocument: no field can be called so, or it is the ``_id``.
        """
        pointers = [pointer_of(field) for field in fields]
        await self._store.write(
            writes.Edit(self.name, self._writable(_id), plan_unset, pointers, exists=True)
        )

    async def increment(self, _id: str, field: str, by: float = 1) -> None:
        """Add ``by`` to a counter; concurrent increments on other nodes add up.

        Raises:
            DocumentNotFound: there is no such document here.
            InvalidDocument: the field holds something other than a number, or ``by`` is none.
        """
        wanted = (pointer_of(field), by)
        await self._store.write(
            writes.Increment(self.name, self._writable(_id), plan_increment, wanted, exists=True)
        )

    async def remove(self, selector_or_id: Selector | str, *, all: bool = False) -> int:
        """Remove one document, or every one that matches; how many there were. The removal syncs.

        Raises:
            InvalidSelector: the selector is malformed, or empty without ``all=True``.
        """
        self._check_writable()
        if not isinstance(selector_or_id, str) and not selector_or_id and not all:
            raise InvalidSelector("{} would remove every document: say so with all=True")
        ids = self._matching(selector_or_id)
        return await self._store.write(lambda rows: writes.remove(rows, self.name, ids(rows)))

    def _edit(
        self,
        document: Fields,
        plan: Callable[[Registers, Registers], Writes],
        *,
        exists: bool | None = None,
    ) -> writes.Edit:
        registers = flatten(document)  # as they are now, whatever the caller does to them later
        document_id = self._writable(document["_id"] if "_id" in document else self._new_id())
        return writes.Edit(self.name, document_id, plan, registers, exists)

    def _writable(self, document_id: object) -> str:
        self._check_writable()
        return check_id(document_id)

    def _check_writable(self) -> None:
        self._check_owner()
        if self._membership is not None:
            self._membership.require_write(self.name)

    def _check_owner(self) -> None:
        if self.name in OWNED_COLLECTIONS:
            raise PermissionDenied(
                f"{self.name} belongs to the mesh: its documents are written by their owners only. "
                "Write to a collection of your own"
            )

    def _matching(self, selector_or_id: Selector | str) -> Callable[[Rows], list[str]]:
        """A job that finds the ids; of the selector as it is now, whatever the caller does to it later."""
        if isinstance(selector_or_id, str):
            document_id = check_id(selector_or_id)
            return lambda rows: [document_id]
        query = compile_query(selector_or_id)
        return lambda rows: finding.ids(rows, self.name, query)

    # --- reading ----------------------------------------------------------------------------------

    async def get(self, _id: str) -> dict[str, Any] | None:
        """The document with this ``_id``, or ``None``.

        Raises:
            InvalidDocument: nothing can have this ``_id``.
        """
        check_id(_id)
        return await self._store.read(finding.Get(self.name, _id))

    async def last_change(self, _id: str) -> LastChange | None:
        """When the document last changed here and who made that change, removal included; ``None``: nothing
        is known of it.

        Raises:
            InvalidDocument: there can be no such ``_id``.
        """
        check_id(_id)
        return await self._store.read(lambda rows: authors.last_change(rows, self.name, _id))

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
            fields: only these fields, and the ``_id``.

        Raises:
            InvalidSelector: the selector or the sort order is malformed.
        """
        query = compile_query(selector, sort)
        check_window(skip, limit, fields)
        return await self._store.read(
            lambda rows: finding.find(rows, self.name, query, skip=skip, limit=limit, fields=fields)
        )

    async def count(self, selector: Selector | None = None) -> int:
        """How many documents match.

        Raises:
            InvalidSelector: the selector is malformed.
        """
        query = compile_query(selector)
        return await self._store.read(lambda rows: finding.count(rows, self.name, query))

    # --- indexes ----------------------------------------------------------------------------------

    async def create_index(self, *fields: str) -> None:
        """Index ``fields`` together, from now on; the same index twice is one.

        Selectors find by an index where they compare its first field, or its first fields, with ``$eq``,
        ``$in``, ``$gt`` and the like; ``sort`` is spared where its fields are those of the index. Each index
        costs a little with every write.

        Raises:
            InvalidIndex: a field cannot be indexed, or there are too many indexes.
        """
        indexes.check_fields(fields)
        await self._store.write(lambda rows: indexes.create(rows, self.name, fields))

    async def drop_index(self, *fields: str) -> bool:
        """Undo :meth:`create_index`; whether there was such an index.

        Raises:
            InvalidIndex: a field cannot be indexed.
        """
        indexes.check_fields(fields)
        return await self._store.write(lambda rows: indexes.drop(rows, self.name, fields))

    async def indexes(self) -> list[tuple[str, ...]]:
        """The fields of every index that was created."""
        return await self._store.read(lambda rows: sorted(indexes.declared(rows, self.name).values()))

    async def explain(self, selector: Selector | None = None, *, sort: Sort | None = None) -> dict[str, Any]:
        """How ``find`` goes about a query, as SQLite says it.

        Returns:
            ``index`` and ``fields``: the index that it uses, and the fields of it that it looks up; ``None``
            and none where it uses none. ``indexes``: all of them, where an ``$or`` or ``$in`` uses several.
            ``scan``: whether it goes through the whole collection. ``exact``: whether what SQL finds is the
            result, or each document found is compared with the selector again. ``sql`` and ``plan``: what
            is run, and SQLite's own account of how.

        Raises:
            InvalidSelector: the selector or the sort order is malformed.
        """
        query = compile_query(selector, sort)
        return await self._store.read(lambda rows: indexes.explain(rows, self.name, query))
