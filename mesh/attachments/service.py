"""Attachments: immutable bytes, added on one node and fetched on any other that holds their token."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from os import PathLike, fsdecode, fsencode
from pathlib import Path, PurePath
from random import Random
from typing import Any, BinaryIO

import msgspec

from mesh.attachments.exchange import Exchange, MayRelay, refuted
from mesh.attachments.handles import BlobHandle
from mesh.attachments.transfers import OnProgress, Waiter
from mesh.core.chunks import derived_hashes
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from mesh.errors import (
    BlobCorrupt,
    BlobNotFound,
    BlobTooLarge,
    FetchFailed,
    FetchTimeout,
    InvalidMetadata,
    InvalidToken,
    NotStarted,
)
from mesh.network.peers import Peers
from mesh.storage.blobs import BlobStore, Source

NORMAL_PRIORITY = 2

_HASH = re.compile(r"[0-9a-f]{64}")

MAX_BLOB_BYTES = 1 << 40
"""1 TiB: blobs over this are not fetched. Its chunk list takes 32 MiB of memory while it is under way."""


class Attachments:
    """The blobs of one node. All methods raise ``NotStarted`` before ``start()`` and after ``close()``."""

    def __init__(
        self,
        store: BlobStore,
        peers: Peers,
        *,
        node_id: str,
        random: Random,
        clock: Callable[[], float] = time.time,
        may_relay: MayRelay = lambda token, origin: True,
        max_blob_bytes: int = MAX_BLOB_BYTES,
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
            max_blob_bytes: larger blobs are neither fetched nor relayed.
        """
        self._store = store
        self._max_blob_bytes = max_blob_bytes
        self._whole_callbacks: list[Callable[[BlobToken], None]] = []
        self._exchange = Exchange(
            store,
            peers,
            node_id=node_id,
            random=random,
            clock=clock,
            may_relay=may_relay,
            max_blob_bytes=max_blob_bytes,
            on_whole=self._became_whole,
        )
        self._started = False
        self._adding: set[asyncio.Task[BlobToken]] = set()

    async def start(self) -> None:
        """Open the store and take part in the exchange of blobs.

        Raises:
            DataDirUnusable: the store's folder cannot be used.
        """
        await self._store.open()
        self._started = True
        self._exchange.start()

    async def close(self) -> None:
        """Stop every transfer (what arrived is kept) and ``add``, and close the store. May be repeated."""
        if self._started:
            self._started = False
            for adding in self._adding:
                adding.cancel()
            if self._adding:
                await asyncio.wait(self._adding)
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
    ) -> BlobToken:
        """Copy ``source`` in and name it: a path, bytes, or an async iterable of bytes.

        Args:
            name: for people; a path gives its last part.
            content_type: a MIME type, for people.
            custom: whatever else they want to know.

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
        if name is None and isinstance(source, str | PathLike):
            # The name of a file is bytes, which need not be text.
            name = fsencode(PurePath(fsdecode(source)).name).decode(errors="replace") or None
        metadata = _metadata(name, content_type, custom)
        adding = asyncio.get_running_loop().create_task(self._add(source, metadata), name="add an attachment")
        self._adding.add(adding)
        try:
            await asyncio.wait({adding})
        except asyncio.CancelledError:
            adding.cancel()
            await asyncio.wait({adding})
            if not adding.cancelled():
                adding.exception()
            raise
        finally:
            self._adding.discard(adding)
        if adding.cancelled():
            self._check_started()
        return adding.result()

    async def _add(self, source: Source, metadata: BlobMetadata) -> BlobToken:
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
    ) -> BlobHandle:
        """The blob, from whoever holds it; waits as long as nobody does.

        Fetches of the same blob share one transfer. Cancelling one does not stop the others; when the last
        one is cancelled, what arrived is kept for the next.

        Args:
            priority: ``TransferPriority``; higher ones are served first.
            on_progress: called on the event loop with every change.
            timeout: seconds.

        Raises:
            FetchTimeout: it is not whole after ``timeout``.
            FetchFailed: waiting does not help; says why.
            InvalidToken: the token cannot be true.
            BlobTooLarge: it is over what this node takes.
            StorageFull: there is no room here.
            DataDirUnusable: the folder for attachments cannot be written to.
        """
        self._check_started()
        if not isinstance(token, BlobToken):
            raise InvalidToken(f"a BlobToken is needed, as add() gives it, not {token!r}")
        try:
            token.check()
        except TypeError as error:
            raise InvalidToken(f"a token with fields of wrong types: {error}") from error
        derived_hashes(token)
        if token.size_bytes > self._max_blob_bytes:
            raise BlobTooLarge(token.hash, token.size_bytes, self._max_blob_bytes)
        waiter = Waiter(int(priority), on_progress)
        if self._store.exists(token.hash) and await self._held(token, waiter):
            return BlobHandle(self, token)
        self._exchange.join(token, waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter.done
        except TimeoutError:
            assert timeout is not None
            progress = waiter.last or BlobProgress("waiting", 0, token.size_bytes)
            state = f"{progress.state}: {progress.reason}" if progress.reason else progress.state
            raise FetchTimeout(
                token.hash, timeout, progress.downloaded_bytes, token.size_bytes, state
            ) from None
        finally:
            self._exchange.leave(token, waiter)
        return BlobHandle(self, token)

    async def exists(self, hash: str) -> bool:
        """Whether the blob is here, whole and verified."""
        self._check(hash)
        return self._store.exists(hash)

    async def info(self, hash: str) -> BlobToken | None:
        """The token under which a blob came here; ``None``: it is not here."""
        self._check(hash)
        return await self._store.info(hash)

    async def tokens(self) -> list[BlobToken]:
        """Every blob that is here whole."""
        self._check_started()
        found = [await self._store.info(hash) for hash in self._store.hashes()]
        return [token for token in found if token is not None]

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
        self._exchange.deleted(hash)

    async def storage_bytes(self) -> int:
        """The sum of the sizes of the blobs that are here whole."""
        self._check_started()
        return self._store.storage_bytes()

    # --- for the node --------------------------------------------------------------------------------

    def on_whole(self, callback: Callable[[BlobToken], None]) -> None:
        """Call ``callback`` whenever a blob has become whole here: added, fetched, or fetched for others."""
        self._whole_callbacks.append(callback)

    async def export(self, hash: str, destination: str | PathLike[str]) -> None:
        """Copy a blob to ``destination``, all at once (see :meth:`mesh.storage.blobs.BlobStore.export`)."""
        self._check(hash)
        try:
            await self._store.export(hash, destination)
        except BlobCorrupt:
            self._exchange.lost(hash)
            raise

    async def read(self, hash: str) -> bytes:
        """See :class:`~mesh.attachments.handles.BlobHandle`."""
        self._check(hash)
        try:
            return await self._store.read(hash)
        except BlobCorrupt:
            self._exchange.lost(hash)
            raise

    def path(self, hash: str) -> Path:
        """See :class:`~mesh.attachments.handles.BlobHandle`."""
        self._check(hash)
        return self._store.path(hash)

    def open_file(self, hash: str) -> BinaryIO:
        """See :class:`~mesh.attachments.handles.BlobHandle`."""
        self._check(hash)
        return self._store.open_file(hash)

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
            self._exchange.lost(token.hash)
            return False
        if (held.size_bytes, held.chunks_hash) != (token.size_bytes, token.chunks_hash):
            raise refuted(held)
        await self._store.keep(token.hash)
        waiter.tell(BlobProgress("completed", token.size_bytes, token.size_bytes))
        return True

    def _became_whole(self, token: BlobToken) -> None:
        for callback in self._whole_callbacks:
            callback(token)

    def _check(self, hash: object) -> None:
        self._check_started()
        if not isinstance(hash, str):
            raise InvalidToken(f"the hash of a blob is text, not {hash!r}")

    def _check_started(self) -> None:
        if not self._started:
            raise NotStarted("the node is not running: `async with Node(...)`, or await start() first")


def _metadata(name: object, content_type: object, custom: Any) -> BlobMetadata:
    try:
        described = {"name": name, "content_type": content_type, "custom": dict(custom or {})}
        metadata = msgspec.convert(described, BlobMetadata)
        msgspec.json.encode(metadata)  # refuses halves of surrogate pairs
    except (msgspec.ValidationError, UnicodeEncodeError, TypeError, ValueError) as error:
        raise InvalidMetadata(
            "an attachment", f"its name, content type or custom metadata: {error}"
        ) from error
    return metadata
