"""Collections: named sets of documents, written here and merged with what others write."""

from __future__ import annotations

from collections.abc import Callable

from mesh.collections.documents import Documents
from mesh.collections.observers import Observers
from mesh.collections.subscriptions import Subscription, Subscriptions
from mesh.core.changes import Change
from mesh.core.membership import Membership
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.selector import Selector, Sort, check_window, compile_selector, plain_selector
from mesh.core.wire import InterestEntry
from mesh.storage import writes
from mesh.storage.documents import DocumentStore
from mesh.streams import Stream


class Collection(Documents):
    """A named set of documents.

    A document is a mapping of fields with an immutable ``_id``. Every write is durable when its call
    returns, whether or not any peer is in reach. The collections ``nodes``, ``distributions`` and
    ``receipts`` belong to the mesh: they are read like any other, and written by the owners of their
    documents only.
    """

    def __init__(
        self,
        name: str,
        store: DocumentStore,
        observers: Observers,
        subscriptions: Subscriptions,
        new_id: Callable[[], str],
        membership: Membership | None = None,
    ) -> None:
        super().__init__(name, store, new_id, membership)
        self._observers = observers
        self._subscriptions = subscriptions

    async def evict(self, selector_or_id: Selector | str) -> int:
        """Drop documents from this node only; how many there were. Peers keep theirs.

        ``{}`` drops all of the collection, which does not have to be said twice as for :meth:`remove`: what
        peers hold comes back with the next subscription. What no peer holds is lost: of this node's own
        changes, :meth:`~mesh.Node.unsynced` counts those.
        Where others get the collection by way of this node, it is fetched again when one of them asks for it.

        Raises:
            InvalidSelector: the selector is malformed.
            PermissionDenied: the collection belongs to the mesh, or this node subscribes to it, so that what
                is evicted would come straight back. Cancel the subscription first.
        """
        self._check_owner()
        self._subscriptions.check_evictable(self.name)
        ids = self._matching(selector_or_id)
        return await self._store.write(lambda rows: writes.evict(rows, self.name, ids(rows)))

    def observe(
        self, selector: Selector | None = None, *, sort: Sort | None = None, limit: int | None = None
    ) -> Stream[Change]:
        """The result of a query now, then every change of it, local or from peers.

        Raises:
            InvalidSelector: the selector or the sort order is malformed.
        """
        check_window(0, limit)
        return self._observers.observe(self.name, selector, sort, limit)

    async def subscribe(self, selector: Selector | None = None) -> Subscription:
        """Ask peers to sync the documents that match to this node, from now on and after restarts.

        The same selector twice is one subscription: neither the order of keys matters, nor whether 1 is 1.0.

        Raises:
            InvalidSelector: the selector is malformed.
            PermissionDenied: this node may not read the collection.
        """
        compile_selector(selector)
        if self._membership is not None and self.name not in OWNED_COLLECTIONS:
            self._membership.require_read(self.name)
        return await self._subscriptions.add(self.name, plain_selector(selector))

    async def unsubscribe(self, selector: Selector | None = None) -> bool:
        """Cancel the subscription with this selector; whether there was one.

        Raises:
            InvalidSelector: the selector is malformed.
        """
        compile_selector(selector)
        return await self._subscriptions.cancel(InterestEntry(self.name, plain_selector(selector)))

    async def subscriptions(self) -> list[Subscription]:
        """What this node subscribes to of the collection."""
        return self._subscriptions.remembered(self.name)
