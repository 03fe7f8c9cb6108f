"""The receiving side: what this node does about the distributions that it learns of.

One task decides, one distribution after another, whenever something about it has changed; what it decides
is :func:`mesh.core.delivery.decide`. A fetch is a task of its own and does nothing but fetch, put the file
into the inbox and write the receipt. So:

1. For one distribution at most one job exists, and only the deciding task starts or stops it.
2. From the moment the file appears in the inbox, a job is not stopped: its receipt says completed.
3. Everything follows from the distribution, the own receipt and the own facts, so a restart goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mesh.core.backoff import Backoff
from mesh.core.catalogue import Catalogue
from mesh.core.delivery import (
    Action,
    Decision,
    FetchQueue,
    ReceiveMode,
    decide,
    is_lasting,
    is_live,
    lacks_source,
    state_of,
)
from mesh.core.receipts import DistributionRecord, Receipt, advanced, new_receipt
from mesh.core.scopes import NodeFacts
from mesh.core.status import TransferState
from mesh.core.tokens import BlobProgress
from mesh.distributions.deliveries import UNDECIDED, Deliveries, Delivery
from mesh.distributions.inbox import Inbox
from mesh.distributions.ports import RECEIPTS, Blobs, OwnedDocuments
from mesh.distributions.receipt_writer import ReceiptWriter
from mesh.distributions.tasks import Tasks
from mesh.errors import InvalidDocument, MeshError

logger = logging.getLogger("mesh.distributions")

MAX_RETRY_SECONDS = 300.0

SEARCH_SECONDS = 0.5
"""A fetch may look for a source for this long before the next one starts in its place: every fetch begins
without one, and if none had to wait then, the bound would hold back nothing."""


@dataclass(eq=False, slots=True)
class _Job:
    """One blob on its way.

    ``cache``: for others only, without receipt and inbox. ``appeared``: the file is in the
    inbox, or about to be.
    """

    record: DistributionRecord
    cache: bool
    backoff: Backoff
    task: asyncio.Task[None] | None = None
    retry: asyncio.TimerHandle | None = None
    search: asyncio.TimerHandle | None = None
    appeared: bool = False

    def stop_timers(self) -> None:
        """Neither retry nor park it."""
        for timer in (self.retry, self.search):
            if timer is not None:
                timer.cancel()
        self.retry = self.search = None


class Subscriber:
    """See the module."""

    def __init__(
        self,
        documents: OwnedDocuments,
        blobs: Blobs,
        catalogue: Catalogue,
        *,
        node_id: str,
        facts: Callable[[], NodeFacts],
        clock: Callable[[], float],
        random: Random,
        receive: ReceiveMode,
        inbox: Inbox | None,
        hub: bool,
    ) -> None:
        self.deliveries = Deliveries()
        self._documents = documents
        self._blobs = blobs
        self._catalogue = catalogue
        self._node_id = node_id
        self._facts = facts
        self._clock = clock
        self._random = random
        self._receive: ReceiveMode = receive
        self._inbox = inbox
        self._hub = hub
        self._tasks = Tasks()
        self._writers: dict[str, ReceiptWriter] = {}
        self._jobs: dict[str, _Job] = {}
        self._queue = FetchQueue()
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
        for job in self._jobs.values():
            job.stop_timers()
        for writer in self._writers.values():
            writer.stop()

    def wake(self, distribution_id: str) -> None:
        """Something about this distribution has changed."""
        if (timer := self._again.pop(distribution_id, None)) is not None:
            timer.cancel()
        self._changed[distribution_id] = None
        self._wakeup.set()

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
            self._start_jobs()

    def _wake_later(self, distribution_id: str) -> None:
        self._again[distribution_id] = asyncio.get_running_loop().call_later(
            MAX_RETRY_SECONDS, self.wake, distribution_id
        )

    async def _decide(self, distribution_id: str) -> None:
        record = self._catalogue.get(distribution_id)
        if record is None:
            return
        writer = self._writers.get(distribution_id)
        facts, now = self._facts(), self._clock()
        superseded_by = self._catalogue.superseded_by(distribution_id)
        decision = decide(
            record,
            writer.current if writer else None,
            node_id=self._node_id,
            facts=facts,
            receive=self._receive,
            superseded_by=superseded_by,
            now=now,
        )
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
            await self._end(job)
            await self._discard(record)

    async def _want(self, record: DistributionRecord, decision: Decision, facts: NodeFacts) -> None:
        job = self._jobs.get(record.distribution_id)
        if job is not None and not job.cache and job.record.attempt >= record.attempt:
            return
        if job is not None:
            await self._end(job)
            if not job.cache:
                self.wake(record.distribution_id)  # its file may have appeared meanwhile
                return
        writer = self._writer_of(record)
        if decision.fresh:
            writer.note(new_receipt(record, self._node_id, facts, self._clock(), writer.current))
        await self._begin(record, cache=False)

    async def _cache(self, record: DistributionRecord) -> None:
        job = self._jobs.get(record.distribution_id)
        if job is not None and (not job.cache or job.record.attempt < record.attempt):
            await self._end(job)
            job = None
        if job is None and not await self._blobs.exists(record.token.hash):
            await self._begin(record, cache=True)

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
            await self._end(job)
        if own_job or record.distribution_id in self.deliveries:
            await self.deliveries.withdraw(record.distribution_id, decision.reason)
            await self._discard(record)
        if decision.action is Action.IGNORE:
            return
        writer = self._writer_of(record)
        if decision.fresh:
            writer.current = new_receipt(record, self._node_id, facts, self._clock(), writer.current)
        status = TransferState.CANCELLED if decision.action is Action.STOP else TransferState.FAILED
        await writer.finish(status, self._clock(), error=decision.reason, facts=facts)

    async def _discard(self, record: DistributionRecord) -> None:
        """Drop what has arrived, unless another distribution here is about the same blob."""
        if not any(job.record.token.hash == record.token.hash for job in self._jobs.values()):
            await self._blobs.discard_partial(record.token.hash)

    def _writer_of(self, record: DistributionRecord) -> ReceiptWriter:
        distribution_id = record.distribution_id
        if distribution_id not in self._writers:
            self._writers[distribution_id] = ReceiptWriter(self._documents, self._tasks, None)
        return self._writers[distribution_id]

    # --- jobs ---------------------------------------------------------------------------------

    async def _begin(self, record: DistributionRecord, *, cache: bool) -> None:
        here = await self._blobs.exists(record.token.hash)
        job = _Job(record, cache, Backoff(self._random, most=MAX_RETRY_SECONDS))
        self._jobs[record.distribution_id] = job
        if here:
            self._launch(job)  # nothing to wait for: no transfer takes place
        else:
            self._queue.add(record.distribution_id, record.priority, record.created_at)

    async def _end(self, job: _Job) -> None:
        """Stop a job and wait until it has; a file that has appeared gets its receipt first."""
        job.stop_timers()
        if job.task is not None and not job.task.done():
            if not job.appeared:
                job.task.cancel()
            await asyncio.wait({job.task})
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        job.stop_timers()
        distribution_id = job.record.distribution_id
        if self._jobs.get(distribution_id) is job:
            del self._jobs[distribution_id]
            self._queue.remove(distribution_id)
            self._start_jobs()

    def _start_jobs(self) -> None:
        for distribution_id in self._queue.start():
            self._launch(self._jobs[distribution_id])

    def _launch(self, job: _Job) -> None:
        job.task = self._tasks.spawn(self._run(job), f"fetch for distribution {job.record.distribution_id}")

    async def _run(self, job: _Job) -> None:
        try:
            await (self._fetch(job) if job.cache else self._deliver(job))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and the job goes on
            await self._failed(job, error, lasting=is_lasting(error))
            return
        try:
            if not job.cache:
                await self._writer_of(job.record).finish(TransferState.COMPLETED, self._clock())
        except Exception as error:  # noqa: BLE001 - the same
            # The file is there, so its receipt never says failed, however full the disk may be.
            await self._failed(job, error, lasting=False)
            return
        self._forget(job)

    async def _fetch(self, job: _Job) -> None:
        await self._blobs.fetch(
            job.record.token,
            priority=job.record.priority,
            on_progress=lambda progress: self._progressed(job, progress),
            wait_for_room=False,
        )

    async def _deliver(self, job: _Job) -> None:
        """Bring the file into the inbox."""
        record = job.record
        self._note(job, TransferState.CONNECTING)
        await self._fetch(job)
        if self._inbox is None:
            job.appeared = True
        else:
            async with self._inbox.staged(record.token, record.distribution_id) as reveal:
                job.appeared = True
                await reveal()

    async def _failed(self, job: _Job, error: Exception, *, lasting: bool) -> None:
        """Give up what does not heal by itself (``lasting``); wait and try again what may."""
        distribution_id = job.record.distribution_id
        job.appeared = False
        job.stop_timers()
        if not isinstance(error, MeshError | OSError):
            logger.error("distribution %s: unexpected error", distribution_id, exc_info=error)
        if lasting and await self._gave_up(job, error):
            self._forget(job)
            return
        self._note(job, TransferState.PENDING, error=f"tries again after: {error}")
        self._queue.remove(distribution_id)
        job.retry = asyncio.get_running_loop().call_later(job.backoff.next_delay(), self._retry, job)
        self._start_jobs()

    async def _gave_up(self, job: _Job, error: Exception) -> bool:
        """Whether it is durable that the job has failed: the disk may be too full even for that."""
        if job.cache:
            logger.warning("distribution %s is not cached for others: %s", job.record.distribution_id, error)
            return True
        try:
            await self._writer_of(job.record).finish(TransferState.FAILED, self._clock(), error=str(error))
        except Exception:
            logger.exception("distribution %s: its failure cannot be written", job.record.distribution_id)
            return False
        return True

    def _retry(self, job: _Job) -> None:
        job.retry = None
        self._queue.add(job.record.distribution_id, job.record.priority, job.record.created_at)
        self._start_jobs()

    def _progressed(self, job: _Job, progress: BlobProgress) -> None:
        distribution_id = job.record.distribution_id
        if self._jobs.get(distribution_id) is not job:
            return
        if not lacks_source(progress):
            if job.search is not None:
                job.search.cancel()
                job.search = None
            self._queue.resume(distribution_id)
        elif job.search is None:
            job.search = asyncio.get_running_loop().call_later(SEARCH_SECONDS, self._park, job)
        self._note(job, state_of(progress), progress.downloaded_bytes, progress.reason)

    def _park(self, job: _Job) -> None:
        job.search = None
        self._queue.park(job.record.distribution_id)
        self._start_jobs()

    def _note(
        self, job: _Job, status: TransferState, progress_bytes: int = 0, error: str | None = None
    ) -> None:
        if not job.cache and self._jobs.get(job.record.distribution_id) is job:
            self._writer_of(job.record).advance(
                status, self._clock(), progress_bytes=progress_bytes, error=error
            )
