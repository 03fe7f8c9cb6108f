"""Which blobs stay: what nothing needs any more goes, and what is kept for others stays in its bounds."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

from mesh.attachments.handles import BlobHandle
from mesh.core.retention import Grace, evictions
from mesh.core.tokens import BlobToken
from mesh.errors import BlobNotFound, MeshError, StorageFull
from mesh.storage.blobs import BlobStore

COUNT_SECONDS = 1.0
"""What of the cache is in use is counted at most so often, however many ask for blobs to be relayed."""

Referred = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Which of these blobs something on this node refers to."""

log = logging.getLogger(__name__)


class Traffic(Protocol):
    """What is known of the blobs that move."""

    def fetching(self, hash: str) -> bool:
        """Whether the blob is on its way in."""

    def serving(self, hash: str) -> bool:
        """Whether somebody else wants the blob of this node."""

    @property
    def relayed(self) -> Mapping[str, int]:
        """The sizes of the blobs that are on their way in for others only."""

    def relay(self, hash: str) -> None:
        """There is room now for a blob that was refused to be relayed."""

    async def discard(self, hash: str) -> None:
        """Drop what has arrived of a blob that is neither whole nor under way."""

    def deleted(self, hash: str) -> None:
        """A blob is not here any more."""

    def room(self) -> None:
        """There may be room for what waits for it."""


class Keeping:
    """Removes, on its own:

    - blobs, whole or partial, that have been of no use for ``GRACE_SECONDS``: that nothing refers to, nobody
      has pinned, fetches, is being served, or holds a handle of;
    - of the blobs that are here for others only, those that were served least recently, when together they
      take more than ``cache_bytes``, or when their room is needed for something else.

    Nothing is polled: a blob is looked at when its time is over, and one that is in use then not again until
    :meth:`touch` says that this may have changed.
    """

    def __init__(
        self, store: BlobStore, traffic: Traffic, referred: Referred, cache_bytes: int | None
    ) -> None:
        """``cache_bytes``: ``None`` for no bound."""
        self._store = store
        self._traffic = traffic
        self._referred = referred
        self._cache_bytes = cache_bytes
        self._grace = Grace()
        self._handles: dict[str, weakref.WeakSet[BlobHandle]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._evicting = asyncio.Lock()
        self._running = False
        self._busy_bytes = 0
        self._counted_at = float("-inf")
        self._busy: dict[str, int] = {}  # what makes up _busy_bytes: relayed, promised to be, or being served
        self._refused: dict[str, BlobToken] = {}  # for lack of room, the first one first

    def start(self) -> None:
        """Begin: what is here has been of use until now."""
        self._running = True
        for hash in {*self._store.hashes(), *self._store.partials(), *self._store.damaged()}:
            self.touch(hash)
        self.trim()

    async def close(self) -> None:
        """Leave everything as it is. No task is left."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # --- what is of use ----------------------------------------------------------------------------------

    def touch(self, hash: str) -> None:
        """A blob was just used, or what refers to it has changed: its time begins anew."""
        if self._running:
            self._grace.begin(hash, self._now())
            self._watch()

    def hold(self, handle: BlobHandle) -> BlobHandle:
        """A blob stays for as long as ``handle`` is alive."""
        self._handles.setdefault(handle.token.hash, weakref.WeakSet()).add(handle)
        self.touch(handle.token.hash)
        return handle

    def _in_use(self, hash: str) -> bool:
        held = self._handles.get(hash)
        if held is not None and not held:
            del self._handles[hash]
        moves = self._traffic.fetching(hash) or self._traffic.serving(hash)
        return bool(held) or moves or self._store.adding(hash)

    # --- what is not ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        due = self._grace.next_due()
        if self._timer is None and due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._due)

    def _due(self) -> None:
        self._timer = None
        hashes = self._grace.take_due(self._now())
        if hashes:
            self._spawn(self._collect(hashes), "collect unreferenced blobs")
        self._watch()

    async def _collect(self, hashes: list[str]) -> None:
        unused: list[str] = []
        cached = {hash for hash, _ in self._store.cache()}
        for hash in hashes:
            if self._in_use(hash):
                self.touch(hash)
            elif not self._store.pinned(hash) and hash not in cached:
                unused.append(hash)
        try:
            referred = await self._referred(unused)
        except Exception:
            log.exception("cannot tell which blobs are of use: they stay, and are looked at again later")
            for hash in unused:
                self.touch(hash)
            return
        damaged = self._store.damaged()
        for hash in unused:
            whole = self._store.exists(hash)
            if hash in referred and (whole or hash in damaged):
                continue  # whatever changes that also touches it
            if hash in self._grace or self._store.pinned(hash):
                continue  # it was used meanwhile
            if self._in_use(hash):
                self.touch(hash)
                continue
            if whole:
                log.info("blob %s is removed: nothing refers to it", hash)
            await self._remove(hash)

    async def _remove(self, hash: str) -> None:
        self._grace.end(hash)
        self._handles.pop(hash, None)
        if not self._store.exists(hash):
            await self._traffic.discard(hash)
            return
        with suppress(BlobNotFound):  # it was deleted meanwhile
            await self._store.delete(hash)
        self._traffic.deleted(hash)

    # --- what is here for others only ---------------------------------------------------------------------

    def may_relay(self, token: BlobToken) -> bool:
        """Whether there is, or can be made, room among what is kept for others. Where that is all that is
        missing, :meth:`idle` sees to it later."""
        if self._cache_bytes is None or self._traffic.fetching(token.hash) or self._store.exists(token.hash):
            return True
        now = self._now()
        if now >= self._counted_at + COUNT_SECONDS:
            self._counted_at = now
            served = {hash: size for hash, size in self._store.cache() if self._traffic.serving(hash)}
            self._busy = {**served, **self._traffic.relayed}
            self._busy_bytes = sum(self._busy.values())
        if token.hash in self._busy:
            return True
        if self._busy_bytes + token.size_bytes > self._cache_bytes:
            if token.size_bytes <= self._cache_bytes:
                self._refused[token.hash] = token
            return False
        self._busy[token.hash] = token.size_bytes
        self._busy_bytes += token.size_bytes
        return True

    def idle(self, hash: str) -> None:
        """Nobody else wants a blob of this node (any more): its room is there for those that were refused."""
        self._refused.pop(hash, None)
        self._busy_bytes -= self._busy.pop(hash, 0)
        while self._refused:
            first, token = next(iter(self._refused.items()))
            if not self.may_relay(token):
                return  # nor are those behind it tried: that would take longer the more there are
            del self._refused[first]
            self._traffic.relay(first)

    def trim(self) -> None:
        """What is kept for others may have become too much."""
        if self._running and self._excess() > 0:
            self._spawn(self._evict_excess(), "evict cached blobs")

    def _excess(self) -> int:
        if self._cache_bytes is None:
            return 0
        taken = sum(size for _, size in self._store.cache()) + sum(self._traffic.relayed.values())
        return taken - self._cache_bytes

    async def _evict_excess(self) -> None:
        async with self._evicting:
            await self._evict(await self._evictable(self._excess()))

    def full(self, error: StorageFull) -> None:
        """A fetch waits for room."""
        self._spawn(self._make_room_for_fetch(error.missing), "make room for a fetch")

    async def _make_room_for_fetch(self, needed: int) -> None:
        if await self.make_room(needed):
            self._traffic.room()

    async def make_room(self, needed: int) -> bool:
        """Give up what is kept for others until ``needed`` bytes are free; nothing if that is not enough."""
        async with self._evicting:
            chosen = await self._evictable(needed)
            if sum(size for _, size in chosen) < needed:
                return False
            await self._evict(chosen)
        return True

    async def _evict(self, chosen: list[tuple[str, int]]) -> None:
        for hash, _ in chosen:
            if not self._in_use(hash):  # it was not when it was chosen, but this takes time
                await self._remove(hash)

    async def _evictable(self, needed: int) -> list[tuple[str, int]]:
        cache = self._store.cache()
        referred: Collection[str] = ()
        with suppress(MeshError):  # asked inside of a transaction, say: only the order is worse then
            referred = await self._referred([hash for hash, _ in cache])
        in_use = {hash for hash, _ in cache if self._store.pinned(hash) or self._in_use(hash)}
        return evictions(cache, needed, in_use=in_use, referred=referred)

    # --- time -------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if not self._running:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("failed to %s: %s", task.get_name(), error, exc_info=error)
