"""A sync session as it runs: carries out what the pure sides decide, between the store and one link."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

from mesh.core.access import Access
from mesh.core.commits import Commit, change_size
from mesh.core.identity import short_id
from mesh.core.limits import peer_log
from mesh.core.routes import InterestTable
from mesh.core.sharing import Sharing
from mesh.core.sync_effects import (
    ApplyFrame,
    Effect,
    Push,
    ReadKeys,
    ReadLog,
    ReadPositions,
    ReadWanted,
    Refuse,
    Renew,
    SavePosition,
    Send,
)
from mesh.core.sync_following import Following
from mesh.core.sync_serving import Serving
from mesh.core.wire import Barrier, Changes, Interest, Resume, Summaries, Want
from mesh.errors import NotStarted, ProtocolViolation
from mesh.network.link import Link
from mesh.storage import authors, replicas, restored, shares
from mesh.storage.documents import DocumentStore

_log = peer_log("mesh.replication")

MAX_APPLYING = 32
"""Frames of one link that wait to be applied; beyond them nothing more is read from it."""

MAX_APPLYING_BYTES = 8 << 20
"""The same in bytes of their changes."""

MAX_ASKED = 64
"""Resumes and digests of one link that wait to be answered; beyond them nothing more is read from it."""

POSITION_DELAY_SECONDS = 0.25
"""Positions are saved this long after they were reached: losing one only costs a repetition."""

_OTHER_BYTES = 200

Positions = dict[tuple[bytes, ...], tuple[bytes, int]]
"""Entries -> log, and how far they are held."""


def _size(frame: Changes) -> int:
    """What a frame takes in memory, about, in bytes."""
    others = len(frame.offers) + len(frame.notices) + len(frame.gone) + len(frame.graves)
    return sum(map(change_size, frame.changes)) + _OTHER_BYTES * others


class SyncSession:
    """One link's session: carries out its effects, and feeds the results back."""

    def __init__(
        self,
        store: DocumentStore,
        link: Link,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        wait_for: Callable[[asyncio.Future[Any]], None],
        progress: asyncio.Event,
        asked: Callable[[set[str]], None],
        access: Access,
    ) -> None:
        """
        Args:
            store: what is synced.
            link: with whom.
            asked: called when the peer asks to be brought up to date with some collections.
            spawn: runs something as a task that is waited for before the store closes.
            wait_for: has something else waited for before that.
            progress: set whenever anything has happened.
            access: what passes on the link.
        """
        self.link = link
        self.access = access
        self._log_id = store.log_id
        self.following = Following(access)
        # Two strangers compare once: the one that was dialled does it.
        share = self.following.share if link.url is None else None
        self.serving = Serving(
            link.node_id,
            store.log_id,
            store.head,
            share,
            store.numbering,
            store.logs,
            lambda: store.may_renew,
            access=access,
        )
        # What was held of the peer's log under other rights is not what there is to hold now.
        self._place = f"{link.node_id} {access.name}" if access.name else link.node_id
        self._spawn = spawn
        self._wait_for = wait_for
        self._progress = progress
        self._asked = asked
        self._store = store
        self._resumes: deque[tuple[int, Resume | Summaries]] = deque()  # and the frames to be applied before
        self._applying = 0
        self._applying_bytes = 0
        self._applied = 0
        self._room: asyncio.Future[None] | None = None
        self._positions: Positions = {}
        self._saving: asyncio.TimerHandle | None = None
        self._confirmed = 0  # as it was saved
        self._barriers: dict[int, asyncio.Future[None]] = {}
        self._next_barrier = 1
        self._ended = False

    @property
    def peer(self) -> str:
        """The peer as people know it."""
        return self.link.name or short_id(self.link.node_id)

    def announce(self, table: InterestTable) -> None:
        """Tell the peer what has changed in what is wanted from it, and what it is sent."""
        peer = self.link.node_id
        for message in table.tell(peer):
            if isinstance(message, Interest):
                told = self.access.told(message)
                if told is None:
                    continue
                message = told
                self.following.told(message.entries)
            self.link.send(message)
        self.run(self.serving.wanted(table.wanted_by(peer)))
        self.run(self.following.wanting(table.wanted_from(peer)))

    def committed(self, commits: list[Commit], sharing: Sharing) -> None:
        """The store has committed something, which the other links are told as well. That stands, whatever
        becomes of this one."""
        if self._log_id != self._store.log_id:
            self.link.close("this store starts a log of its own")
            return
        try:
            self.run(sharing.share(self.serving.committed(commits)))
        except ProtocolViolation as error:
            self._failed(error)

    def evicted(self, collections: set[str]) -> None:
        """Documents were dropped here, and with them the positions that were remembered."""
        self.following.evicted(collections)
        self._positions.clear()

    def end(self) -> None:
        """The link is down."""
        self._ended = True
        self._save_now()
        for barrier in self._barriers.values():
            if not barrier.done():
                barrier.set_result(None)

    def back_pressure(self) -> asyncio.Future[None] | None:
        """What to wait for before more is read from the link."""
        if self._has_room():
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room

    def _has_room(self) -> bool:
        few = self._applying < MAX_APPLYING and self._applying_bytes < MAX_APPLYING_BYTES
        return few and len(self._resumes) < MAX_ASKED

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done() and (self.link.closed or self._has_room()):
            self._room.set_result(None)

    def on_resume(self, message: Resume | Summaries) -> list[Effect]:
        """The peer wants to be brought up to date, or compares what it has just resumed. A stranger is
        answered once it has been told what is asked of it, so that one of the two sees both, and one
        comparison serves them; everybody once everything is applied that came before: it may have evicted
        that, and want it back."""
        arrived = 0
        if isinstance(message, Resume):
            self._asked({entry.collection for entry in message.entries})
            arrived = self._applied + self._applying
        self._resumes.append((arrived, message))
        self._answer_resumes()
        return []

    def _answer_resumes(self) -> None:
        while self._resumes:
            arrived, message = self._resumes[0]
            known = isinstance(message, Resume) and self.serving.knows(message)
            if self._applied < arrived or (self.following.reading_positions and not known):
                return
            self._resumes.popleft()
            if isinstance(message, Resume):
                self.run(self.serving.on_resume(message))
            else:
                self.run(self.serving.on_summaries(message))
        self._make_room()

    # --- settled ----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether both sides have everything that they want of each other."""
        return self.serving.idle and self.following.caught_up and not self._applying

    async def barrier(self) -> None:
        """Wait until everything that the peer has for this node now is here, or the link is down."""
        if self._ended:
            return
        number = self._next_barrier
        self._next_barrier += 1
        self._barriers[number] = asyncio.get_running_loop().create_future()
        self.link.send(Barrier(number))
        try:
            await self._barriers[number]
        finally:
            del self._barriers[number]

    def barrier_reached(self, number: int) -> None:
        """The peer's answer."""
        barrier = self._barriers.get(number)
        if barrier is not None and not barrier.done():
            barrier.set_result(None)

    # --- effects ----------------------------------------------------------------------------------

    def run(self, effects: list[Effect]) -> None:
        """Carry out effects, in order."""
        for effect in effects:
            match effect:
                case Send(message, bulk):
                    self.link.send(message, bulk=bulk)
                case SavePosition(log_id, entries, upto):
                    self._save_soon(log_id, entries, upto)
                case Refuse(documents, names):
                    self._store.refuse(documents)
                    _log.warning("%s may not write %s: what it sent is dropped", self.peer, ", ".join(names))
                case Push(number, positions):
                    self.run(self.serving.compared(number, positions))
                case Renew(position, theirs):
                    self._spawn(self._renew(position, theirs))
                case ApplyFrame(frame):
                    self._apply(frame)
                case _:
                    self._spawn(self._read(effect))
        if self.serving.confirmed > self._confirmed < self._store.written:
            self._save_later()
        self._progress.set()

    async def _read(self, effect: Effect) -> None:
        peer = self.link.node_id
        read = self._store.read
        try:
            match effect:
                case ReadLog(after, until, limit, interest, back):
                    sender = "" if back else peer
                    page = await read(
                        lambda rows: replicas.read_log(rows, sender, after, until, limit, interest)
                    )
                    self.run(self.serving.log_read(*page))
                case ReadWanted(wants, positions):
                    found = await read(lambda rows: replicas.read_wanted(rows, wants, positions))
                    self.run(self.serving.wanted_read(found))
                case ReadPositions(entries):
                    standings = await read(lambda rows: replicas.read_standings(rows, self._place, entries))
                    self.run(self.following.positions_read(standings))
                    self._answer_resumes()
                case ReadKeys(number, mine, interest):
                    keys = await read(lambda rows: replicas.key_set(rows, interest))
                    side = self.following if mine else self.serving
                    self.run(side.keys_read(number, keys))
                case _:
                    raise AssertionError(f"not something to read: {effect}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the link
            self._failed(error)

    async def _renew(self, position: int | None, theirs: bytes) -> None:
        """Every link is closed when that is done, this one among them (see :meth:`committed`)."""
        log_id = self._log_id

        def job(rows: Any) -> None:
            if rows.lineage.log_id == log_id:  # several peers may find out
                restored.renew(rows, position, theirs)

        try:
            await self._store.write(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the link
            self._failed(error)

    def _apply(self, frame: Changes) -> None:
        """Without a task: there are many frames."""
        peer = self.link.node_id

        def job(rows: Any) -> list[Want]:
            return replicas.apply_frame(rows, peer, frame)

        try:  # outside of any transaction of the application that the link was made in
            writing = Context().run(self._store.submit, job, bulk=True)
        except NotStarted:  # the node closes
            return
        size = _size(frame)
        self._applying += 1
        self._applying_bytes += size
        writing.add_done_callback(partial(self._was_applied, frame, size))
        self._wait_for(writing)

    def _was_applied(self, frame: Changes, size: int, writing: asyncio.Future[list[Want]]) -> None:
        self._applying -= 1
        self._applying_bytes -= size
        try:
            wants = writing.result()
            self._applied += 1
            self.run(self.following.applied(frame, wants))
            self._answer_resumes()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the link
            self._failed(error)
        self._make_room()

    def _failed(self, error: Exception) -> None:
        """The store cannot go on with this link for now: it is closed, and dialled again later."""
        if isinstance(error, NotStarted):
            return
        if isinstance(error, ProtocolViolation):
            self.link.violated(error)
            return
        _log.error("sync with %s failed: %s", self.peer, error, exc_info=error)
        self.link.close(f"sync failed: {error}")

    # --- positions --------------------------------------------------------------------------------

    def _save_soon(self, log_id: bytes, entries: list[bytes], upto: int) -> None:
        # The latest is saved last: the same entry may be among others.
        self._positions.pop(tuple(entries), None)
        self._positions[tuple(entries)] = (log_id, upto)
        self._save_later()

    def _save_later(self) -> None:
        if self._ended:
            self._save_now()
        elif self._saving is None:
            loop = asyncio.get_running_loop()
            self._saving = loop.call_later(POSITION_DELAY_SECONDS, self._save_now)

    def _save_now(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        if self._positions or self.serving.confirmed > self._confirmed:
            self._spawn(self._save())

    async def _save(self) -> None:
        positions, self._positions = self._positions, {}
        era = self._store.positions_era
        followed, confirmed = self.serving.followed, self.serving.confirmed
        news = confirmed > self._confirmed
        caught_up = self.following.caught_up
        self._confirmed = confirmed

        def job(rows: Any) -> None:
            if rows.lineage.log_id != self._log_id:
                return  # this store has turned out to be a restored backup
            if rows.lineage.positions_era == era:  # else something was evicted since
                for entries, (log_id, upto) in positions.items():
                    replicas.save_position(rows, self._place, log_id, entries, upto)
            if news:
                authors.confirm(rows, followed, confirmed)
                if caught_up:
                    shares.forget_confirmed(rows)

        try:
            await self._store.write(job, bulk=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the link
            self._failed(error)
