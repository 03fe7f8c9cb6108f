"""The file distribution service: five verbs, on nothing but documents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from mesh.core.board import handle_of
from mesh.core.catalogue import Catalogue
from mesh.core.changes import Change, Document
from mesh.core.delivery import is_live
from mesh.core.receipts import (
    DistributionRecord,
    NodeRecord,
    RemovedDistribution,
    parse_distribution,
    receipt_id_of,
)
from mesh.core.scopes import AllNodes, DistributionScope, matches, nodes_selector
from mesh.core.status import DistributionHandle, DistributionStatus, TransferPriority
from mesh.core.tokens import BlobToken
from mesh.distributions.checks import checked_scope, id_of, new_distribution, tried_again, write_record
from mesh.distributions.deliveries import Delivery
from mesh.distributions.expiry import ExpiryTimer
from mesh.distributions.following import SETTLE, completion_of, progress_of
from mesh.distributions.ports import DISTRIBUTIONS, NODES, RECEIPTS, Blobs, OwnedDocuments
from mesh.distributions.protocol import FileDistribution
from mesh.distributions.reception import Reception
from mesh.distributions.retention import RETENTION_SECONDS, Retention
from mesh.distributions.subscriber import Subscriber
from mesh.distributions.tasks import Tasks
from mesh.distributions.wants import Wants, wanted_documents
from mesh.distributions.watches import Watches, board_of, put_node, put_receipt
from mesh.errors import (
    InvalidDocument,
    InvalidScope,
    NotStarted,
    PermissionDenied,
    UnknownDistribution,
)
from mesh.streams import Stream

logger = logging.getLogger("mesh.distributions")

_EVERYBODY = AllNodes()


class MeshFileDistribution(FileDistribution):
    """The file distribution of one node; both ends of it.

    All state is in the documents, so a restart of anyone loses nothing.
    """

    def __init__(
        self,
        documents: OwnedDocuments,
        blobs: Blobs,
        reception: Reception,
        *,
        hub: bool = False,
        retention: float = RETENTION_SECONDS,
        admin: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            reception: how this node receives; :meth:`facts_changed` tells that it says something else of
                itself.
            hub: also caches every live distribution for others.
            admin: whether this node may cancel the distributions of others.
            retention: seconds that a distribution of this node stays after it is over.
        """
        self._documents = documents
        self._node_id = reception.node_id
        self._clock = clock = reception.clock
        self._random = reception.random
        self._hub = hub
        self._catalogue = Catalogue()
        self._watches = Watches(documents, self._catalogue, self._known, clock, self._wants_changed)
        self._wants = Wants(documents)
        self._expiry = ExpiryTimer(clock, self._expired)
        self._retention = Retention(
            documents,
            self._catalogue,
            self._node_id,
            clock,
            retention,
            status=self.status,
            remove=self._remove,
            drop=self._drop,
        )
        self._tasks = Tasks()
        self._writing = asyncio.Lock()
        self._admin = admin
        self._started = False
        self._on_change: Callable[[str], None] = lambda hash: None
        self._deliveries = reception.deliveries
        self._subscriber = Subscriber(documents, blobs, self._catalogue, reception, hub=hub)

    async def start(self) -> None:
        """Take up what the documents say; when this returns, every distribution that is held is known.

        Raises:
            InvalidNode: the inbox cannot be used.
        """
        await self._subscriber.start()
        changes = self._documents.observe(DISTRIBUTIONS)
        self._started = True
        await self._learn_all((await anext(changes)).inserted)
        await self._tell_wants()
        self._tasks.spawn(self._observe(changes), "observe distributions")
        self._tasks.spawn(self._retention.run(), "collect distributions that are over")

    async def close(self) -> None:
        """End every stream, fetch and timer. May be repeated."""
        self._started = False
        self._expiry.close()
        await self._watches.close()
        await self._subscriber.close()
        await self._tasks.close()

    def facts_changed(self) -> None:
        """This node's formations or capabilities have changed: judge every distribution anew."""
        self._subscriber.wake_all()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the hash of the blob of every distribution that changed, expired or was
        replaced."""
        self._on_change = callback

    def live_blobs(self) -> set[str]:
        """The hashes of the blobs of the distributions that nodes may still begin with."""
        return {record.token.hash for record in self._catalogue.live(self._clock())}

    def own_live(self) -> list[DistributionRecord]:
        """The distributions of this node that nodes may still begin with."""
        return [r for r in self._catalogue.live(self._clock()) if r.publisher == self._node_id]

    def deliveries(self) -> Stream[Delivery]:
        """``receive="manual"``: the undecided distributions for this node, then every new one."""
        self._require_started()
        return self._deliveries.stream()

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
        self._require_started()
        replaced = None if supersedes is None else self._own(supersedes, "superseded").distribution_id
        scope = await checked_scope(scope, self._documents)
        nonce, now = self._random.randbytes(16).hex(), self._clock()
        record = new_distribution(
            self._node_id, nonce, now, blob_token, scope, priority, expires_in, replaced
        )
        await self._publish(record)
        return handle_of(record)

    async def dry_run(self, scope: DistributionScope) -> list[str]:
        self._require_started()
        scope = await checked_scope(scope, self._documents)
        found = []
        for document in await self._documents.find(NODES, nodes_selector(scope)):
            try:
                node = NodeRecord.parse(document)
            except InvalidDocument as error:
                logger.warning("node %s is not counted: %s", document["_id"], error)
                continue
            if matches(scope, node.node_id, self._node_id, node.facts):
                found.append(node.node_id)
        return sorted(found)

    async def status(self, handle: DistributionHandle | str) -> DistributionStatus:
        record = self._known(handle)
        followed = self._watches.status(record.distribution_id)
        if followed is not None:
            return followed
        board = board_of(record, self._catalogue, self._clock())
        for document in await self._documents.find(NODES, nodes_selector(record.parsed_scope())):
            put_node(board, document)
        for document in await self._documents.find(RECEIPTS, {"distribution_id": record.distribution_id}):
            put_receipt(board, document)
        return board.status()

    async def heard_at(self, handle: DistributionHandle | str) -> dict[str, float]:
        """When the newest receipt of each node arrived here, by its id: in seconds since the epoch, by this
        node's clock. The times in a status are by the clocks of the targets.

        Raises:
            UnknownDistribution: it is not known here.
        """
        prefix = receipt_id_of(self._known(handle).distribution_id, "")
        arrivals = await self._documents.arrivals(RECEIPTS, prefix)
        return {receipt_id.removeprefix(prefix): at for receipt_id, at in arrivals.items()}

    async def cancel(self, handle: DistributionHandle | str) -> None:
        async with self._writing:
            record = await self._newest(handle, "cancelled", of_others=self._admin())
            if record.cancelled_at is None:
                await self._publish(msgspec.structs.replace(record, cancelled_at=self._clock()))

    async def retry(self, handle: DistributionHandle | str) -> None:
        async with self._writing:
            record = await self._newest(handle, "retried")
            superseded_by = self._catalogue.superseded_by(record.distribution_id)
            live = is_live(record, superseded_by, self._clock())
            await self._publish(tried_again(record, live=live))

    async def wait_for_completion(
        self,
        handle: DistributionHandle | str,
        timeout: float,
        *,
        min_targets: int = 1,
        settle: float = SETTLE,
    ) -> DistributionStatus:
        distribution_id = self._known(handle).distribution_id
        status = await completion_of(
            distribution_id,
            lambda: self._watches.watch(distribution_id),
            lambda: self.status(distribution_id),
            timeout,
            min_targets,
            settle,
        )
        self._require_started()
        return status

    def subscribe_progress(self, handle: DistributionHandle | str) -> Stream[DistributionStatus]:
        self._require_started()
        distribution_id = id_of(handle)
        return progress_of(lambda: self._watches.watch(distribution_id))

    async def handles(self) -> list[DistributionHandle]:
        self._require_started()
        found = []
        for record in self._catalogue:
            try:
                found.append(handle_of(record))
            except InvalidScope as error:
                logger.info("distribution %s is not listed: %s", record.distribution_id, error)
        return sorted(found, key=lambda handle: (handle.started_at, handle.distribution_id))

    # --- what is known ------------------------------------------------------------------------

    def _require_started(self) -> None:
        if not self._started:
            raise NotStarted("the distribution service is not running: start the node first")

    def _known(self, handle: DistributionHandle | str) -> DistributionRecord:
        self._require_started()
        record = self._catalogue.get(id_of(handle))
        if record is None:
            raise UnknownDistribution(id_of(handle))
        return record

    def _own(
        self, handle: DistributionHandle | str, what: str, *, of_others: bool = False
    ) -> DistributionRecord:
        record = self._known(handle)
        if record.publisher != self._node_id and not of_others:
            raise PermissionDenied(
                f"distribution {record.distribution_id} is of {record.publisher}: "
                + ("only there, or on an admin of a closed mesh," if what == "cancelled" else "only there")
                + f" can it be {what}"
            )
        return record

    async def _newest(
        self, handle: DistributionHandle | str, what: str, *, of_others: bool = False
    ) -> DistributionRecord:
        """Whatever is held of it, also what was not observed yet: a cancel must never be written over."""
        distribution_id = self._own(handle, what, of_others=of_others).distribution_id
        await self._learn_all(await self._documents.find(DISTRIBUTIONS, {"_id": distribution_id}))
        return self._own(distribution_id, what, of_others=of_others)

    async def _publish(self, record: DistributionRecord | RemovedDistribution) -> None:
        await write_record(self._documents, record)
        self._learn(record)
        await self._tell_wants()

    async def _observe(self, changes: Stream[Change]) -> None:
        async for change in changes:
            await self._learn_all([*change.inserted, *change.updated])
            for distribution_id in change.removed:  # its publisher was revoked, or it was forgotten here
                self._drop(distribution_id)

    async def _learn_all(self, documents: list[Document]) -> None:
        own = False
        for document in documents:
            try:
                record = parse_distribution(document)
            except InvalidDocument as error:
                logger.warning("distribution %s is ignored: %s", document["_id"], error)
                continue
            own = self._learn(record) or own
        if own:
            await self._tell_wants()

    def _learn(self, record: DistributionRecord | RemovedDistribution) -> bool:
        """Whether something of this node's own has changed."""
        if isinstance(record, RemovedDistribution):
            return self._learn_removed(record)
        is_new = self._catalogue.get(record.distribution_id) is None
        changed = self._catalogue.put(record)
        for distribution_id in changed:
            self._touch(distribution_id)
        if is_new and record.expires_at is not None:
            self._expiry.add(record.expires_at, record.distribution_id)
        return bool(changed) and record.publisher == self._node_id

    def _learn_removed(self, removed: RemovedDistribution) -> bool:
        distribution_id = removed.distribution_id
        held = self._catalogue.get(distribution_id)
        for changed in self._catalogue.remove(removed) - {distribution_id}:
            self._touch(changed)
        if held is None and not self._subscriber.knows(distribution_id):
            return False  # its receipts, if there are any, are found once a day
        if held is not None:
            self._on_change(held.token.hash)
        self._watches.end(distribution_id)
        self._subscriber.wake(distribution_id)
        self._tasks.spawn(self._retention.drop_receipts(distribution_id), "drop receipts")
        return removed.publisher == self._node_id

    async def _remove(self, distribution_id: str) -> None:
        async with self._writing:
            record = await self._newest(distribution_id, "removed")
            await self._publish(
                RemovedDistribution(
                    distribution_id, record.publisher, record.nonce, self._clock(), record.supersedes
                )
            )

    def _drop(self, distribution_id: str) -> None:
        self._catalogue.forget(distribution_id)
        self._watches.end(distribution_id)
        self._subscriber.wake(distribution_id)

    def _expired(self, distribution_id: str) -> None:
        self._touch(distribution_id)
        self._wants_changed()

    def _touch(self, distribution_id: str) -> None:
        """A distribution has changed, expired, or was replaced."""
        self._subscriber.wake(distribution_id)
        record = self._catalogue.get(distribution_id)
        if record is not None:
            self._on_change(record.token.hash)
            self._watches.update(record)

    def _wants_changed(self) -> None:
        if self._started:
            self._tasks.spawn(self._tell_wants(), "tell what is wanted")

    async def _tell_wants(self) -> None:
        own = [r for r in self._catalogue if r.publisher == self._node_id]
        live = self.own_live()
        watched = (watch.record for watch in self._watches)
        foreign = [record.distribution_id for record in watched if record.publisher != self._node_id]
        await self._wants.tell(
            wanted_documents(self._node_id, hub=self._hub, published=own, live=live, watched=foreign)
        )
