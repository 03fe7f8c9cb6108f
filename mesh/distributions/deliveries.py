"""``receive="manual"``: the application decides about each distribution that this node is in the scope of."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from mesh.core.delivery import state_of
from mesh.core.receipts import DistributionRecord
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.distributions.inbox import Inbox
from mesh.distributions.ports import BlobHandle, Blobs
from mesh.distributions.receipt_writer import ReceiptWriter
from mesh.errors import FetchFailed, InvalidDistribution
from mesh.streams import Stream

T = TypeVar("T")

UNDECIDED = "waits for the application there to accept or reject it"


class Delivery:
    """One distribution that waits for this application's decision, in a node with ``receive="manual"``.

        async for delivery in node.deliveries():
            if delivery.token.size_bytes < 10_000_000:
                print("here it is:", await delivery.accept())
            else:
                await delivery.reject("too large for us")

    Until then its receipt says pending, and that it waits; after a restart it is offered again.

    Attributes:
        distribution_id: what the publisher's status goes by.
        publisher: the node id of who distributes it.
        token: the blob; its ``size_bytes``, and in ``metadata`` the name that the publisher gave it.
        priority: how urgent the publisher takes it to be.
    """

    def __init__(
        self,
        record: DistributionRecord,
        writer: ReceiptWriter,
        blobs: Blobs,
        inbox: Inbox | None,
        clock: Callable[[], float],
        decided: Callable[[str], None],
    ) -> None:
        self.distribution_id: str = record.distribution_id
        self.publisher: str = record.publisher
        self.token: BlobToken = record.token
        self.priority: TransferPriority = record.priority
        self._writer = writer
        self._blobs = blobs
        self._inbox = inbox
        self._clock = clock
        self._decided = decided
        self._withdrawn: str | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._deciding = asyncio.Lock()
        self._appeared = False
        self._path: Path | None = None

    async def fetch(self) -> BlobHandle:
        """Get the blob; the distribution stays undecided.

        Raises:
            FetchFailed: the distribution is over (cancelled, superseded, expired, rejected), or the blob
                cannot be had.
            StorageFull, BlobTooLarge: there is no room for it.
        """
        self._check()
        return await self._run(
            self._blobs.fetch(
                self.token, priority=self.priority, on_progress=self._progressed, wait_for_room=False
            )
        )

    async def accept(self) -> Path | None:
        """The application takes it: it is fetched if need be, put into the inbox if there is one, and the
        receipt says completed. Where it is in the inbox.

        May be repeated. Once the file has appeared in the inbox, cancelling this stops nothing any more.

        Raises:
            FetchFailed, StorageFull, BlobTooLarge: as :meth:`fetch` says.
            OSError: the inbox cannot take it; the distribution stays undecided.
        """
        if self._status() is not TransferState.COMPLETED:
            await self.fetch()
            await self._run(self._complete())
        return self._path

    async def reject(self, reason: str) -> None:
        """The application does not want it: the receipt says failed, and why; retry() offers it again.

        Raises:
            InvalidDistribution: the distribution is over, or was accepted.
        """
        async with self._deciding:
            if (over := self._over()) is not None:
                raise InvalidDistribution(f"{self.distribution_id} cannot be rejected: {over}")
            await self._writer.finish(TransferState.FAILED, self._clock(), error=f"rejected: {reason}")
            self._decided(self.distribution_id)
        await self.withdraw("it was rejected here")

    async def withdraw(self, reason: str) -> None:
        """Nothing more can be done with it; what runs has ended when this returns.

        A file that has appeared in the inbox gets its receipt first.
        """
        self._withdrawn = self._withdrawn or reason
        for task in self._running:
            self._stop(task)
        if self._running:
            await asyncio.wait(self._running)

    async def _complete(self) -> None:
        async with self._deciding:
            if self._status() is TransferState.COMPLETED:
                return  # accepted twice at the same time
            self._check()
            try:
                if self._inbox is not None:
                    async with self._inbox.staged(self.token, self.distribution_id) as reveal:
                        self._appeared = True
                        self._path = await reveal()
                await self._writer.finish(TransferState.COMPLETED, self._clock())
            except BaseException:
                self._appeared = False
                raise
            self._decided(self.distribution_id)

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which ends early if this is cancelled or the delivery is withdrawn."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stop(task)
            await asyncio.wait({task})
            current = asyncio.current_task()
            if self._withdrawn is None or (current is not None and current.cancelling()):
                raise
            raise FetchFailed(self.token.hash, self._withdrawn) from None

    def _stop(self, task: asyncio.Task[Any]) -> None:
        if not self._appeared:
            task.cancel()

    def _check(self) -> None:
        if (over := self._over()) is not None:
            raise FetchFailed(self.token.hash, over)

    def _over(self) -> str | None:
        """Why nothing can be decided any more."""
        if self._status() is not None:
            return self._withdrawn or "its distribution is decided already"
        return self._withdrawn

    def _status(self) -> TransferState | None:
        """How it ended; ``None``: it has not."""
        receipt = self._writer.current
        return receipt.status if receipt is not None and receipt.status.is_terminal else None

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

    async def withdraw(self, distribution_id: str, reason: str) -> Delivery | None:
        """It is over before it was decided; the delivery, if there was one."""
        delivery = self._open.pop(distribution_id, None)
        if delivery is not None:
            await delivery.withdraw(reason)
        return delivery

    async def close(self) -> None:
        """End every stream and every fetch."""
        for distribution_id in list(self._open):
            await self.withdraw(distribution_id, "the node is closed")
        for stream in list(self._streams):
            stream.finish()
