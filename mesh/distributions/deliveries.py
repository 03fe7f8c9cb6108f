"""``receive="manual"``: the application decides about each distribution that this node is in the scope of."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from mesh.core.delivery import state_of
from mesh.core.receipts import DistributionRecord
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.distributions.ports import BlobHandle, Blobs
from mesh.distributions.receipt_writer import ReceiptWriter
from mesh.errors import FetchFailed
from mesh.streams import Stream

UNDECIDED = "waits for the application there to accept or reject it"


class Delivery:
    """One distribution that waits for this application's decision."""

    def __init__(
        self,
        record: DistributionRecord,
        writer: ReceiptWriter,
        blobs: Blobs,
        clock: Callable[[], float],
        decided: Callable[[str], None],
    ) -> None:
        self.distribution_id: str = record.distribution_id
        self.publisher: str = record.publisher
        self.token: BlobToken = record.token
        self.priority: TransferPriority = record.priority
        self._writer = writer
        self._blobs = blobs
        self._clock = clock
        self._decided = decided
        self._withdrawn: str | None = None
        self._transfers: set[asyncio.Future[BlobHandle]] = set()

    async def fetch(self) -> BlobHandle:
        """Get the blob; the distribution stays undecided.

        Raises:
            FetchFailed: the distribution is over (cancelled, superseded, expired, rejected), or the blob
                cannot be had.
            StorageFull, BlobTooLarge: there is no room for it.
        """
        self._check()
        transfer = asyncio.ensure_future(
            self._blobs.fetch(self.token, priority=self.priority, on_progress=self._progressed)
        )
        self._transfers.add(transfer)
        try:
            return await transfer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._withdrawn is None or (task is not None and task.cancelling()):
                raise
            raise FetchFailed(self.token.hash, self._withdrawn) from None
        finally:
            self._transfers.discard(transfer)

    async def accept(self) -> None:
        """The application has taken it (it is fetched first if need be): the receipt says completed.

        May be repeated. Raises what :meth:`fetch` raises.
        """
        if self._status() is TransferState.COMPLETED:
            return
        await self.fetch()
        await self._end(TransferState.COMPLETED, None)

    async def reject(self, reason: str) -> None:
        """The application does not want it: the receipt says failed, and why; retry() offers it again.

        Raises:
            FetchFailed: the distribution is over, or was accepted.
        """
        self._check()
        await self._end(TransferState.FAILED, f"rejected: {reason}")
        await self.withdraw("it was rejected here")

    async def withdraw(self, reason: str) -> None:
        """Nothing more can be done with it; running fetches have ended when this returns."""
        self._withdrawn = self._withdrawn or reason
        for transfer in self._transfers:
            transfer.cancel()
        if self._transfers:
            await asyncio.wait(self._transfers)

    def _check(self) -> None:
        if self._withdrawn is not None or self._status() is not None:
            raise FetchFailed(self.token.hash, self._withdrawn or "its distribution is decided already")

    def _status(self) -> TransferState | None:
        """How it ended; ``None``: it has not."""
        receipt = self._writer.current
        return receipt.status if receipt is not None and receipt.status.is_terminal else None

    async def _end(self, status: TransferState, error: str | None) -> None:
        self._check()
        await self._writer.finish(status, self._clock(), error=error)
        self._decided(self.distribution_id)

    def _progressed(self, progress: BlobProgress) -> None:
        if self._withdrawn is None:
            self._writer.advance(
                state_of(progress),
                self._clock(),
                progress_bytes=progress.downloaded_bytes,
                error=progress.reason or UNDECIDED,
            )


class Deliveries:
    """The undecided deliveries, and who listens for them."""

    def __init__(self) -> None:
        self._open: dict[str, Delivery] = {}
        self._streams: weakref.WeakSet[Stream[Delivery]] = weakref.WeakSet()

    def __contains__(self, distribution_id: str) -> bool:
        return distribution_id in self._open

    def stream(self) -> Stream[Delivery]:
        """The undecided ones, then every new one."""
        stream: Stream[Delivery] = Stream()
        for delivery in self._open.values():
            stream.push(delivery)
        self._streams.add(stream)
        return stream

    def offer(self, delivery: Delivery) -> None:
        """Ask the application."""
        self._open[delivery.distribution_id] = delivery
        for stream in list(self._streams):
            stream.push(delivery)

    def decided(self, distribution_id: str) -> None:
        """The application has accepted or rejected it."""
        self._open.pop(distribution_id, None)

    async def withdraw(self, distribution_id: str, reason: str) -> None:
        """It is over before it was decided."""
        delivery = self._open.pop(distribution_id, None)
        if delivery is not None:
            await delivery.withdraw(reason)

    async def close(self) -> None:
        """End every stream and every fetch."""
        for distribution_id in list(self._open):
            await self.withdraw(distribution_id, "the node is closed")
        for stream in list(self._streams):
            stream.finish()
