"""The transfers that are under way, one per blob, and those that are coming to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from mesh.attachments.small import SmallTransfer
from mesh.attachments.surroundings import Surroundings
from mesh.attachments.transfers import Transfer
from mesh.core.tokens import BlobToken
from mesh.core.wire import BlobHave
from mesh.storage.blobs import SMALL_BYTES, BlobStore

AnyTransfer = Transfer | SmallTransfer


class Running:
    """Begins and stops transfers. The next one of a blob begins when the last has let go of its file."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._transfers: dict[str, AnyTransfer] = {}
        self._unwanted: set[AnyTransfer] = set()  # those that nobody here may want
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __contains__(self, hash: str) -> bool:
        return hash in self._transfers

    def __iter__(self) -> Iterator[AnyTransfer]:
        return iter(list(self._transfers.values()))

    def get(self, hash: str) -> AnyTransfer | None:
        """The transfer of a blob."""
        return self._transfers.get(hash)

    def start(self, around: Surroundings, token: BlobToken) -> AnyTransfer:
        """Begin to fetch a blob."""
        stopping = self._stopping.get(token.hash)
        is_new = stopping is None and not self._store.has_partial(token.hash)
        if is_new and 0 < token.size_bytes <= SMALL_BYTES:
            small = self._transfers[token.hash] = SmallTransfer(around, token)
            self._unwanted.add(small)
            return small
        return self._start(around, token, stopping)

    def _start(self, around: Surroundings, token: BlobToken, after: asyncio.Task[None] | None) -> Transfer:
        transfer = self._transfers[token.hash] = Transfer(around, token)
        self._unwanted.add(transfer)
        transfer.start(after)
        return transfer

    def replace(self, around: Surroundings, small: SmallTransfer) -> None:
        """Have an ordinary transfer take the place of one that has ended without the blob."""
        if self._transfers.get(small.token.hash) is not small:
            return
        self.remove(small)
        transfer = self._start(around, small.token, None)
        transfer.waiters, transfer.relay_priority = small.waiters, small.relay_priority
        self.set_wanted(transfer, bool(small.waiters))
        for peer, have in small.known.items():
            transfer.holder(peer, have)
        transfer.refresh()

    def look(self, now: float) -> None:
        """Time has passed."""
        for transfer in self:
            if isinstance(transfer, SmallTransfer):
                transfer.look(now)

    def stop(self, transfer: AnyTransfer) -> None:
        """End a transfer; what arrived is kept."""
        hash = transfer.token.hash
        self.remove(transfer)
        if isinstance(transfer, SmallTransfer):
            transfer.stop()
            return
        task = self._stopping[hash] = asyncio.get_running_loop().create_task(transfer.stop())
        self._tasks.add(task)

        def stopped(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self._stopping.get(hash) is task:
                del self._stopping[hash]

        task.add_done_callback(stopped)

    def remove(self, transfer: AnyTransfer) -> None:
        """A transfer has ended."""
        if self._transfers.get(transfer.token.hash) is transfer:
            del self._transfers[transfer.token.hash]
        self._unwanted.discard(transfer)

    def set_wanted(self, transfer: AnyTransfer, wanted: bool) -> None:
        """Whether somebody here waits for it."""
        (self._unwanted.discard if wanted else self._unwanted.add)(transfer)

    async def close(self) -> None:
        """Stop everything. No task is left."""
        transfers, self._transfers = list(self._transfers.values()), {}
        for transfer in transfers:
            if isinstance(transfer, SmallTransfer):
                transfer.stop()
            else:
                await transfer.stop()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- what is known of blobs that are under way ---------------------------------------------------

    def fetching(self, hash: str) -> bool:
        """Whether a blob is on its way in, or its transfer is being stopped."""
        return hash in self._transfers or hash in self._stopping

    async def stopped(self, hash: str) -> None:
        """Wait until the transfer of a blob that was stopped has let go of its file."""
        if (stopping := self._stopping.get(hash)) is not None:
            await asyncio.wait([stopping])

    @property
    def relayed(self) -> dict[str, int]:
        """The sizes of the blobs that nobody here waits for."""
        return {one.token.hash: one.token.size_bytes for one in self._unwanted if not one.waiters}

    def have(self, hash: bytes) -> BlobHave:
        """What is held of a blob, for others."""
        if self._store.exists(hash.hex()):
            return BlobHave(hash, None)
        transfer = self._transfers.get(hash.hex())
        held = transfer.held if transfer is not None else None
        return BlobHave(hash, held.to_bytes() if held is not None else b"")
