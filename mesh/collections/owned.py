"""The documents that belong to the mesh: read like any others, written under this node's signature."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.collections.observers import Observers
from mesh.collections.replication import Replicator
from mesh.core.changes import Change
from mesh.core.identity import Identity
from mesh.core.selector import Selector
from mesh.core.wire import InterestEntry
from mesh.storage import finding, writes
from mesh.storage.documents import DocumentStore
from mesh.storage.queries import compile_query
from mesh.streams import Stream


class OwnedDocuments:
    """What the distribution service reads and writes; see :mod:`mesh.core.records` for what a record is."""

    def __init__(
        self, store: DocumentStore, observers: Observers, replicator: Replicator, identity: Identity
    ) -> None:
        self._store = store
        self._observers = observers
        self._replicator = replicator
        self._identity = identity

    async def write(self, collection: str, document_id: str, body: dict[str, Any]) -> None:
        """Sign ``body`` under the next sequence and commit it; one that says nothing new is not written.

        Raises:
            PermissionDenied: the document is another node's.
        """
        await self._store.write(
            lambda rows: writes.write_record(rows, self._identity, collection, document_id, body)
        )

    async def get(self, collection: str, document_id: str) -> dict[str, Any] | None:
        """One document, or ``None``."""
        return await self._store.read(lambda rows: finding.get(rows, collection, document_id))

    async def find(self, collection: str, selector: Selector | None = None) -> list[dict[str, Any]]:
        """The documents that match."""
        query = compile_query(selector)
        return await self._store.read(lambda rows: finding.find(rows, collection, query))

    def observe(self, collection: str, selector: Selector | None = None) -> Stream[Change]:
        """The result of a query now, then every change of it."""
        return self._observers.observe(collection, selector)

    async def arrivals(self, collection: str, prefix: str) -> dict[str, float]:
        """When documents last changed here, in seconds since the epoch, by the ids that begin so."""
        return await self._store.read(lambda rows: finding.arrivals(rows, collection, prefix))

    async def forget(self, collection: str, ids: Iterable[str]) -> None:
        """Drop documents from this node only."""
        await self._store.write(lambda rows: writes.evict(rows, collection, ids), bulk=True)

    async def want(self, collection: str, name: str, selector: dict[str, Any] | None) -> None:
        """Ask the mesh for these documents under a name, until the node stops; ``None`` withdraws it."""
        entry = None if selector is None else InterestEntry(collection, selector)
        self._replicator.want(f"{collection}:{name}", entry)
