"""The receiving side of direct distributions: what peers have offered, and what they are told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from mesh.core.catalogue import Catalogue
from mesh.core.certificates import PUBLISH
from mesh.core.changes import Document
from mesh.core.direct import MAX_HELD_BYTES, offered_by
from mesh.core.receipts import DistributionRecord, Receipt, advanced, new_receipt, receipt_id_of
from mesh.core.status import TransferState
from mesh.core.wire import DirectOffer, DirectReceipt
from mesh.distributions.ports import Blobs, Selector
from mesh.distributions.reception import Reception
from mesh.distributions.subscriber import Subscriber
from mesh.errors import InvalidDocument
from mesh.network.link import Link
from mesh.network.peers import Peers

logger = logging.getLogger("mesh.distributions")


class Offers:
    """Receipts live as long as the node runs: who offers again after a restart is answered from the start.

    Attributes:
        subscriber: does about an offer what it does about a document.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        blobs: Blobs,
        peers: Peers,
        reception: Reception,
        *,
        learn: Callable[[DistributionRecord], None],
        acknowledge: Callable[[Receipt], None],
    ) -> None:
        """
        Args:
            catalogue: what is known; ``learn`` puts a record into it and wakes the subscriber.
            acknowledge: takes this node's receipts of its own distributions.
        """
        self._catalogue = catalogue
        self._peers = peers
        self._learn = learn
        self._acknowledge = acknowledge
        self._node_id = reception.node_id
        self._facts = reception.facts
        self._clock = reception.clock
        self._receipts: dict[str, Receipt] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        """Per publisher, the distributions that it has offered, in that order, and their bytes."""
        self._runs: dict[str, bytes] = {}
        """Per publisher, the run of it that has offered them."""
        self.subscriber = Subscriber(self, blobs, catalogue, reception, hub=False)
        peers.handle(DirectOffer, self._take)
        peers.on_up(self._linked)

    # --- where the subscriber writes ----------------------------------------------------------

    async def write(self, collection: str, document_id: str, body: dict[str, Any]) -> None:
        """Tell the publisher, if there is a link with it."""
        receipt = self._receipts[document_id] = Receipt.parse({**body, "_id": document_id})
        self._tell(receipt)

    async def find(self, collection: str, selector: Selector | None = None) -> list[Document]:
        """Nothing is known from before the start."""
        return []

    async def forget(self, collection: str, ids: Iterable[str]) -> None:
        """The publisher is not told of them again."""
        for receipt_id in ids:
            self._receipts.pop(receipt_id, None)

    def _tell(self, receipt: Receipt) -> None:
        if receipt.publisher == self._node_id:
            self._acknowledge(receipt)
        elif (link := self._peers.links.get(receipt.publisher)) is not None:
            link.send(DirectReceipt(msgspec.json.encode(receipt)))

    # --- what peers offer ---------------------------------------------------------------------

    def _take(self, link: Link, message: DirectOffer) -> None:
        if link.member is not None and not link.member.has(PUBLISH):
            logger.warning("an offer of %s is ignored: its certificate lacks the role %s", link, PUBLISH)
            return
        try:
            record = offered_by(link.node_id, message)
        except InvalidDocument as error:
            logger.warning("an offer of %s is ignored: %s", link, error)
            return
        self._runs[link.node_id] = link.instance
        held = self._receipts.get(receipt_id_of(record.distribution_id, self._node_id))
        if held is not None:
            self._tell(held)  # it may have been lost with a link
        if self._remember(record, len(message.record)):
            self._learn(record)
            return
        pending = new_receipt(record, self._node_id, self._facts(), self._clock())
        reason = f"of one publisher, {MAX_HELD_BYTES} bytes of offers are remembered here: retry() later"
        self._tell(advanced(pending, TransferState.FAILED, self._clock(), error=reason))

    def _remember(self, record: DistributionRecord, size: int) -> bool:
        """Whether there is room; what is not under way, the oldest first, makes room."""
        sizes = self._sizes.setdefault(record.publisher, {})
        needed = sum(sizes.values()) - sizes.get(record.distribution_id, 0) + size
        for other in list(sizes):
            if needed <= MAX_HELD_BYTES:
                break
            if other != record.distribution_id and self._forget(other):
                needed -= sizes.pop(other)
        if needed > MAX_HELD_BYTES and record.distribution_id not in sizes:
            return False
        sizes[record.distribution_id] = size
        return True

    def _forget(self, distribution_id: str) -> bool:
        record = self._catalogue.get(distribution_id)
        assert record is not None
        receipt = self._receipts.get(receipt_id_of(distribution_id, self._node_id))
        replaces = record.supersedes is not None and self._catalogue.get(record.supersedes) is not None
        if replaces or (receipt is not None and not receipt.status.is_terminal):
            return False  # what it replaces would begin again
        self._catalogue.forget(distribution_id)
        self.subscriber.wake(distribution_id)
        return True

    def _linked(self, link: Link) -> None:
        if self._runs.get(link.node_id, link.instance) == link.instance:
            return
        # After its restart the publisher knows nothing of them: nobody hears of them, or could cancel them.
        for distribution_id in self._sizes[link.node_id]:
            record = self._catalogue.get(distribution_id)
            assert record is not None
            self._learn(msgspec.structs.replace(record, cancelled_at=self._clock()))
