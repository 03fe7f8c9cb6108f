"""Direct file distribution: offered to each target over the link with it, acknowledged on the same link."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from mesh.core.board import handle_of
from mesh.core.catalogue import Catalogue
from mesh.core.changes import Change
from mesh.core.delivery import is_live
from mesh.core.direct import FEATURE, must_offer, offer_of, offered_by, receipt_of
from mesh.core.receipts import DistributionRecord, NodeRecord, Receipt
from mesh.core.scopes import AllNodes, DistributionScope, matches
from mesh.core.status import DistributionHandle, DistributionStatus, TransferPriority, TransferState
from mesh.core.tokens import BlobToken
from mesh.core.wire import DirectReceipt
from mesh.distributions.checks import checked_scope, id_of, new_distribution, tried_again
from mesh.distributions.expiry import ExpiryTimer
from mesh.distributions.following import SETTLE, Followed, completion_of, progress_of
from mesh.distributions.offers import Offers
from mesh.distributions.ports import NODES, Blobs, OwnedDocuments
from mesh.distributions.protocol import FileDistribution
from mesh.distributions.reception import Reception
from mesh.distributions.tasks import Tasks
from mesh.distributions.watches import board_of, update_board
from mesh.errors import InvalidDistribution, InvalidDocument, NotStarted, UnknownDistribution
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.streams import Stream

logger = logging.getLogger("mesh.distributions")

_EVERYBODY = AllNodes()


class _Published(Followed):
    """One distribution of this node, whom it was offered to, and the last word of each of them."""

    def __init__(self, record: DistributionRecord, catalogue: Catalogue) -> None:
        super().__init__(board_of(record, catalogue, record.created_at))
        self.handle = handle_of(record)
        self.told: set[str] = set()
        self.receipts: dict[str, Receipt] = {}

    def acknowledge(self, receipt: Receipt) -> None:
        """A link keeps the order, so the last word is what holds; but completed stays completed."""
        node_id, held = receipt.node_id, self.receipts.get(receipt.node_id)
        if held is None or held.status is not TransferState.COMPLETED:
            self.receipts[node_id] = receipt
            self.board.remove_receipt(node_id)
            self.board.put_receipt(receipt)
            self.changed()

    def restarted(self, node_id: str) -> None:
        """A target has forgotten what it had not finished; it may even be out of the scope now."""
        held = self.receipts.get(node_id)
        if held is not None and not held.status.is_terminal:
            del self.receipts[node_id]
            self.board.remove_receipt(node_id)
            self.changed()


class DirectFileDistribution(FileDistribution):
    """File distribution without documents: ``node.direct``.

    It is offered to every node that this one is linked with now or later; each judges for itself whether it
    is in the scope, fetches the blob, and acknowledges how far it is. Compared with ``node.distributions``:

    - It reaches neighbours only, and while the publisher runs. A target that is not linked stays pending.
    - Only the publisher knows of it. When it restarts, its distributions and their statuses are gone, and
      targets that had not completed stop once they hear from it again.
    - Nothing is signed, written or relayed: the cost is a message per target and step of progress.
    """

    def __init__(
        self,
        documents: OwnedDocuments,
        blobs: Blobs,
        peers: Peers,
        reception: Reception,
        *,
        require_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            documents: only read, to know which nodes there are.
            peers: the links; the handlers of the messages of this service are registered here.
            require_publish: raises PermissionDenied if this node may not distribute.
        """
        self._documents = documents
        self._peers = peers
        self._node_id = reception.node_id
        self._clock = clock = reception.clock
        self._random = reception.random
        self._require_publish = require_publish
        self._catalogue = Catalogue()
        self._published: dict[str, _Published] = {}
        self._nodes: dict[str, NodeRecord] = {}
        self._runs: dict[str, bytes] = {}
        self._expiry = ExpiryTimer(clock, self._touch)
        self._tasks = Tasks()
        self._started = False
        self._on_change: Callable[[str], None] = lambda hash: None
        self._offers = Offers(
            self._catalogue, blobs, peers, reception, learn=self._learn, acknowledge=self._acknowledged
        )
        peers.handle(DirectReceipt, self._take_receipt)
        peers.on_up(self._linked)

    async def start(self) -> None:
        """Begin to offer and to be offered.

        Raises:
            InvalidNode: the inbox cannot be used.
        """
        await self._offers.subscriber.start()
        nodes = self._documents.observe(NODES)
        self._show_nodes(await anext(nodes))
        self._tasks.spawn(self._observe(nodes), "observe nodes")
        self._started = True

    async def close(self) -> None:
        """End every stream, fetch and timer. May be repeated."""
        self._started = False
        self._expiry.close()
        for published in self._published.values():
            published.finish()
        await self._offers.subscriber.close()
        await self._tasks.close()

    def facts_changed(self) -> None:
        """This node's formations or capabilities have changed: judge every offer anew."""
        self._offers.subscriber.wake_all()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the hash of the blob of every distribution that changed or expired."""
        self._on_change = callback

    def live_blobs(self) -> set[str]:
        """The hashes of the blobs of the distributions that nodes may still begin with."""
        return {record.token.hash for record in self._catalogue.live(self._clock())}

    def own_live(self) -> list[DistributionRecord]:
        """The distributions of this node that nodes may still begin with."""
        return [r for r in self._catalogue.live(self._clock()) if r.publisher == self._node_id]

    def of_blob(self, hash: str) -> list[DistributionRecord]:
        """The distributions of a blob that are known here."""
        return [record for record in self._catalogue if record.token.hash == hash]

    # --- the verbs (described in protocol.py) -------------------------------------------------

    async def distribute(
        self,
        blob_token: BlobToken,
        scope: DistributionScope = _EVERYBODY,
        priority: TransferPriority = TransferPriority.NORMAL,
        *,
        expires_in: float | None = None,
        supersedes: DistributionHandle | str | None = None,
    ) -> DistributionHandle:
        replaced = None if supersedes is None else self._known(supersedes).distribution_id
        self._require_started()
        self._require_publish()
        scope = await checked_scope(scope, self._documents)
        nonce, now = self._random.randbytes(16).hex(), self._clock()
        record = new_distribution(
            self._node_id, nonce, now, blob_token, scope, priority, expires_in, replaced
        )
        try:
            offered_by(self._node_id, offer_of(record))
        except InvalidDocument as error:
            raise InvalidDistribution(f"every peer would refuse this distribution: {error}") from error
        published = _Published(record, self._catalogue)
        for node in self._nodes.values():
            published.board.put_node(node)
        self._published[record.distribution_id] = published
        self._publish(record)
        return published.handle

    async def dry_run(self, scope: DistributionScope) -> list[str]:
        self._require_started()
        scope = await checked_scope(scope, self._documents)
        return sorted(
            node.node_id
            for node in self._nodes.values()
            if matches(scope, node.node_id, self._node_id, node.facts)
        )

    async def status(self, handle: DistributionHandle | str) -> DistributionStatus:
        return self._published[self._known(handle).distribution_id].board.status()

    async def cancel(self, handle: DistributionHandle | str) -> None:
        record = self._known(handle)
        if record.cancelled_at is None:
            self._publish(msgspec.structs.replace(record, cancelled_at=self._clock()))

    async def retry(self, handle: DistributionHandle | str) -> None:
        record = self._known(handle)
        self._publish(tried_again(record, live=self._is_live(record)))

    async def wait_for_completion(
        self,
        handle: DistributionHandle | str,
        timeout: float,
        *,
        min_targets: int = 1,
        settle: float = SETTLE,
    ) -> DistributionStatus:
        self._known(handle)

        async def present() -> DistributionStatus:
            return await self.status(handle)

        status = await completion_of(
            id_of(handle), lambda: self._followed(handle), present, timeout, min_targets, settle
        )
        self._require_started()
        return status

    def subscribe_progress(self, handle: DistributionHandle | str) -> Stream[DistributionStatus]:
        self._require_started()
        id_of(handle)
        return progress_of(lambda: self._followed(handle))

    async def handles(self) -> list[DistributionHandle]:
        """Every distribution that this node has published since its start, the oldest first."""
        self._require_started()
        return [published.handle for published in self._published.values()]

    # --- publishing ---------------------------------------------------------------------------

    def _require_started(self) -> None:
        if not self._started:
            raise NotStarted("the distribution service is not running: start the node first")

    def _known(self, handle: DistributionHandle | str) -> DistributionRecord:
        self._require_started()
        distribution_id = id_of(handle)
        record = self._catalogue.get(distribution_id)
        if record is None or distribution_id not in self._published:
            raise UnknownDistribution(distribution_id)
        return record

    async def _followed(self, handle: DistributionHandle | str) -> Followed:
        return self._published[self._known(handle).distribution_id]

    def _is_live(self, record: DistributionRecord) -> bool:
        return is_live(record, self._catalogue.superseded_by(record.distribution_id), self._clock())

    def _publish(self, record: DistributionRecord) -> None:
        self._learn(record)
        for link in self._peers.links.values():
            self._offer(link, record.distribution_id)

    def _linked(self, link: Link) -> None:
        restarted = self._runs.get(link.node_id, link.instance) != link.instance
        self._runs[link.node_id] = link.instance
        if restarted:
            for published in self._published.values():
                published.restarted(link.node_id)
        handles = [published.handle for published in self._published.values()]
        for handle in sorted(handles, key=lambda handle: -handle.priority):
            self._offer(link, handle.distribution_id)

    def _offer(self, link: Link, distribution_id: str) -> None:
        record, published = self._catalogue.get(distribution_id), self._published[distribution_id]
        assert record is not None
        told, live = link.node_id in published.told, self._is_live(record)
        if FEATURE not in link.features or not must_offer(
            record, published.receipts.get(link.node_id), live=live, told=told
        ):
            return
        if self._catalogue.superseded_by(distribution_id) is not None:
            # Who has finished with the new one does not hear of that one again.
            record = msgspec.structs.replace(record, cancelled_at=self._clock())
        published.told.add(link.node_id)
        link.send(offer_of(record))

    def _take_receipt(self, link: Link, message: DirectReceipt) -> None:
        try:
            receipt = receipt_of(link.node_id, message)
        except InvalidDocument as error:
            logger.warning("a receipt of %s is not counted: %s", link, error)
            return
        self._acknowledged(receipt)

    def _acknowledged(self, receipt: Receipt) -> None:
        published = self._published.get(receipt.distribution_id)
        if published is not None:
            published.acknowledge(receipt)

    async def _observe(self, nodes: Stream[Change]) -> None:
        async for change in nodes:
            self._show_nodes(change)

    def _show_nodes(self, change: Change) -> None:
        gone = set(change.removed)
        for document in (*change.inserted, *change.updated):
            try:
                node = self._nodes[document["_id"]] = NodeRecord.parse(document)
            except InvalidDocument as error:
                logger.warning("node %s is not counted: %s", document["_id"], error)
                gone.add(document["_id"])
                continue
            for published in self._published.values():
                published.board.put_node(node)
        for node_id in gone:
            self._nodes.pop(node_id, None)
            for published in self._published.values():
                published.board.remove_node(node_id)
        for published in self._published.values():
            published.changed()

    def _learn(self, record: DistributionRecord) -> None:
        is_new = self._catalogue.get(record.distribution_id) is None
        for distribution_id in self._catalogue.put(record):
            self._touch(distribution_id)
        if is_new and record.expires_at is not None:
            self._expiry.add(record.expires_at, record.distribution_id)

    def _touch(self, distribution_id: str) -> None:
        """A distribution has changed, expired, or was replaced."""
        self._offers.subscriber.wake(distribution_id)
        record, published = self._catalogue.get(distribution_id), self._published.get(distribution_id)
        if record is not None:
            self._on_change(record.token.hash)
        if record is not None and published is not None:
            update_board(published.board, record, self._catalogue, self._clock())
            published.changed()
