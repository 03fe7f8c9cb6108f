"""Documents for Yjs clients: read, written and followed as Yjs updates."""

from __future__ import annotations

from collections.abc import Callable

from mesh.core.browsers import Standing
from mesh.core.commits import Commit
from mesh.core.document import Name
from mesh.core.values import check_collection, check_id
from mesh.storage.contributions import View, contribute, view
from mesh.storage.documents import DocumentStore


class YjsDocuments:
    """What a gateway needs of the store. Close it.

    What is written through it are changes of this node, like any other: one tick for each update that says
    something new.
    """

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._followers: dict[Name, Callable[[Commit], None]] = {}
        self._stop = store.follow(self._committed)

    def close(self) -> None:
        """Tell nobody of commits any more."""
        self._stop()

    async def view(self, name: Name, state_vector: bytes) -> View:
        """The document for a client with this state vector.

        Raises:
            InvalidCollectionName, InvalidDocument: there can be no such document, or no such state vector.
        """
        check_collection(name[0])
        check_id(name[1])
        # As a write: of what was removed long ago, reads know nothing.
        return await self._store.write(lambda rows: view(rows, *name, state_vector))

    async def contribute(self, name: Name, incarnation: int | None, update: bytes) -> Standing:
        """Commit what a client that holds ``incarnation`` has changed, if its standing is current.

        Raises:
            PermissionDenied, Incomplete, InvalidDocument: see
                :func:`~mesh.storage.contributions.contribute`. Nothing has changed.
            StorageFull: the disk is full.
        """
        return await self._store.write(lambda rows: contribute(rows, *name, incarnation, update))

    def follow(self, name: Name, follower: Callable[[Commit], None] | None) -> None:
        """Call ``follower`` with every commit of this document; ``None``: nobody any more."""
        if follower is None:
            del self._followers[name]
        else:
            self._followers[name] = follower

    def _committed(self, commits: list[Commit]) -> None:
        for commit in commits:
            follower = self._followers.get((commit.change.collection, commit.change.id))
            if follower is not None:
                follower(commit)
