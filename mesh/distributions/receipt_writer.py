"""This node's receipt of one distribution, on its way into the documents."""

from __future__ import annotations

import asyncio
import logging

from mesh.core.delivery import write_delay
from mesh.core.receipts import Receipt, advanced, may_follow
from mesh.core.scopes import NodeFacts
from mesh.core.status import TransferState
from mesh.distributions.checks import write_record
from mesh.distributions.ports import OwnRecords
from mesh.distributions.tasks import Tasks

logger = logging.getLogger("mesh.distributions")

REWRITE_SECONDS = 30.0
"""After which a receipt that could not be written is written as it is then."""


class ReceiptWriter:
    """Writes in order and not too often; a terminal receipt at once.

    Attributes:
        current: the newest receipt, written or about to be.
    """

    def __init__(self, documents: OwnRecords, tasks: Tasks, held: Receipt | None) -> None:
        self.current = held
        self._documents = documents
        self._tasks = tasks
        self._written = held
        self._written_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()

    def advance(
        self,
        status: TransferState,
        now: float,
        *,
        progress_bytes: int = 0,
        error: str | None = None,
        rate: float = 0.0,
    ) -> None:
        """Tell of progress, or of what the node waits for; without a receipt there is nobody to tell."""
        if self.current is not None:
            said = advanced(self.current, status, now, progress_bytes=progress_bytes, error=error, rate=rate)
            if said is not self.current:
                self.note(said)

    def note(self, receipt: Receipt) -> None:
        """``receipt``, which is not terminal, is what holds now; it is written when that is worth it."""
        self.current = receipt
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        delay = write_delay(self._written, receipt, loop.time() - self._written_at)
        if delay is not None:
            self._timer = loop.call_later(delay, self._due)

    async def finish(
        self, status: TransferState, now: float, *, error: str | None = None, facts: NodeFacts | None = None
    ) -> None:
        """Write the terminal ``status``, unless the receipt is terminal already. Durable on return."""
        self.stop()
        async with self._lock:
            if self.current is None:
                return
            final = advanced(self.current, status, now, error=error, facts=facts)
            if final is not self.current:
                await self._put(final)
                self.current = final

    async def abandon(self) -> None:
        """Write nothing any more, whatever was noted; nothing is being written when this returns."""
        self.stop()
        async with self._lock:
            self.current = None

    def stop(self) -> None:
        """Write nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._tasks.spawn(self._write_current(), "write a receipt")

    async def _write_current(self) -> None:
        async with self._lock:
            if self.current is None or self.current == self._written:
                return
            try:
                await self._put(self.current)
            except Exception:
                # A terminal one is its caller's to repeat.
                logger.exception("cannot write receipt %s: tried again later", self.current.receipt_id)
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(REWRITE_SECONDS, self._due)

    async def _put(self, receipt: Receipt) -> None:
        assert self._written is None or may_follow(self._written, receipt), "a receipt never goes back"
        self._written_at = asyncio.get_running_loop().time()
        await write_record(self._documents, receipt)
        self._written = receipt
