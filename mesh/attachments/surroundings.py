"""What a transfer needs of what is around it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from mesh.attachments.downlink import Downlink
from mesh.attachments.lanes import Lane
from mesh.attachments.slots import Slots
from mesh.core.picking import Shuffles
from mesh.errors import MeshError, StorageFull
from mesh.storage.blobs import BlobStore

if TYPE_CHECKING:
    from mesh.attachments.small import SmallTransfer
    from mesh.attachments.transfers import Transfer


class Surroundings(Protocol):
    """What a transfer needs of the service that runs it."""

    store: BlobStore

    @property
    def random(self) -> Shuffles:
        """Breaks ties."""

    def lane(self, peer: str) -> Lane | None:
        """The lane to a peer; ``None``: there is no link with it."""

    @property
    def downlink(self) -> Downlink:
        """Lets it ask for chunks."""

    @property
    def slots(self) -> Slots:
        """Let it begin."""

    def asked(self, hash: str) -> Collection[str]:
        """Who was asked for the blob, for people to read, and why one does not pass it on."""

    def grew(self, transfer: Transfer) -> None:
        """A chunk arrived."""

    def stuck(self, transfer: Transfer | SmallTransfer) -> None:
        """Nothing arrives."""

    def falter(self, transfer: SmallTransfer) -> None:
        """Not all goes well: an ordinary transfer has to take its place, which begins anew."""

    def full(self, error: StorageFull) -> None:
        """There is no room for a transfer: it waits until :meth:`Transfer.retry`, or for ``ROOM_SECONDS``."""

    def ended(self, transfer: Transfer | SmallTransfer, error: MeshError | None) -> None:
        """It is whole and visible, or failed."""
