"""What becomes of distributions that are over: they and their receipts do not stay for ever.

The publisher alone removes a distribution, some time after it has ended: in its place it signs a few words
that say so, above every record that it has written before. They travel as the distribution did. Whoever meets
them drops the receipts, and one who slept, and still holds the distribution, drops it too and brings nothing
back. After a year everybody drops what is left, and what has expired for so long although its publisher never
came back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mesh.core.catalogue import Catalogue
from mesh.core.receipts import DistributionRecord, RemovedDistribution, receipt_id_of
from mesh.core.status import DistributionStatus
from mesh.distributions.ports import DISTRIBUTIONS, RECEIPTS, OwnedDocuments
from mesh.errors import InvalidScope, MeshError

logger = logging.getLogger("mesh.distributions")

RETENTION_SECONDS = 30 * 86_400.0
"""How long a distribution stays after it is complete, cancelled, superseded or expired."""

REMOVED_SECONDS = 365 * 86_400.0
"""How long everybody remembers that it was removed."""

MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 1.0, 86_400.0
"""How often distributions are looked through: once in the time that they stay, within these bounds."""


class Retention:
    """Looks through the distributions at the start, and then once a day; more often where they stay for less.

    Args:
        status: of a distribution that is held.
        remove: writes that an own distribution is removed.
        drop: forgets one of which nothing is held any more.
    """

    def __init__(
        self,
        documents: OwnedDocuments,
        catalogue: Catalogue,
        node_id: str,
        clock: Callable[[], float],
        seconds: float,
        *,
        status: Callable[[str], Awaitable[DistributionStatus]],
        remove: Callable[[str], Awaitable[None]],
        drop: Callable[[str], None],
    ) -> None:
        self._documents = documents
        self._catalogue = catalogue
        self._node_id = node_id
        self._clock = clock
        self._seconds = seconds
        self._status = status
        self._remove = remove
        self._drop = drop

    async def run(self) -> None:
        """Never returns."""
        loop = asyncio.get_running_loop()
        interval = min(max(self._seconds, MIN_INTERVAL_SECONDS), MAX_INTERVAL_SECONDS)
        while True:
            try:
                await self._look()
            except MeshError as error:
                logger.warning("distributions that are over are left for %g s more: %s", interval, error)
            due = asyncio.Event()
            timer = loop.call_later(interval, due.set)
            try:
                await due.wait()
            finally:
                timer.cancel()

    async def _look(self) -> None:
        for record in list(self._catalogue):
            if record.publisher == self._node_id:
                if await self._is_due(record):
                    await self._remove(record.distribution_id)
            elif record.expires_at is not None and self._is_forgettable(record, record.expires_at):
                await self._forget(record.distribution_id)
        for removed in list(self._catalogue.removed):
            if self._is_forgettable(removed, removed.removed_at):
                await self._forget(removed.distribution_id)
            else:  # a receipt may have come from who did not know it yet
                await self.drop_receipts(removed.distribution_id)

    async def _is_due(self, record: DistributionRecord) -> bool:
        now = self._clock()
        if now - record.created_at < self._seconds:
            return False
        ends = [at for at in (record.cancelled_at, record.expires_at) if at is not None]
        replaced_at = self._catalogue.superseded_at(record.distribution_id)
        if replaced_at is not None:
            ends.append(replaced_at)
        if ends and now - min(ends) >= self._seconds:
            return True
        # The clocks of those who have written the receipts may be years off: what counts is when they came.
        arrived = await self._documents.arrivals(RECEIPTS, receipt_id_of(record.distribution_id, ""))
        if not arrived or now - max(arrived.values()) < self._seconds:
            return False
        try:
            status = await self._status(record.distribution_id)
            return status.is_complete and not status.is_expired  # who never began is shown for as long
        except InvalidScope:
            return False  # published by a newer version of this node

    def _is_forgettable(self, record: DistributionRecord | RemovedDistribution, over_at: float) -> bool:
        """Not while it supersedes what is held here: that would begin again."""
        supersedes = record.supersedes is not None and self._catalogue.get(record.supersedes) is not None
        return not supersedes and self._clock() - over_at >= REMOVED_SECONDS

    async def drop_receipts(self, distribution_id: str) -> None:
        """Drop the receipts of a distribution that was removed."""
        held = await self._documents.arrivals(RECEIPTS, receipt_id_of(distribution_id, ""))
        if held:
            await self._documents.forget(RECEIPTS, held)

    async def _forget(self, distribution_id: str) -> None:
        await self.drop_receipts(distribution_id)
        await self._documents.forget(DISTRIBUTIONS, [distribution_id])
        self._drop(distribution_id)
