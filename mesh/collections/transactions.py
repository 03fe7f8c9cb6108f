"""Transactions: several writes in one commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mesh.collections.documents import Documents
from mesh.core.membership import Membership
from mesh.storage.documents import DocumentStore
from mesh.storage.rows import Rows
from mesh.storage.transactions import OpenTransaction


class Transaction:
    """What a block writes is committed at its end, and seen by itself before that."""

    def __init__(
        self, store: OpenTransaction[Rows], new_id: Callable[[], str], membership: Membership | None = None
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._membership = membership

    def collection(self, name: str) -> Documents:
        """The documents of a collection, as this transaction sees and writes them.

        Raises:
            InvalidCollectionName: nothing can be called that.
        """
        return Documents(name, self._store, self._new_id, self._membership)


@asynccontextmanager
async def transaction(
    store: DocumentStore, new_id: Callable[[], str], membership: Membership | None = None
) -> AsyncIterator[Transaction]:
    """A transaction that is committed at the end of the block, and rolled back if the block fails.

    Raises:
        NestedTransaction: one is open around here.
        TransactionEnded: the block has come to its end, but the transaction was rolled back before.
    """
    opened = await store.transaction()
    try:
        yield Transaction(opened, new_id, membership)
    except BaseException:
        await opened.roll_back()
        raise
    await opened.commit()
