"""Subscriptions: what this node asks its peers to sync to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.collections.replication import Replicator
from mesh.core.interest import EVERYTHING, entry_digest
from mesh.core.wire import InterestEntry
from mesh.errors import PermissionDenied
from mesh.storage import documents
from mesh.storage.documents import DocumentStore


class Subscription:
    """A remembered wish: documents of ``collection`` that match ``selector`` are synced to this node.

    It outlives restarts, until :meth:`cancel`.
    """

    def __init__(self, subscriptions: Subscriptions, entry: InterestEntry) -> None:
        self._subscriptions = subscriptions
        self._entry = entry
        self.collection = entry.collection
        self.selector = dict(entry.selector)

    def __repr__(self) -> str:
        return f"Subscription({self.collection!r}, {self.selector!r})"

    async def cancel(self) -> None:
        """Stop syncing; what has arrived stays until it is evicted. May be repeated."""
        await self._subscriptions.cancel(self._entry)


class Subscriptions:
    """The application's subscriptions of one node."""

    def __init__(self, store: DocumentStore, replicator: Replicator) -> None:
        self._store = store
        self._replicator = replicator
        self._active: dict[str, InterestEntry] = {}

    async def load(self) -> None:
        """Take up what is remembered from before the restart."""
        for name, collection, selector in await self._store.read(documents.subscriptions):
            self._active[name] = InterestEntry(collection, selector)
            self._replicator.want(name, self._active[name])

    async def add(self, collection: str, selector: Mapping[str, Any]) -> Subscription:
        """Subscribe; the same collection and selector twice is one subscription."""
        entry = InterestEntry(collection, dict(selector))
        name = _name(entry)
        await self._store.write(
            lambda rows: documents.remember_subscription(rows, name, collection, entry.selector)
        )
        self._active[name] = entry
        self._replicator.want(name, entry)
        return Subscription(self, entry)

    def remembered(self, collection: str | None = None) -> list[Subscription]:
        """The subscriptions that have not been cancelled, of one collection or of all."""
        entries = [entry for entry in self._active.values() if collection in (None, entry.collection)]
        entries.sort(key=lambda entry: (entry.collection, str(entry.selector)))
        return [Subscription(self, entry) for entry in entries]

    def check_evictable(self, collection: str) -> None:
        """Refuse to evict what a subscription would bring straight back.

        Raises:
            PermissionDenied: this node asks the mesh for documents of ``collection``.
        """
        if self._replicator.wants(EVERYTHING.collection):
            raise PermissionDenied(
                f"a hub holds everything: what is evicted of {collection} would come straight back"
            )
        if self._replicator.wants(collection):
            raise PermissionDenied(
                f"{collection} is subscribed to, so what is evicted would come straight back: "
                "cancel the subscription first, or subscribe to less of it"
            )

    async def cancel(self, entry: InterestEntry) -> bool:
        """Unsubscribe; whether there was such a subscription."""
        name = _name(entry)
        known = self._active.pop(name, None) is not None
        await self._store.write(lambda rows: documents.forget_subscription(rows, name))
        self._replicator.want(name, None)
        return known


def _name(entry: InterestEntry) -> str:
    return entry_digest(entry).hex()
