"""The receiving side: what this node does about the distributions that it learns of.

One task decides, one distribution after another, whenever something about it has changed; what it decides
is :func:`mesh.core.delivery.decide`, and then the application's policy. So:

1. For one distribution at most one job exists, and only the deciding task starts or stops it.
2. From the moment the file appears in the inbox, a job is not stopped: its receipt says completed.
3. Everything follows from the distribution, the own receipt and the own facts, so a restart goes on.
"""

from __future__ import annotations

import asyncio
import logging

from mesh.core.catalogue import Catalogue
from mesh.core.delivery import Action, Decision, decide, is_live
from mesh.core.receipts import DistributionRecord, Receipt, advanced, new_receipt, receipt_id_of
from mesh.core.scopes import NodeFacts
from mesh.core.status import TransferState
from mesh.distributions.deliveries import UNDECIDED, Delivery
from mesh.distributions.jobs import MAX_RETRY_SECONDS, Jobs
from mesh.distributions.policy import Verdicts
from mesh.distributions.ports import RECEIPTS, Blobs, OwnRecords
from mesh.distributions.receipt_writer import ReceiptWriter
from mesh.distributions.reception import Reception
from mesh.distributions.tasks import Tasks
from mesh.errors import InvalidDocument

logger = logging.getLogger("mesh.distributions")


class Subscriber:
    """See the module."""

    def __init__(
        self,
        documents: OwnRecords,
        blobs: Blobs,
        catalogue: Catalogue,
        reception: Reception,
        *,
        hub: bool,
    ) -> None:
        self.deliveries = reception.deliveries
        self._documents = documents
        self._blobs = blobs
        self._catalogue = catalogue
        self._node_id = reception.node_id
        self._facts = reception.facts
        self._clock = reception.clock
        self._mode = reception.mode
        self._inbox = reception.inbox_of(blobs)
        self._hub = hub
        self._tasks = Tasks()
        self._writers: dict[str, ReceiptWriter] = {}
        self._jobs = Jobs(
            blobs,
            self._inbox,
            self._tasks,
            self._writer_of,
            clock=reception.clock,
            random=reception.random,
        )
        self._verdicts = Verdicts(reception.policy, self._tasks, self.wake)
        self._changed: dict[str, None] = {}
        self._wakeup = asyncio.Event()
        self._again: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Read the own receipts, clean the inbox, begin to decide."""
        if self._inbox is not None:
            await self._inbox.open()
        for document in await self._documents.find(RECEIPTS, {"node_id": self._node_id}):
            try:
                receipt = Receipt.parse(document)
            except InvalidDocument as error:
                logger.warning("an own receipt is left alone: %s", error)
                continue
            self._writers[receipt.distribution_id] = ReceiptWriter(self._documents, self._tasks, receipt)
        self._tasks.spawn(self._decide_for_ever(), "decide about distributions")

    async def close(self) -> None:
        """Stop everything; partial blobs and receipts stay as they are, for the next start."""
        await self.deliveries.close()
        for timer in self._again.values():
            timer.cancel()
        await self._tasks.close()
        self._jobs.stop_timers()
        for writer in self._writers.values():
            writer.stop()

    def wake(self, distribution_id: str) -> None:
        """Something about this distribution has changed."""
        if (timer := self._again.pop(distribution_id, None)) is not None:
            timer.cancel()
        self._changed[distribution_id] = None
        self._wakeup.set()

    def knows(self, distribution_id: str) -> bool:
        """Whether this node has a receipt of it."""
        return distribution_id in self._writers

    def wake_all(self) -> None:
        """The facts of this node have changed."""
        for record in self._catalogue:
            self.wake(record.distribution_id)

    # --- deciding -----------------------------------------------------------------------------

    async def _decide_for_ever(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._changed:
                distribution_id = next(iter(self._changed))
                del self._changed[distribution_id]
                try:
                    await self._decide(distribution_id)
                except Exception:
                    logger.exception("distribution %s is looked at again later", distribution_id)
                    self._wake_later(distribution_id)
            self._jobs.start()

    def _wake_later(self, distribution_id: str) -> None:
        self._again[distribution_id] = asyncio.get_running_loop().call_later(
            MAX_RETRY_SECONDS, self.wake, distribution_id
        )

    async def _decide(self, distribution_id: str) -> None:
        record = self._catalogue.get(distribution_id)
        if record is None:
            await self._forget(distribution_id)
            return
        writer = self._writers.get(distribution_id)
        facts, now = self._facts(), self._clock()
        superseded_by = self._catalogue.superseded_by(distribution_id)
        decision = decide(
            record,
            writer.current if writer else None,
            node_id=self._node_id,
            facts=facts,
            receive=self._mode,
            superseded_by=superseded_by,
            now=now,
        )
        if decision.action in (Action.FETCH, Action.OFFER):
            verdict = self._verdicts.on(record)
            if verdict is None:
                return
            if verdict.refusal is not None:
                decision = Decision(Action.FAIL, verdict.refusal, decision.fresh)
        if decision.action is Action.FETCH:
            await self._want(record, decision, facts)
            return
        if decision.action is Action.OFFER:
            self._offer(record, decision, facts)
        else:
            await self._stop(record, decision, facts)
        if self._hub and is_live(record, superseded_by, now):
            await self._cache(record)
        elif (job := self._jobs.get(distribution_id)) is not None:
            await self._jobs.end(job)
            await self._discard(record.token.hash)

    async def _want(self, record: DistributionRecord, decision: Decision, facts: NodeFacts) -> None:
        job = self._jobs.get(record.distribution_id)
        if job is not None and not job.cache and job.record.attempt >= record.attempt:
            return
        if job is not None:
            await self._jobs.end(job)
            if not job.cache:
                self.wake(record.distribution_id)  # its file may have appeared meanwhile
                return
        writer = self._writer_of(record)
        if decision.fresh:
            writer.note(new_receipt(record, self._node_id, facts, self._clock(), writer.current))
        await self._jobs.begin(record, cache=False)

    async def _cache(self, record: DistributionRecord) -> None:
        job = self._jobs.get(record.distribution_id)
        if job is not None and (not job.cache or job.record.attempt < record.attempt):
            await self._jobs.end(job)
            job = None
        if job is None and not await self._blobs.exists(record.token.hash):
            await self._jobs.begin(record, cache=True)

    def _offer(self, record: DistributionRecord, decision: Decision, facts: NodeFacts) -> None:
        if record.distribution_id in self.deliveries:
            return
        writer, now = self._writer_of(record), self._clock()
        if decision.fresh:
            fresh = new_receipt(record, self._node_id, facts, now, writer.current)
            writer.note(advanced(fresh, TransferState.PENDING, now, error=UNDECIDED))
        delivery = Delivery(record, writer, self._blobs, self._inbox, self._clock, self.deliveries.decided)
        self.deliveries.offer(delivery)

    async def _stop(self, record: DistributionRecord, decision: Decision, facts: NodeFacts) -> None:
        job = self._jobs.get(record.distribution_id)
        own_job = job is not None and not job.cache
        if job is not None and own_job:
            await self._jobs.end(job)
        if own_job or record.distribution_id in self.deliveries:
            await self.deliveries.withdraw(record.distribution_id, decision.reason)
            await self._discard(record.token.hash)
        if decision.action is Action.IGNORE:
            return
        writer = self._writer_of(record)
        if decision.fresh:
            writer.current = new_receipt(record, self._node_id, facts, self._clock(), writer.current)
        status = TransferState.CANCELLED if decision.action is Action.STOP else TransferState.FAILED
        await writer.finish(status, self._clock(), error=decision.reason, facts=facts)

    async def _discard(self, hash: str) -> None:
        """Drop what has arrived, unless another distribution here is about the same blob."""
        if not self._jobs.are_about(hash):
            await self._blobs.discard_partial(hash)

    async def _forget(self, distribution_id: str) -> None:
        """The publisher has removed it: nothing is left of it here."""
        job = self._jobs.get(distribution_id)
        if job is not None:
            await self._jobs.end(job)
        delivery = await self.deliveries.withdraw(distribution_id, "its publisher has removed it")
        for token in ([job.record.token] if job else []) + ([delivery.token] if delivery else []):
            await self._discard(token.hash)
        self._verdicts.forget(distribution_id)
        writer = self._writers.get(distribution_id)
        if writer is not None:
            await writer.abandon()
            await self._documents.forget(RECEIPTS, [receipt_id_of(distribution_id, self._node_id)])
            del self._writers[distribution_id]

    def _writer_of(self, record: DistributionRecord) -> ReceiptWriter:
        distribution_id = record.distribution_id
        if distribution_id not in self._writers:
            self._writers[distribution_id] = ReceiptWriter(self._documents, self._tasks, None)
        return self._writers[distribution_id]
