"""What the distribution service needs of the rest of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mesh.core.changes import Change
from mesh.core.status import TransferPriority
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.streams import Stream

Selector = dict[str, Any]

NODES = "nodes"
DISTRIBUTIONS = "distributions"
RECEIPTS = "receipts"


class OwnRecords(Protocol):
    """Where this node says how far it is."""

    async def write(self, collection: str, document_id: str, body: dict[str, Any]) -> None:
        """Let whom it concerns know, and remember it, as well as this place can."""

    async def find(self, collection: str, selector: Selector | None = None) -> list[dict[str, Any]]:
        """The documents that are held and selected."""

    async def forget(self, collection: str, ids: Iterable[str]) -> None:
        """Drop documents here; nobody else hears of it, and one that arrives again is taken again."""


class OwnedDocuments(OwnRecords, Protocol):
    """The three owned collections as they are held here.

    Only valid documents of the right owner come out of it, as their body plus ``_id``.
    """

    async def write(self, collection: str, document_id: str, body: dict[str, Any]) -> None:
        """Sign as this node under the next sequence, commit durably, then let it sync."""

    def observe(self, collection: str, selector: Selector | None = None) -> Stream[Change]:
        """The snapshot first (all of it in ``inserted``), then every change."""

    async def arrivals(self, collection: str, prefix: str) -> dict[str, float]:
        """When the documents that are held, and whose ids begin with ``prefix``, last changed here: in
        seconds since the epoch, by this node's clock."""

    async def want(self, collection: str, name: str, selector: Selector | None) -> None:
        """Ask the mesh for these documents, under a name of this service's own; ``None`` withdraws it.

        Not remembered across restarts.
        """


class BlobHandle(Protocol):
    """A blob that is here, whole and verified."""


class Blobs(Protocol):
    """The blobs that are held here and can be had from the mesh."""

    async def fetch(
        self,
        token: BlobToken,
        *,
        priority: TransferPriority = TransferPriority.NORMAL,
        on_progress: Callable[[BlobProgress], None] | None = None,
        timeout: float | None = None,
        wait_for_room: bool = True,
    ) -> BlobHandle:
        """Get the blob, for as long as it takes; at once if it is here. Being cancelled stops the transfer.

        With ``wait_for_room`` it also waits while there is no room for it.

        Raises:
            FetchFailed, BlobTooLarge, StorageFull: waiting does not heal it, or is not wanted.
            MeshError, OSError: anything else is tried again.
        """

    async def exists(self, hash: str) -> bool:
        """Whether the blob is here."""

    async def export(self, hash: str, destination: Path) -> None:
        """Copy the blob to ``destination``, a file that does not exist yet, durably.

        Raises:
            BlobNotFound: it is not here.
            StorageFull: there is no room.
        """

    async def discard_partial(self, hash: str) -> None:
        """Drop what has arrived of a blob that nobody fetches any more; a whole blob stays."""
