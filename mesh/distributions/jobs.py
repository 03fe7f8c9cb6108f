"""The blobs on their way to this node: one job for each distribution that it takes, or keeps for others.

A job does nothing but fetch, put the file into the inbox and write the receipt; the subscriber alone starts
and stops it. From the moment the file appears in the inbox it is not stopped: its receipt says completed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mesh.core.backoff import Backoff
from mesh.core.delivery import ROOM_SECONDS, FetchQueue, is_lasting, lacks_room, lacks_source, state_of
from mesh.core.receipts import DistributionRecord
from mesh.core.status import TransferState
from mesh.core.tokens import BlobProgress
from mesh.distributions.inbox import Inbox
from mesh.distributions.ports import Blobs
from mesh.distributions.receipt_writer import ReceiptWriter
from mesh.distributions.tasks import Tasks
from mesh.errors import MeshError

logger = logging.getLogger("mesh.distributions")

MAX_RETRY_SECONDS = 300.0

SEARCH_SECONDS = 0.5
"""A fetch may look for a source for this long before the next one starts in its place: every fetch begins
without one, and if none had to wait then, the bound would hold back nothing."""


@dataclass(eq=False, slots=True)
class Job:
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


class Jobs:
    """The jobs of one node; at most one for each distribution."""

    def __init__(
        self,
        blobs: Blobs,
        inbox: Inbox | None,
        tasks: Tasks,
        writer_of: Callable[[DistributionRecord], ReceiptWriter],
        *,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._blobs = blobs
        self._inbox = inbox
        self._tasks = tasks
        self._writer_of = writer_of
        self._clock = clock
        self._random = random
        self._jobs: dict[str, Job] = {}
        self._queue = FetchQueue()

    def get(self, distribution_id: str) -> Job | None:
        """The job of a distribution, if there is one."""
        return self._jobs.get(distribution_id)

    def are_about(self, hash: str) -> bool:
        """Whether any job is about this blob."""
        return any(job.record.token.hash == hash for job in self._jobs.values())

    def stop_timers(self) -> None:
        """Begin nothing more by themselves."""
        for job in self._jobs.values():
            job.stop_timers()

    async def begin(self, record: DistributionRecord, *, cache: bool) -> None:
        """Make a job; it runs at once if the blob is here, else when its turn comes (see :meth:`start`)."""
        here = await self._blobs.exists(record.token.hash)
        job = Job(record, cache, Backoff(self._random, most=MAX_RETRY_SECONDS))
        self._jobs[record.distribution_id] = job
        if here:
            self._launch(job)  # nothing to wait for: no transfer takes place
        else:
            self._queue.add(record.distribution_id, record.priority, record.created_at)

    async def end(self, job: Job) -> None:
        """Stop a job and wait until it has; a file that has appeared gets its receipt first."""
        job.stop_timers()
        if job.task is not None and not job.task.done():
            if not job.appeared:
                job.task.cancel()
            await asyncio.wait({job.task})
        self._forget(job)

    def _forget(self, job: Job) -> None:
        job.stop_timers()
        distribution_id = job.record.distribution_id
        if self._jobs.get(distribution_id) is job:
            del self._jobs[distribution_id]
            self._queue.remove(distribution_id)
            self.start()

    def start(self) -> None:
        """Run those whose turn it is."""
        for distribution_id in self._queue.start():
            self._launch(self._jobs[distribution_id])

    def _launch(self, job: Job) -> None:
        job.task = self._tasks.spawn(self._run(job), f"fetch for distribution {job.record.distribution_id}")

    async def _run(self, job: Job) -> None:
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

    async def _fetch(self, job: Job) -> None:
        await self._blobs.fetch(
            job.record.token,
            priority=job.record.priority,
            on_progress=lambda progress: self._progressed(job, progress),
        )

    async def _deliver(self, job: Job) -> None:
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

    async def _failed(self, job: Job, error: Exception, *, lasting: bool) -> None:
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
        delay = min(job.backoff.next_delay(), ROOM_SECONDS if lacks_room(error) else MAX_RETRY_SECONDS)
        job.retry = asyncio.get_running_loop().call_later(delay, self._retry, job)
        self.start()

    async def _gave_up(self, job: Job, error: Exception) -> bool:
        """Whether it is durable that the job has failed: the disk may be too full even for that."""
        if job.cache:
            logger.warning("distribution %s is not cached for others: %s", job.record.distribution_id, error)
            return True
        try:
            await self._writer_of(job.record).finish(TransferState.FAILED, self._clock(), error=str(error))
        except Exception:
            logger.exception("distribution %s: its failure cannot be written", job.record.distribution_id)
            return False
        logger.warning("distribution %s has failed here: %s", job.record.distribution_id, error)
        return True

    def _retry(self, job: Job) -> None:
        job.retry = None
        self._queue.add(job.record.distribution_id, job.record.priority, job.record.created_at)
        self.start()

    def _progressed(self, job: Job, progress: BlobProgress) -> None:
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
        self._note(job, state_of(progress), progress.downloaded_bytes, progress.reason, progress.rate)

    def _park(self, job: Job) -> None:
        job.search = None
        self._queue.park(job.record.distribution_id)
        self.start()

    def _note(
        self,
        job: Job,
        status: TransferState,
        progress_bytes: int = 0,
        error: str | None = None,
        rate: float = 0.0,
    ) -> None:
        if not job.cache and self._jobs.get(job.record.distribution_id) is job:
            self._writer_of(job.record).advance(
                status, self._clock(), progress_bytes=progress_bytes, error=error, rate=rate
            )
