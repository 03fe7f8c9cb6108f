"""One blob on its way in: a FetchPlan run over lanes into a partial blob, for everybody who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

from mesh.attachments.asking import Asking
from mesh.attachments.downlink import IN_TURN
from mesh.attachments.progress import Tally, no_room, no_source
from mesh.attachments.surroundings import Surroundings
from mesh.attachments.wanted import Wanted
from mesh.core.chunks import HASH_BYTES, Buffer, ChunkMap, chunk_length, chunks_hash, hash_chunk
from mesh.core.fetching import Action, Ask, FetchPlan
from mesh.core.limits import peer_log
from mesh.core.picking import LIST
from mesh.core.tokens import CHUNK_BYTES, BlobProgress, BlobToken
from mesh.errors import FetchFailed, InvalidToken, MeshError, StorageFull
from mesh.storage.blobs import CorruptChunk, PartialBlob

ROOM_SECONDS = 30.0
"""A transfer that there is no room for looks again so often whether there is."""

STUCK_SECONDS = 20.0
"""A transfer that somebody here waits for and that got nothing for so long asks over every path."""

GROWTH_BYTES = 32 * 1024
"""Parts of chunks count as something once they are so many bytes: who trickles does not keep it waiting."""

log = peer_log(__name__)


class Transfer(Wanted):
    """See the module. Runs from :meth:`start` until it is whole, fails, or :meth:`stop`.

    Attributes:
        partial: what is here of it, once known.
    """

    def __init__(self, around: Surroundings, token: BlobToken) -> None:
        super().__init__(token)
        self.partial: PartialBlob | None = None
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._plan: FetchPlan | None = None
        self._asking = Asking(around, self)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._came_at = self._grew_at = self._loop.time()
        self._part_bytes = 0  # in parts of chunks, since it last grew
        self._tally = Tally()
        self._begins = asyncio.Event()  # once there is a source, or others can have what is left here
        if not token.size_bytes or token.hash in around.store.partials():
            self._begins.set()
        self._finishing = False
        self._full: StorageFull | None = None  # while there is no room; the timer then ends the pause
        self._ended = False

    @property
    def held(self) -> ChunkMap | None:
        """The chunks that are here, once known."""
        if self._plan is not None:
            return self._plan.held
        return self.partial.held if self.partial is not None else None

    @property
    def moved_at(self) -> float:
        """When it last got on: something of it came, or all of it is being looked at once more."""
        return self._loop.time() if self._finishing else self._came_at

    def name(self, token: BlobToken) -> None:
        """Keep the metadata of ``token``, which is of the same blob."""
        self.token = token
        if self.partial is not None:
            self.partial.token = token

    def start(self, after: asyncio.Task[None] | None) -> None:
        """Begin, once ``after`` (the end of an earlier transfer of the same blob) is through."""
        self._task = self._loop.create_task(self._begin(after), name=f"fetch {self.token.hash[:16]}")

    def stop(self) -> Coroutine[Any, Any, None]:
        """Stop; what arrived is kept. What is left to be awaited."""
        self._end()
        if self._task is not None:
            self._task.cancel()
        return self._stopped()

    async def _stopped(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})
        if self.partial is not None:
            await self.partial.close()

    def fail(self, error: MeshError) -> None:
        """End with an error."""
        if self._ended:
            return
        progress = BlobProgress("failed", self._tally.told, self.token.size_bytes, [], str(error))
        self._end()
        for waiter in self.waiters:
            waiter.tell(progress)
        self._around.ended(self, error)

    # --- what is learnt of holders ------------------------------------------------------------------

    def holder(self, peer: str, have: ChunkMap | None) -> None:
        """A peer says what it holds (``None``: everything)."""
        self.known[peer] = have
        if have is None or have:
            self._begins.set()
        if self._plan is not None:
            self._act(self._plan.holder(peer, have, self._loop.time()))

    def gone(self, peer: str) -> None:
        """A peer is not a source any more."""
        if self.known.pop(peer, self) is not self and self._plan is not None:
            self._tally.forget(peer=peer)
            self._asking.withdraw(peer, list(self._plan.requested(peer)))
            self._act(self._plan.gone(peer, self._loop.time()))

    def give_way(self) -> None:
        """See :class:`~mesh.attachments.downlink.Fetcher`."""
        if self._plan is not None:
            self._act(self._plan.give_way(self._loop.time()))

    def go_on(self) -> None:
        """See :class:`~mesh.attachments.downlink.Fetcher`."""
        if self._plan is not None:
            self._act(self._plan.tick(self._loop.time()))

    def refresh(self) -> None:
        """Who wants it has changed, or something that progress tells."""
        if self._plan is not None and not self._ended:
            self._around.downlink.enter(self)
        self._around.slots.raised(self)
        self._watch()
        self._report()

    # --- what lanes report -----------------------------------------------------------------------------

    def wants(self, index: int) -> bool:
        """See :class:`~mesh.attachments.lanes.Receiver`."""
        return not self._ended and self._plan is not None and self._plan.wants(index)

    def take_small(self, peer: str, data: Buffer) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        return False

    async def take_chunk(self, peer: str, index: int, data: Buffer) -> None:
        """See :class:`~mesh.attachments.lanes.Receiver`."""
        partial = self.partial
        if partial is None or self._plan is None:
            return
        problem = await _problem(partial.write(index, data))
        if self._plan is None or self.partial is not partial:
            return  # it was stopped meanwhile
        if problem is None:
            self._arrived(peer, index)
        elif not isinstance(problem, CorruptChunk):
            self._broke(problem)
        elif not self.ends(index, data):
            log.warning("%s sent wrong bytes and is not asked for a while: %s", peer, problem)
            self._tally.forget(index, peer)
            self._act(self._plan.corrupt(peer, index, self._loop.time()))

    async def take_list(self, peer: str, hashes: bytes) -> None:
        """See :class:`~mesh.attachments.lanes.Receiver`."""
        partial = self.partial
        if partial is None or self._plan is None or self._plan.list_known:
            return
        problem = await _problem(partial.set_hashes(hashes))
        if self._plan is None or self.partial is not partial:
            return  # it was stopped meanwhile
        count = len(hashes) // HASH_BYTES
        if problem is None:
            for index in partial.held:  # left here by an earlier attempt that lost the list
                self._plan.held.add(index)
            self._arrived(peer, LIST)
        elif not isinstance(problem, CorruptChunk):
            self._broke(problem)
        elif chunks_hash(hashes) == self.token.chunks_hash:
            self._refute(f"it has {count} chunks, and the token says {self.token.chunk_count}")
        elif count != self.token.chunk_count:
            self.refused(peer, LIST)
        else:
            log.warning("%s sent a wrong chunk list and is not asked for a while: %s", peer, problem)
            self._act(self._plan.corrupt(peer, LIST, self._loop.time()))

    def refused(self, peer: str, index: int) -> None:
        """See :class:`~mesh.attachments.lanes.Receiver`."""
        if self._plan is not None:
            self._act(self._plan.refused(peer, index, self._loop.time()))

    def alive(self, peer: str, index: int, size: int) -> None:
        """See :class:`~mesh.attachments.lanes.Receiver`."""
        if self._plan is not None:
            now = self._loop.time()
            if index != LIST:
                self._tally.part_came(self.token, index, peer, size, now)
            self._part_bytes += size
            if self._part_bytes >= GROWTH_BYTES:
                self._part_bytes, self._grew_at, self._came_at = 0, now, now
            self._around.downlink.got_on(self)
            self._act(self._plan.alive(peer, index, now))

    def ends(self, index: int, data: Buffer) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        if index != self.token.chunk_count - 1 or hash_chunk(data) != self._last_hash:
            return False
        length = chunk_length(self.token.size_bytes, index)
        self._refute(f"its last chunk has {len(data)} bytes, and the token says {length}")
        return True

    def lacks_end(self, index: int, data: Buffer) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        if index != self.token.chunk_count - 1 or len(data) == CHUNK_BYTES:
            return False
        return self._last_hash not in (None, hash_chunk(data))

    @property
    def _last_hash(self) -> bytes | None:
        """Of the last chunk, once the list is known."""
        hashes = self.partial.hashes if self.partial is not None else None
        return hashes[-HASH_BYTES:] if hashes else None

    def _refute(self, reason: str) -> None:
        self._broke(InvalidToken(f"{reason}: whoever made the token must make it again"))

    def lost(self, peer: str) -> None:
        """See :class:`~mesh.attachments.lanes.Receiver`."""
        if self._plan is not None:
            self._tally.forget(peer=peer)
            self._act(self._plan.lost(peer, self._loop.time()))

    # --- its course ------------------------------------------------------------------------------------

    async def _begin(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait({after})
        self._report()
        self._watch()
        await self._begins.wait()
        await self._around.slots.take(self)
        if self._ended:
            self._around.slots.give_back(self)
            return
        try:
            self.partial = await self._around.store.begin(self.token, cached=not self.waiters)
        except (MeshError, OSError) as error:
            self._around.slots.give_back(self)
            self._broke(error)
            return
        self._full = None
        self._plan = FetchPlan(
            self.token.size_bytes,
            self.partial.held,
            list_known=self.partial.hashes is not None,
            random=self._around.random,
            now=self._loop.time(),
            gate=lambda peer, size: self._around.downlink.take(self, peer, size),
        )
        self._tally.set_held(self._plan.held_bytes, self._loop.time())
        self._around.downlink.enter(self)
        if self.partial.held:
            self._around.grew(self)
        for peer, have in self.known.items():
            self._act(self._plan.holder(peer, have, self._loop.time()))
        self._act([])

    def _arrived(self, peer: str, index: int) -> None:
        if self._ended or self._plan is None:
            return
        self._came_at = self._grew_at = self._loop.time()
        self._around.downlink.got_on(self)
        actions = self._plan.arrived(peer, index, self._grew_at)
        self._tally.forget(index)
        self._tally.set_held(self._plan.held_bytes, self._grew_at)
        self._around.grew(self)
        self._act(actions)

    def _act(self, actions: list[Action]) -> None:
        if self._ended or self._plan is None:
            return
        asks: dict[str, list[int]] = {}
        for action in actions:
            if isinstance(action, Ask):
                asks.setdefault(action.peer, []).append(action.index)
            else:
                self._tally.forget(action.index, action.peer)
                self._asking.withdraw(action.peer, [action.index])
        for peer, indices in asks.items():
            if self._asking.ask(peer, indices):
                self._around.downlink.got_on(self)
        if self._plan.complete and not self._finishing:
            self._finishing = True
            self._task = self._loop.create_task(self._finish(), name=f"finish {self.token.hash[:16]}")
        self._watch()
        self._report()

    async def _finish(self) -> None:
        assert self.partial is not None
        assert self._plan is not None
        self.partial.cached = not self.waiters
        try:
            damaged = await self.partial.finish()
        except (MeshError, OSError) as error:
            self._broke(error)
            return
        if damaged:
            self._finishing = False
            for index in damaged:
                self._act(self._plan.missing_again(index, self._loop.time()))
            return
        self._end()
        self.tell_completed()
        self._around.ended(self, None)

    def _watch(self) -> None:
        """Be woken when the plan wants to, when nothing came for long, or when progress has to say so."""
        if self._ended or self._full is not None:
            return
        wake = self._plan.wake_at() if self._plan is not None else None
        if self.waiters or self._plan is not None:
            stuck_at = self._grew_at + STUCK_SECONDS
            wake = stuck_at if wake is None else min(wake, stuck_at)
        if self.waiters and (pace_ends_at := self._tally.pace_ends_at(self._loop.time())) is not None:
            wake = pace_ends_at if wake is None else min(wake, pace_ends_at)
        if self._timer is not None and (wake is None or self._timer.when() > wake):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and wake is not None:
            self._timer = self._loop.call_at(wake, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._loop.time()
        if now >= self._grew_at + STUCK_SECONDS:
            self._grew_at = now
            if self.waiters:
                self._around.stuck(self)
            if self._around.slots.crowded and self._plan is not None and not self._finishing:
                self._forget_requests()
                self._plan = None
                self._task = self._loop.create_task(self._go_on(), name=f"fetch {self.token.hash[:16]}")
        if self._plan is not None:
            self._act(self._plan.tick(now))
        else:
            self._watch()
            self._report()

    def _end(self) -> None:
        self._ended = True
        self._around.downlink.leave(self)
        self._around.slots.give_back(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._forget_requests()

    def _broke(self, error: MeshError | OSError) -> None:
        """It cannot go on, and no source is to blame. Where room is all that is missing, it waits for it."""
        if self._ended or (self._full is not None and self._timer is not None):
            return
        patient = self.relay_priority or any(waiter.patient for waiter in self.waiters)
        if isinstance(error, StorageFull) and not error.is_lasting and patient:
            self._pause(error)
        else:
            self.fail(self._failure(error))

    def _pause(self, error: StorageFull) -> None:
        progress = BlobProgress("failed", self._tally.told, self.token.size_bytes, [], str(error))
        for waiter in self.waiters:
            if not waiter.patient and not waiter.done.done():
                waiter.tell(progress)
                waiter.done.set_exception(error)
        if self._full is None:
            log.warning("%s has no room for blob %s: its fetch waits", error.path, self.token.hash)
        self._full, self._plan, self._finishing = error, None, False
        self._forget_requests()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(ROOM_SECONDS, self.retry)
        self._around.full(error)
        self._report()

    def retry(self) -> None:
        """There may be room now."""
        if self._full is not None and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._task = self._loop.create_task(self._go_on(), name=f"fetch {self.token.hash[:16]}")

    async def _go_on(self) -> None:
        partial, self.partial = self.partial, None
        if partial is not None:
            await partial.close()
        self._around.slots.give_back(self)
        await self._begin(None)

    def _forget_requests(self) -> None:
        self._tally.forget()
        self._asking.forget()

    def _failure(self, error: MeshError | OSError) -> MeshError:
        if isinstance(error, InvalidToken):
            return FetchFailed(self.token.hash, str(error))
        if isinstance(error, OSError):
            return FetchFailed(self.token.hash, f"it cannot be written here: {error.strerror or error}")
        return error

    # --- progress --------------------------------------------------------------------------------------

    def progress(self) -> BlobProgress:
        """How far it is."""
        if self._full is not None:
            return BlobProgress("stalled", self._tally.told, self.token.size_bytes, [], no_room(self._full))
        now, held_back = self._loop.time(), self._around.downlink.held_back(self)
        plan = self._plan
        state, sources, why = plan.state(now, held_back) if plan is not None else ("waiting", [], None)
        if state == "waiting" and why is None:
            queued = self._begins.is_set() and self._plan is None and self._around.slots.crowded
            why = IN_TURN if queued else no_source(self._around.asked(self.token.hash))
        rate, left = self._tally.pace(self.token.size_bytes, now)
        return BlobProgress(state, self._tally.told, self.token.size_bytes, sources, why, rate, left)

    def _report(self) -> None:
        if self.waiters and not self._ended and not self._finishing:
            for waiter in list(self.waiters):
                waiter.look(self.progress)


async def _problem(work: Awaitable[None]) -> MeshError | OSError | None:
    """What is wrong with what came, or with the disk."""
    try:
        await work
    except (MeshError, OSError) as error:
        return error
    return None
