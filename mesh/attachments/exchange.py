"""Blobs on their way between nodes: what is fetched, from the demand here and elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from mesh.attachments.bulk import Bulk
from mesh.attachments.contests import Contests, Rival, identity_after, identity_of, refuted
from mesh.attachments.correspondence import Correspondence, MayRelay
from mesh.attachments.downlink import Downlink
from mesh.attachments.lanes import Lane
from mesh.attachments.oversize import RelayBytes
from mesh.attachments.readers import MayRead, Readers
from mesh.attachments.running import AnyTransfer, Running
from mesh.attachments.slots import Slots
from mesh.attachments.small import SmallTransfer
from mesh.attachments.transfers import Transfer
from mesh.attachments.waiters import Waiter, end_all
from mesh.core.chunks import ChunkMap
from mesh.core.demand import Identity
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.core.wire import BlobHave
from mesh.errors import BlobNotFound, MeshError, NotStarted, ProtocolViolation, StorageFull
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.storage.blobs import BlobStore

RELAY_PAUSE_SECONDS = 60.0
"""After a failure here that room would not heal, a blob is not fetched for others for so long."""

log = logging.getLogger(__name__)


class Exchange:
    """See the module. Everything here runs on the event loop's thread.

    Attributes:
        readers: who may have what is here.
        bulk: what carries the chunks.
        slots: what lets fetches begin.
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
        relay_bytes: RelayBytes,
        may_read: MayRead | None,
        max_blob_bytes: int,
        on_whole: Callable[[BlobToken], None],
        on_relay: Callable[[BlobToken], None],
        on_full: Callable[[StorageFull], None],
        on_idle: Callable[[str], None],
    ) -> None:
        """
        Args:
            relay_bytes: what bounds the size of blobs that are relayed, but for ``max_blob_bytes``.
            may_read: who may have which blob; ``None``: everybody every one.
            on_relay: told when a blob begins to be fetched for others only.
            on_full: told when a transfer waits for room; :meth:`room` tells it that there may be some.
            on_idle: told of a blob that nobody else wants of this node (any more).
        """
        self.store = store
        self.random = random
        self.readers = Readers(may_read, self._track)
        self.bulk = Bulk(store, peers, self.readers)
        self.slots = Slots()
        self._peers = peers
        self._on_whole = on_whole
        self._on_relay = on_relay
        self._on_full = on_full
        self._on_idle = on_idle
        self._transfers = Running(store)
        self._contests = Contests(self._next_turn)
        self._said = Correspondence(
            peers,
            store,
            self._transfers,
            node_id=node_id,
            clock=clock,
            may_relay=lambda token, origin: token.size_bytes <= max_blob_bytes and may_relay(token, origin),
            relay_bytes=relay_bytes,
            readers=self.readers,
            on_change=self._sync,
            on_asked=self._on_asked,
            on_have=self._on_have,
        )
        self._no_relay_until: dict[tuple[str, Identity], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        peers.on_up(lambda link: self._said.link_up(link.node_id))
        peers.on_down(self._on_down)

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take part from now on."""
        self._running = self.bulk.running = True
        self._said.start()
        for peer in self._peers.links:
            self._said.link_up(peer)

    async def close(self) -> None:
        """Stop everything; what arrived is kept. No task is left."""
        self._running = False
        self._said.close()
        closed = NotStarted("the node was closed while it fetched a blob")
        for waiters in [*(transfer.waiters for transfer in self._transfers), self._contests.close()]:
            end_all(waiters, closed)
        await self._transfers.close()
        await self.bulk.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # --- what happens here ------------------------------------------------------------------------------

    def join(self, token: BlobToken, waiter: Waiter) -> None:
        """``waiter`` wants the blob. Where another token of it is tried already, this one waits its turn."""
        transfer = self._transfers.get(token.hash)
        if transfer is not None and identity_of(transfer.token) != identity_of(token):
            if transfer.waiters:
                self._contests.add(token, [waiter])
                waiter.tell(BlobProgress("waiting", 0, token.size_bytes, [], "another token of it is tried"))
                self._sync(bytes.fromhex(token.hash))
                return
            self._transfers.stop(transfer)  # what somebody else asked for gives way to what this node wants
            transfer = None
        if transfer is None:
            transfer = self._transfers.start(self, token)
        transfer.name(token)
        transfer.waiters.append(waiter)
        self._transfers.set_wanted(transfer, True)
        if len(transfer.waiters) == 1:
            self._want(transfer)
        transfer.refresh()

    def _want(self, transfer: AnyTransfer) -> None:
        token = transfer.token
        if token.size_bytes:
            self._said.set_whole(bytes.fromhex(token.hash), False)  # whatever was thought: it is fetched
            self._said.want(token, transfer.priority)
            self._sync(bytes.fromhex(token.hash))

    def leave(self, token: BlobToken, waiter: Waiter) -> None:
        """``waiter`` wants the blob no more; the last one stops the transfer."""
        if self._contests.leave(token, waiter):
            self._unwant_if_nobody_waits(token.hash)
            return
        transfer = self._transfers.get(token.hash)
        if transfer is None or waiter not in transfer.waiters:
            return
        transfer.waiters.remove(waiter)
        if not transfer.waiters:
            self._transfers.set_wanted(transfer, False)
            hash = bytes.fromhex(token.hash)
            self._said.unwant(hash)
            if identity_of(transfer.token) not in self._said.relayed(hash):
                self._transfers.stop(transfer)
            self._next_turn(hash)

    def _unwant_if_nobody_waits(self, hash: str) -> None:
        transfer = self._transfers.get(hash)
        if hash not in self._contests and (transfer is None or not transfer.waiters):
            self._said.unwant(bytes.fromhex(hash))
        self._sync(bytes.fromhex(hash))

    def became_whole(self, token: BlobToken) -> None:
        """A blob is here whole now, however it came."""
        hash = bytes.fromhex(token.hash)
        transfer = self._transfers.get(token.hash)
        if transfer is not None:  # it was added while it was being fetched
            self._transfers.stop(transfer)
            same = identity_of(transfer.token) == identity_of(token)
            end_all(transfer.waiters, None if same else refuted(token))
        for identity, waiters in self._contests.end(token.hash):
            end_all(waiters, None if identity == identity_of(token) else refuted(token))
        self._said.unwant(hash)
        self._said.set_whole(hash, self.store.exists(token.hash))  # it may have been deleted meanwhile
        self._sync(hash)
        self._on_whole(token)

    def deleted(self, hash: str) -> None:
        """A blob is not here any more."""
        key = bytes.fromhex(hash)
        self._said.set_whole(key, False)
        self._sync(key)
        self.room()

    def fail(self, hash: str, error: MeshError) -> None:
        """End the transfer of a blob, if there is one, whatever its token."""
        for _, waiters in self._contests.end(hash):
            end_all(waiters, error)
        transfer = self._transfers.get(hash)
        if transfer is not None:
            transfer.fail(error)
            self._unwant_if_nobody_waits(hash)

    async def discard(self, hash: str) -> None:
        """Drop what has arrived of a blob that is neither whole nor under way."""
        await self._transfers.stopped(hash)
        here = self.store.exists(hash) or self.store.adding(hash)
        if hash not in self._transfers and not here:
            with suppress(BlobNotFound):
                await self.store.delete(hash)

    # --- what stays here ------------------------------------------------------------------------------------

    def fetching(self, hash: str) -> bool:
        """Whether the blob is on its way in, for this node or for others."""
        return self._transfers.fetching(hash)

    def coming(self, hash: str) -> BlobToken | None:
        """The token of a blob that is on its way in."""
        transfer = self._transfers.get(hash)
        return transfer.token if transfer is not None else None

    def moved_at(self, hash: str) -> float:
        """When the transfer of a blob last got on; long ago, if there is none."""
        transfer = self._transfers.get(hash)
        return transfer.moved_at if isinstance(transfer, Transfer) else float("-inf")

    def serving(self, hash: str) -> bool:
        """Whether somebody else wants the blob of this node."""
        return bool(self._said.listeners(bytes.fromhex(hash)))

    @property
    def relayed(self) -> dict[str, int]:
        """The sizes of the blobs that are on their way in for others only."""
        return self._transfers.relayed

    def relay(self, hash: str) -> None:
        """There is room now for a blob that was refused to be relayed."""
        self._said.judge_again(bytes.fromhex(hash))

    def room(self) -> None:
        """There may be room for what waits for it."""
        for transfer in self._transfers:
            transfer.retry()

    # --- what transfers need ----------------------------------------------------------------------------

    def lane(self, peer: str) -> Lane | None:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        return self.bulk.lane(peer) if self._running else None

    @property
    def downlink(self) -> Downlink:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        return self.bulk.downlink

    def asked(self, hash: str) -> Collection[str]:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        links, key = self._peers.links, bytes.fromhex(hash)
        asked = [peer for peer in self._said.asked_of(key) if peer in links]
        return [f"{links[peer]}{self._said.said_of(key, peer)}" for peer in asked]

    def grew(self, transfer: Transfer) -> None:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        self._said.grew(bytes.fromhex(transfer.token.hash))

    def stuck(self, transfer: AnyTransfer) -> None:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        if transfer.token.size_bytes:
            self._said.want_widely(bytes.fromhex(transfer.token.hash))

    def full(self, error: StorageFull) -> None:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        self._on_full(error)

    def falter(self, transfer: SmallTransfer) -> None:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        self._transfers.replace(self, transfer)

    def ended(self, transfer: AnyTransfer, error: MeshError | None) -> None:
        """See :class:`~mesh.attachments.surroundings.Surroundings`."""
        if self._transfers.get(transfer.token.hash) is not transfer:
            return
        if error is None:
            self._transfers.remove(transfer)
            end_all(transfer.waiters, None)
            self.became_whole(transfer.token)
            return
        log.log(logging.INFO if transfer.waiters else logging.WARNING, "fetch ended: %s", error)
        self._pause_relay(transfer.token)
        self._transfers.stop(transfer)
        end_all(transfer.waiters, error)
        if transfer.waiters:
            self._said.unwant(bytes.fromhex(transfer.token.hash))
        self._next_turn(bytes.fromhex(transfer.token.hash))

    # --- tokens of one blob that contradict each other --------------------------------------------------

    def _candidates(self, hash: bytes) -> dict[Identity, Rival]:
        """What could be tried instead of what is tried now."""
        found = self._contests.rivals(hash.hex())
        for identity in self._said.relayed(hash):
            if self._no_relay_until.get((hash.hex(), identity), 0.0) <= _now():
                size_bytes, chunks_hash = identity
                found.setdefault(identity, (BlobToken(hash.hex(), size_bytes, chunks_hash.hex()), []))
        transfer = self._transfers.get(hash.hex())
        if transfer is not None:
            found.pop(identity_of(transfer.token), None)
        return found

    def _next_turn(self, hash: bytes) -> None:
        """Try the next token; the one tried now gets another turn later."""
        transfer = self._transfers.get(hash.hex())
        if candidates := self._candidates(hash):
            identity = identity_after(
                candidates, identity_of(transfer.token) if transfer is not None else None
            )
            token, waiters = candidates[identity]
            self._contests.remove(token)
            if transfer is not None:
                self._transfers.stop(transfer)
                if transfer.waiters:
                    self._contests.add(transfer.token, transfer.waiters)
            following = self._transfers.start(self, token)
            following.waiters = waiters
            following.relay_priority = self._said.relayed(hash).get(identity, 0)
            for peer in transfer.whole_sources if transfer is not None else ():
                following.holder(peer, None)
            if waiters:
                self._want(following)
        self._sync(hash)

    def _time_turns(self, hash: bytes) -> None:
        contested = hash.hex() in self._transfers and bool(self._candidates(hash))
        self._contests.time(hash.hex(), contested=contested)

    # --- transfers --------------------------------------------------------------------------------------

    def _sync(self, hash: bytes) -> None:
        """Bring what others are told, and what is fetched for them, in line with the demand."""
        self._said.update(hash)
        transfer = self._transfers.get(hash.hex())
        if transfer is not None:
            relayed = self._said.relayed(hash)
            transfer.relay_priority = relayed.get(identity_of(transfer.token), 0)
            if not transfer.waiters and not transfer.relay_priority:
                self._transfers.stop(transfer)
                self._next_turn(hash)
                return
            for peer in set(transfer.sources) - self._said.asked_of(hash):
                transfer.gone(peer)
            transfer.refresh()
        self._time_turns(hash)
        if not self.serving(hash.hex()):
            self._on_idle(hash.hex())

    def _pause_relay(self, token: BlobToken) -> None:
        now, key = _now(), (token.hash, identity_of(token))
        paused = self._no_relay_until  # the oldest first
        while paused and paused[next(iter(paused))] <= now:
            del paused[next(iter(paused))]
        paused.pop(key, None)
        paused[key] = now + RELAY_PAUSE_SECONDS

    # --- what links bring -------------------------------------------------------------------------------

    def _on_down(self, link: Link, reason: str) -> None:
        self._track(self.bulk.drop(link.node_id))
        for transfer in self._transfers:
            transfer.gone(link.node_id)
        self._said.link_down(link.node_id)

    def _on_asked(self, hash: bytes) -> None:
        """What is left here of an earlier fetch is served while the rest is fetched."""
        if hash.hex() not in self._transfers and hash.hex() in self.store.partials():
            self._start_relay(hash)

    def _on_have(self, link: Link, message: BlobHave) -> None:
        hash = message.hash.hex()
        transfer = self._transfers.get(hash)
        if transfer is None and message.chunks != b"":
            transfer = self._start_relay(message.hash)
        if transfer is not None:
            count = transfer.token.chunk_count
            try:
                have = ChunkMap.from_bytes(count, message.chunks) if message.chunks is not None else None
            except ProtocolViolation as error:  # as it should be, if it speaks of another token of the blob
                log.info("%s is no source of blob %s: %s", link, hash, error)
                have = ChunkMap(count)
            transfer.holder(link.node_id, have)

    def _start_relay(self, hash: bytes) -> AnyTransfer | None:
        """Somebody holds what others asked this node for: fetch it, if that is what is wanted."""
        candidates = self._candidates(hash)
        if not candidates:
            return None
        relayed = self._said.relayed(hash)
        identity = max(candidates, key=lambda other: relayed.get(other, 0))
        transfer = self._transfers.start(self, candidates[identity][0])
        transfer.relay_priority = relayed[identity]
        self._on_relay(transfer.token)
        self._time_turns(hash)
        return transfer

    def _track(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _now() -> float:
    return asyncio.get_running_loop().time()
