"""Attachments: immutable bytes, added on one node and fetched on any other that holds their token."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterable, Callable, Collection, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from random import Random
from typing import BinaryIO

from mesh.attachments.arguments import check_timeout, check_token, described
from mesh.attachments.contests import refuted
from mesh.attachments.correspondence import MayRelay
from mesh.attachments.exchange import Exchange
from mesh.attachments.handles import BlobHandle
from mesh.attachments.holding import Holding, holdings
from mesh.attachments.keeping import Keeping, Referred
from mesh.attachments.readers import MayRead
from mesh.attachments.repairing import Repairs, Unrepaired
from mesh.attachments.verifying import VerifyReport, verify_all
from mesh.attachments.waiters import OnProgress, Waiter
from mesh.attachments.work import Work
from mesh.core.rates import NO_LIMITS, Limits
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from mesh.errors import (
    BlobCorrupt,
    BlobNotFound,
    FetchFailed,
    InvalidToken,
    NotStarted,
    StorageFull,
)
from mesh.network.peers import Peers
from mesh.storage.blobs import BlobStore, Source

NORMAL_PRIORITY = 2
LOW_PRIORITY = 1

log = logging.getLogger(__name__)

_HASH = re.compile(r"[0-9a-f]{64}")

MAX_BLOB_BYTES = 1 << 40
"""1 TiB: blobs over this are not fetched. Its chunk list takes 32 MiB of memory while it is under way."""


async def _nothing_refers(hashes: Collection[str]) -> Collection[str]:
    return ()


class Attachments:
    """The blobs of one node. All methods raise ``NotStarted`` before ``start()`` and after ``close()``.

        token = await node.attachments.add("map.mbtiles")  # on one node; a document may hold the token
        handle = await node.attachments.fetch(token, timeout=60)  # on any other; then handle.open()

    A blob stays for ten minutes after it was added, fetched, opened, read or exported, and then for as long
    as something needs it: a document that holds its token, a distribution that is neither cancelled nor
    expired, a handle that is alive, a node that fetches it from here, or :meth:`pin`.
    """

    def __init__(
        self,
        store: BlobStore,
        peers: Peers,
        *,
        node_id: str,
        random: Random,
        clock: Callable[[], float] = time.time,
        may_relay: MayRelay = lambda token, origin: True,
        may_read: MayRead | None = None,
        max_blob_bytes: int = MAX_BLOB_BYTES,
        limits: Limits = NO_LIMITS,
        referred: Referred = _nothing_refers,
        cache_bytes: int | None = None,
    ) -> None:
        """
        Args:
            store: keeps the bytes; opened by ``start`` and closed by ``close``.
            peers: the links; the handlers of all attachment messages are registered here.
            node_id: this node, as its peers know it.
            random: breaks ties.
            clock: seconds since the epoch; only has to grow from one life of the node to the next.
            may_relay: whether this node fetches a blob for others, given its token (without metadata) and the
                node that wants it.
            may_read: whether a peer may have a blob, in a closed mesh; :meth:`reconsider` and
                :meth:`reconsider_peer` say when that changes.
            max_blob_bytes: larger blobs are neither fetched nor relayed.
            limits: caps of what is sent and fetched, from the start on.
            referred: which of these blobs documents and distributions refer to; :meth:`reconsider` says when
                that changes.
            cache_bytes: what blobs that are here for others only may take; ``None`` for no bound.
        """
        self._store = store
        self._peers = peers
        self._max_blob_bytes = max_blob_bytes
        self._whole_callbacks: list[Callable[[BlobToken], None]] = []
        self._exchange = Exchange(
            store,
            peers,
            node_id=node_id,
            random=random,
            clock=clock,
            may_relay=lambda token, origin: may_relay(token, origin) and self._keeping.may_relay(token),
            relay_bytes=lambda token, origin: cache_bytes if may_relay(token, origin) else None,
            may_read=may_read,
            max_blob_bytes=max_blob_bytes,
            on_whole=self._became_whole,
            on_relay=self._relays,
            on_full=lambda error: self._keeping.full(error),
            on_idle=lambda hash: self._keeping.idle(hash),
        )
        self._keeping = Keeping(store, self._exchange, referred, cache_bytes)
        store.on_lost(self._lost)
        self._limits = limits
        self._repairs = Repairs(
            lambda token, look: self.fetch(token, priority=LOW_PRIORITY, on_progress=look),
            self._exchange.moved_at,
        )
        self._started = False
        self._work = Work()

    async def start(self) -> None:
        """Open the store and take part in the exchange of blobs.

        Raises:
            DataDirUnusable: the store's folder cannot be used.
        """
        await self._store.open()
        self._started = True
        self._exchange.bulk.set_limits(self._limits)
        self._exchange.start()
        self._keeping.start()

    async def close(self) -> None:
        """Stop every transfer (what arrived is kept), ``add`` and ``verify``, and close the store. May be
        repeated."""
        if self._started:
            self._started = False
            await self._work.close()
            await self._keeping.close()
            await self._exchange.close()
            await self._store.close()

    # --- the public surface -------------------------------------------------------------------------

    async def add(
        self,
        source: Source,
        *,
        name: str | None = None,
        content_type: str | None = None,
        custom: Mapping[str, str] | None = None,
        link: bool = False,
    ) -> BlobToken:
        """Copy ``source`` in and name it: a path, bytes, or an async iterable of bytes.

        It goes after ten minutes unless something needs it by then: see :class:`Attachments`.

        Args:
            name: for people; a path gives its last part.
            content_type: a MIME type, for people.
            custom: whatever else they want to know.
            link: make no copy: the file at the path ``source`` is read where it is whenever it is needed.
                Once it has changed, the blob is not held here any more; ``Node.missing_blobs()`` names those
                that are distributed nevertheless.

        Raises:
            SourceError: it cannot be read: ``SourceNotFound``, ``SourceNotAFile``, ``SourceUnreadable`` or
                ``SourceChanged``.
            StorageFull: there is no room; nothing of it is kept.
            DataDirUnusable: the folder for attachments cannot be written to.
            InvalidMetadata: a ``SourceError``: name, content type or custom metadata are not text.
            NotStarted: the node was closed meanwhile.
            TypeError: the source is of the wrong type.
        """
        self._check_started()
        if link and not isinstance(source, str | PathLike):
            raise TypeError(f"only a path can be linked to, not {type(source).__name__}")
        metadata = described(source, name, content_type, custom)
        return await self._work.do(self._add(source, metadata, link=link), "add an attachment")

    async def _add(self, source: Source, metadata: BlobMetadata, *, link: bool) -> BlobToken:
        if link:
            assert isinstance(source, str | PathLike)
            token = await self._store.link(source, metadata)
        else:
            try:
                token = await self._store.add(source, metadata)
            except StorageFull as full:
                if isinstance(source, AsyncIterable) or not await self._keeping.make_room(full.missing):
                    raise
                token = await self._store.add(source, metadata)
        if self._started:
            self._exchange.became_whole(token)
        return token

    async def fetch(
        self,
        token: BlobToken,
        *,
        priority: int = NORMAL_PRIORITY,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        wait_for_room: bool = True,
    ) -> BlobHandle:
        """The blob, from whoever holds it; waits as long as nobody does.

        The blob stays for as long as the handle is alive: see :class:`Attachments`.

        Fetches of the same blob share one transfer. Cancelling one does not stop the others; when the last
        one is cancelled, what arrived is kept for the next.

        Args:
            priority: ``TransferPriority``; higher ones are served first.
            on_progress: called on the event loop with every change.
            timeout: seconds.
            wait_for_room: while there is no room here, wait (``stalled``), and go on when there is.

        Raises:
            FetchTimeout: it is not whole after ``timeout``.
            FetchFailed: waiting does not help; says why.
            InvalidToken: the token cannot be true.
            InvalidFetch: ``timeout`` is no number of seconds.
            BlobTooLarge: it is over what this node takes.
            StorageFull: there is no room here, and it shall not wait for it, or there can never be.
            DataDirUnusable: the folder for attachments cannot be written to.
        """
        self._check_started()
        check_token(token, self._max_blob_bytes)
        check_timeout(timeout)
        waiter = Waiter(int(priority), on_progress, patient=wait_for_room)
        handle = self._keeping.hold(BlobHandle(self, token))
        if self._store.exists(token.hash) and await self._held(token, waiter):
            return handle
        del handle  # else whoever keeps the error that follows would keep what arrived
        self._exchange.join(token, waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter.done
        except TimeoutError:
            assert timeout is not None
            raise waiter.timed_out(token, timeout) from None
        finally:
            self._exchange.leave(token, waiter)
            self._keeping.touch(token.hash)
        handle = self._keeping.hold(BlobHandle(self, token))
        with suppress(BlobNotFound):  # it was deleted at once
            await self._store.keep(token.hash)  # it may have become whole for others
        return handle

    async def exists(self, hash: str) -> bool:
        """Whether the blob is here, whole and verified."""
        self._check(hash)
        return await self._store.holds(hash)

    async def info(self, hash: str) -> BlobToken | None:
        """The token under which a blob came here; ``None``: it is not here."""
        self._check(hash)
        return await self._store.info(hash)

    async def tokens(self) -> list[BlobToken]:
        """Every blob that is here whole."""
        self._check_started()
        found = [await self._store.info(hash) for hash in self._store.hashes()]
        return [token for token in found if token is not None]

    async def holdings(self) -> list[Holding]:
        """Every blob of which something is here, with what keeps it: the whole ones, then the others."""
        self._check_started()
        return await holdings(self._store, self._exchange.coming, self._exchange.relayed)

    async def delete(self, hash: str) -> None:
        """Remove this node's copy, or what is here of it; a fetch of it that is under way fails.

        Raises:
            BlobNotFound: nothing of it is here.
        """
        self._check(hash)
        if not _HASH.fullmatch(hash):
            raise BlobNotFound(hash)
        self._exchange.fail(hash, FetchFailed(hash, "it was deleted while it was fetched"))
        await self._store.delete(hash)
        if self._store.pinned(hash):
            await self._store.pin(hash, pinned=False)
        self._exchange.deleted(hash)

    async def pin(self, hash: str) -> None:
        """Keep a blob that is here, whatever happens, until it is unpinned or deleted; remembered across
        restarts.

        Raises:
            BlobNotFound: it is not here.
            StorageFull, DataDirUnusable: it cannot be written down.
        """
        self._check(hash)
        await self._store.keep(hash)
        await self._store.pin(hash, pinned=True)

    async def unpin(self, hash: str) -> None:
        """Take :meth:`pin` back: the blob stays for ten minutes, or for as long as something else needs it.

        One that is not pinned is left alone.
        """
        self._check(hash)
        if self._store.pinned(hash):
            self._keeping.touch(hash)
            await self._store.pin(hash, pinned=False)

    async def pinned(self, hash: str) -> bool:
        """Whether the blob is pinned."""
        self._check(hash)
        return self._store.pinned(hash)

    async def verify(self) -> VerifyReport:
        """Read every blob again. Chunks that the disk has damaged are dropped, and fetched from whoever holds
        them, as is what is missing of blobs that were damaged earlier.

        That goes on for as long as something comes; once nothing has come for a minute, it is given up, or
        at once while no node is linked. A blob that is not repaired is not here whole any more, and what is
        good of it stays for as long as the whole would: the next ``verify`` or ``fetch`` goes on from there.
        """
        self._check_started()

        def alone() -> bool:
            return not self._peers.links

        async def repair(token: BlobToken) -> Unrepaired | None:
            return await self._repairs.repair(token, alone)

        return await self._work.do(verify_all(self._store, repair, alone), "verify the attachments")

    async def storage_bytes(self) -> int:
        """The sum of the sizes of the blobs that are here whole."""
        self._check_started()
        return self._store.storage_bytes()

    # --- for the node --------------------------------------------------------------------------------

    def set_limits(self, limits: Limits) -> None:
        """Cap what is sent and fetched, from now on."""
        self._check_started()
        self._limits = limits
        self._exchange.bulk.set_limits(limits)

    def on_whole(self, callback: Callable[[BlobToken], None]) -> None:
        """Call ``callback`` whenever a blob has become whole here: added, fetched, or fetched for others."""
        self._whole_callbacks.append(callback)

    async def export(self, hash: str, destination: str | PathLike[str]) -> None:
        """Copy a blob to ``destination``, all at once (see :meth:`mesh.storage.blobs.BlobStore.export`)."""
        self._use(hash)
        try:
            await self._store.export(hash, destination)
        except StorageFull as full:
            beside_blobs = full.reserve > 0
            if not beside_blobs or not await self._keeping.make_room(full.missing):
                raise
            await self._store.export(hash, destination)

    async def read(self, hash: str) -> bytes:
        """See :class:`~mesh.attachments.handles.BlobHandle`."""
        self._use(hash)
        return await self._store.read(hash)

    def path(self, hash: str) -> Path:
        """See :class:`~mesh.attachments.handles.BlobHandle`."""
        self._use(hash)
        return self._store.path(hash)

    def open_file(self, hash: str) -> BinaryIO:
        """See :class:`~mesh.attachments.handles.BlobHandle`."""
        self._use(hash)
        return self._store.open_file(hash)

    def reconsider(self, hash: str) -> None:
        """What refers to a blob may have changed."""
        if self._started:
            self._exchange.readers.reconsider(hash=bytes.fromhex(hash))
        if self._started and (self._store.exists(hash) or hash in self._store.damaged()):
            self._keeping.touch(hash)

    def reconsider_peer(self, peer: str) -> None:
        """What a peer says of itself has changed."""
        if self._started:
            self._exchange.readers.reconsider(peer=peer)

    async def discard_partial(self, hash: str) -> None:
        """Drop what has arrived of a blob that nobody fetches any more; a whole blob stays."""
        self._check_started()
        await self._exchange.discard(hash)

    @property
    def count(self) -> int:
        """How many blobs are here whole."""
        return len(self._store.hashes())

    @property
    def held_bytes(self) -> int:
        """The sum of their sizes."""
        return self._store.storage_bytes()

    @property
    def received_bytes(self) -> int:
        """Bytes of chunks received since the start."""
        return self._exchange.bulk.received_bytes

    @property
    def served_bytes(self) -> int:
        """Bytes of chunks sent since the start."""
        return self._exchange.bulk.server.served_bytes

    async def _held(self, token: BlobToken, waiter: Waiter) -> bool:
        """Whether the blob is here indeed."""
        held = await self._store.info(token.hash)
        if held is None:  # it was damaged
            return False
        if (held.size_bytes, held.chunks_hash) != (token.size_bytes, token.chunks_hash):
            raise refuted(held)
        try:
            await self._store.keep(token.hash)
        except BlobNotFound:  # not any more
            return False
        waiter.tell(BlobProgress("completed", token.size_bytes, token.size_bytes))
        return True

    def _lost(self, error: BlobCorrupt, token: BlobToken | None) -> None:
        log.error("%s", error)
        self._exchange.deleted(error.hash)
        self._keeping.touch(error.hash)
        if token is not None and self._started:
            self._work.begin(self._repair(token), f"repair {error.hash[:16]}")

    async def _repair(self, token: BlobToken) -> None:
        unrepaired = await self._repairs.repair(token)
        if unrepaired is not None:
            log.error("blob %s is damaged and not repaired: %s", token.hash, unrepaired.reason)

    def _relays(self, token: BlobToken) -> None:
        self._keeping.touch(token.hash)
        self._keeping.trim()

    def _became_whole(self, token: BlobToken) -> None:
        self._keeping.touch(token.hash)
        self._keeping.trim()
        for callback in self._whole_callbacks:
            callback(token)

    def _check(self, hash: object) -> None:
        self._check_started()
        if not isinstance(hash, str):
            raise InvalidToken(f"the hash of a blob is text, not {hash!r}")

    def _use(self, hash: str) -> None:
        self._check(hash)
        if self._store.exists(hash):
            self._keeping.touch(hash)

    def _check_started(self) -> None:
        if not self._started:
            raise NotStarted("the node is not running: `async with Node(...)`, or await start() first")
