"""Blobs between nodes: who wants what, who is told what is held here, and the transfers that follow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from mesh.attachments.announcing import Announcer
from mesh.attachments.bulk import Bulk
from mesh.attachments.lanes import Lane
from mesh.attachments.serving import hash_bytes
from mesh.attachments.transfers import Transfer, Waiter
from mesh.core.chunks import ChunkMap
from mesh.core.demand import MAX_HOPS, Demands, Send
from mesh.core.tokens import MAX_BLOB_BYTES, BlobToken
from mesh.core.wire import (
    BlobAsk,
    BlobForget,
    BlobHave,
    BlobServed,
)
from mesh.errors import BlobNotFound, InvalidToken, MeshError, NotStarted, ProtocolViolation
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.storage.blobs import BlobStore

TICK_SECONDS = 5.0
"""How often demands are looked through for what is due, while there are any."""

RELAY_PAUSE_SECONDS = 60.0
"""After a failure here, a blob is not fetched for others for so long."""

MAX_ORIGIN_LENGTH = 128

MayRelay = Callable[[BlobToken, str], bool]

log = logging.getLogger(__name__)


class Exchange:
    """See the module. Everything here runs on the event loop's thread.

    Attributes:
        bulk: what carries the chunks.
    """

    def __init__(
        self,
        store: BlobStore,
        peers: Peers,
        *,
        node_id: str,
        random: Random,
        clock: Callable[[], float],
        may_relay: MayRelay,
        max_blob_bytes: int,
        on_whole: Callable[[BlobToken], None],
    ) -> None:
        self.store = store
        self.random = random
        self.bulk = Bulk(store, peers)
        self._peers = peers
        self._clock = clock
        self._may_relay = may_relay
        self._max_blob_bytes = max_blob_bytes
        self._on_whole = on_whole
        self._demands = Demands(node_id)
        self._transfers: dict[str, Transfer] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._announcer = Announcer(self._tell)
        self._no_relay_until: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._running = False
        for message_type, handler in (
            (BlobAsk, self._on_ask),
            (BlobForget, self._on_forget),
            (BlobServed, self._on_served),
            (BlobHave, self._on_have),
        ):
            peers.handle(message_type, handler)
        peers.on_up(self._on_up)
        peers.on_down(self._on_down)

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take part from now on."""
        self._running = self.bulk.running = True
        for link in self._peers.links.values():
            self._on_up(link)

    async def close(self) -> None:
        """Stop everything; what arrived is kept. No task is left."""
        self._running = False
        if self._ticking is not None:
            self._ticking.cancel()
        self._announcer.close()
        transfers, self._transfers = list(self._transfers.values()), {}
        for transfer in transfers:
            for waiter in transfer.waiters:
                if not waiter.done.done():
                    waiter.done.set_exception(NotStarted("the node was closed while it fetched a blob"))
            await transfer.stop()
        await self.bulk.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # --- what happens here ------------------------------------------------------------------------------

    def join(self, token: BlobToken, waiter: Waiter) -> None:
        """``waiter`` wants the blob.

        Raises:
            InvalidToken: it is being fetched under a token that contradicts this one.
        """
        transfer = self._transfers.get(token.hash)
        if transfer is not None and _identity(transfer.token) != _identity(token):
            if transfer.waiters:
                raise InvalidToken(f"{token.hash} is being fetched with another size or chunks_hash")
            self._stop(transfer)  # what somebody else asked for gives way to what this node wants
            transfer = None
        if transfer is None:
            transfer = self._start(token)
        transfer.name(token)
        transfer.waiters.append(waiter)
        if len(transfer.waiters) == 1 and token.size_bytes:
            now, hash = self._now(), bytes.fromhex(token.hash)
            chunks_hash = bytes.fromhex(token.chunks_hash)
            self._send(
                self._demands.want(
                    hash, token.size_bytes, chunks_hash, transfer.priority, self._sequence(), now
                )
            )
            self._sync(hash)
        transfer.refresh()

    def leave(self, token: BlobToken, waiter: Waiter) -> None:
        """``waiter`` wants the blob no more; the last one stops the transfer."""
        transfer = self._transfers.get(token.hash)
        if transfer is None or waiter not in transfer.waiters:
            return
        transfer.waiters.remove(waiter)
        if not transfer.waiters:
            hash = bytes.fromhex(token.hash)
            self._send(self._demands.unwant(hash))
            if not transfer.relay_priority and not self._demands.relayed(hash):
                self._stop(transfer)
            self._sync(hash)

    def became_whole(self, token: BlobToken) -> None:
        """A blob is here whole now, however it came."""
        transfer = self._transfers.get(token.hash)
        if transfer is not None:  # it was added while it was being fetched
            self._stop(transfer)
            self._settle(transfer, None)
        hash = bytes.fromhex(token.hash)
        self._send(self._demands.set_whole(hash, True))
        self._announcer.tell_all(hash)
        self._sync(hash)
        self._on_whole(token)

    def deleted(self, hash: str) -> None:
        """A blob is not here any more."""
        key = bytes.fromhex(hash)
        self._send(self._demands.set_whole(key, False))
        self._announcer.tell_all(key)
        self._sync(key)

    def fail(self, hash: str, error: MeshError) -> None:
        """End the transfer of a blob, if there is one."""
        transfer = self._transfers.get(hash)
        if transfer is not None:
            transfer.fail(error)

    async def discard(self, hash: str) -> None:
        """Drop what has arrived of a blob that is neither whole nor under way."""
        stopping = self._stopping.get(hash)
        if stopping is not None:
            await asyncio.wait([stopping])
        if hash not in self._transfers and not self.store.exists(hash):
            with suppress(BlobNotFound):
                await self.store.delete(hash)

    # --- what transfers need ----------------------------------------------------------------------------

    def lane(self, peer: str) -> Lane | None:
        """See :class:`~mesh.attachments.transfers.Surroundings`."""
        return self.bulk.lane(peer) if self._running else None

    def asked(self, hash: str) -> Collection[str]:
        """See :class:`~mesh.attachments.transfers.Surroundings`."""
        links = self._peers.links
        return [str(links[peer]) for peer in self._demands.asked_of(bytes.fromhex(hash)) if peer in links]

    def grew(self, transfer: Transfer) -> None:
        """See :class:`~mesh.attachments.transfers.Surroundings`."""
        self._announcer.grew(bytes.fromhex(transfer.token.hash))

    def stuck(self, transfer: Transfer) -> None:
        """See :class:`~mesh.attachments.transfers.Surroundings`."""
        hash = bytes.fromhex(transfer.token.hash)
        if transfer.token.size_bytes:
            self._send(self._demands.repeat(hash, self._sequence(), self._now(), wide=True))

    def ended(self, transfer: Transfer, error: MeshError | None) -> None:
        """See :class:`~mesh.attachments.transfers.Surroundings`."""
        if self._transfers.get(transfer.token.hash) is not transfer:
            return
        if error is None:
            del self._transfers[transfer.token.hash]
            self._settle(transfer, None)
            self.became_whole(transfer.token)
            return
        log.log(logging.INFO if transfer.waiters else logging.WARNING, "fetch ended: %s", error)
        self._no_relay_until[transfer.token.hash] = self._now() + RELAY_PAUSE_SECONDS
        self._stop(transfer)
        self._settle(transfer, error)
        self._sync(bytes.fromhex(transfer.token.hash))

    # --- transfers --------------------------------------------------------------------------------------

    def _start(self, token: BlobToken) -> Transfer:
        transfer = self._transfers[token.hash] = Transfer(self, token)
        transfer.start(self._stopping.get(token.hash))
        return transfer

    def _stop(self, transfer: Transfer) -> None:
        hash = transfer.token.hash
        if self._transfers.get(hash) is transfer:
            del self._transfers[hash]
        task = self._stopping[hash] = self._track(transfer.stop())

        def stopped(_: asyncio.Task[None]) -> None:
            if self._stopping.get(hash) is task:
                del self._stopping[hash]

        task.add_done_callback(stopped)

    def _settle(self, transfer: Transfer, error: MeshError | None) -> None:
        for waiter in transfer.waiters:
            if waiter.done.done():
                continue
            if error is None:
                waiter.done.set_result(None)
            else:
                waiter.done.set_exception(error)
        if transfer.waiters:
            self._send(self._demands.unwant(bytes.fromhex(transfer.token.hash)))

    def _sync(self, hash: bytes) -> None:
        """Bring what others are told, and what is fetched for them, in line with the demand."""
        self._announcer.set_listeners(hash, self._demands.listeners(hash))
        transfer = self._transfers.get(hash.hex())
        if transfer is not None:
            relayed = self._demands.relayed(hash)
            transfer.relay_priority = relayed[2] if relayed is not None else 0
            if not transfer.waiters and relayed is None:
                self._stop(transfer)
                return
            for peer in set(transfer.sources) - self._demands.asked_of(hash):
                transfer.gone(peer)
            transfer.refresh()
        self._watch()

    # --- what is held here -----------------------------------------------------------------------------

    def _have(self, hash: bytes) -> BlobHave:
        if self.store.exists(hash.hex()):
            return BlobHave(hash, None)
        transfer = self._transfers.get(hash.hex())
        held = transfer.held if transfer is not None else None
        return BlobHave(hash, held.to_bytes() if held is not None else b"")

    def _tell(self, peer: str, hash: bytes) -> None:
        link = self._peers.links.get(peer)
        if link is not None:
            link.send(self._have(hash))

    # --- what links bring -------------------------------------------------------------------------------

    def _on_up(self, link: Link) -> None:
        if self._running:
            self._send(self._demands.link_up(link.node_id))
            self._sync_all()

    def _on_down(self, link: Link, reason: str) -> None:
        self._track(self.bulk.drop(link.node_id))
        for transfer in list(self._transfers.values()):
            transfer.gone(link.node_id)
        self._announcer.forget(link.node_id)
        before = self._demands.blobs
        self._send(self._demands.link_down(link.node_id))
        self._sync_all(before)

    def _on_ask(self, link: Link, ask: BlobAsk) -> None:
        hash = hash_bytes(ask.hash)
        token = BlobToken(hash.hex(), ask.size_bytes, hash_bytes(ask.chunks_hash).hex())
        if not (0 <= ask.hops <= MAX_HOPS and 0 <= ask.size_bytes <= MAX_BLOB_BYTES):
            raise ProtocolViolation(f"a demand over {ask.hops} hops for {ask.size_bytes} bytes")
        if len(ask.origin) > MAX_ORIGIN_LENGTH:
            raise ProtocolViolation(f"an origin of {len(ask.origin)} characters")
        if not self._running:
            return
        relay = ask.size_bytes <= self._max_blob_bytes and self._may_relay(token, ask.origin)
        self._send(self._demands.set_whole(hash, self.store.exists(token.hash)))
        self._send(self._demands.asked(link.node_id, ask, relay=relay, now=self._now()))
        if not self._announcer.listens(hash, link.node_id):
            self._sync(hash)  # which tells it
        elif link.node_id in self._demands.listeners(hash):
            self._tell(link.node_id, hash)
            self._sync(hash)

    def _on_forget(self, link: Link, forget: BlobForget) -> None:
        self._send(self._demands.forgotten(link.node_id, forget, self._now()))
        self._sync(forget.hash)

    def _on_served(self, link: Link, message: BlobServed) -> None:
        self._send(self._demands.served(link.node_id, message))
        self._sync(message.hash)

    def _on_have(self, link: Link, message: BlobHave) -> None:
        if not self._running or not self._demands.accepted(link.node_id, message.hash):
            return
        hash = message.hash.hex()
        transfer = self._transfers.get(hash)
        if transfer is None and message.chunks != b"":
            transfer = self._start_relay(message.hash)
        if transfer is not None:
            count = transfer.token.chunk_count
            have = ChunkMap.from_bytes(count, message.chunks) if message.chunks is not None else None
            transfer.holder(link.node_id, have)

    def _start_relay(self, hash: bytes) -> Transfer | None:
        """Somebody holds what others asked this node for: fetch it, if that is what is wanted."""
        relayed = self._demands.relayed(hash)
        if relayed is None or self._no_relay_until.get(hash.hex(), 0.0) > self._now():
            return None
        size_bytes, chunks_hash, priority = relayed
        transfer = self._start(BlobToken(hash.hex(), size_bytes, chunks_hash.hex()))
        transfer.relay_priority = priority
        return transfer

    # --- time -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._ticking is None and self._running and self._demands.blobs:
            self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = self._now()
        self._no_relay_until = {hash: until for hash, until in self._no_relay_until.items() if until > now}
        before = self._demands.blobs
        sends, due = self._demands.expire(now)
        for hash in due:
            sends += self._demands.repeat(hash, self._sequence(), now, wide=False)
        self._send(sends)
        self._sync_all(before)
        self._watch()

    def _sync_all(self, also: Collection[bytes] = ()) -> None:
        for hash in {*self._demands.blobs, *also}:
            self._sync(hash)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _sequence(self) -> int:
        """Grows over restarts too."""
        return int(self._clock() * 1000)

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            link = self._peers.links.get(send.link)
            if link is not None:
                link.send(send.message)

    def _track(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _identity(token: BlobToken) -> tuple[int, str]:
    return token.size_bytes, token.chunks_hash
