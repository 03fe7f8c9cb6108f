"""Replication: runs a sync session on every link, between the store and the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from mesh.core.commits import Commit
from mesh.core.identity import short_id
from mesh.core.interest import SOFT_STATE_SECONDS, InterestTable
from mesh.core.sync_effects import (
    ApplyFrame,
    Effect,
    ReadKeys,
    ReadLog,
    ReadPositions,
    ReadWanted,
    SavePosition,
    Send,
)
from mesh.core.sync_following import Following
from mesh.core.sync_serving import Serving
from mesh.core.wire import (
    WITHDRAWN,
    Ack,
    Barrier,
    BarrierReached,
    Changes,
    Differences,
    Interest,
    InterestEntry,
    Pulled,
    PullKeys,
    Resume,
    Resumed,
    Summaries,
)
from mesh.errors import NotStarted, ProtocolViolation, SettleTimeout
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.storage import replicas
from mesh.storage.documents import DocumentStore

_log = logging.getLogger("mesh.replication")

MAX_APPLYING = 32
"""Frames of one link that wait to be applied; beyond them nothing more is read from it."""

POSITION_DELAY_SECONDS = 0.25
"""Positions are saved with the next frame, or after this time: losing one only costs a repetition."""


class Replicator:
    """Keeps this node's store and those of its peers up to date with each other.

    What a node wants is a set of named entries (:meth:`want`); what travels is decided in :mod:`mesh.core`.
    """

    def __init__(
        self, store: DocumentStore, peers: Peers, *, node_id: str, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._peers = peers
        self._clock = clock
        self._table = InterestTable(node_id)
        self._wants: dict[str, InterestEntry] = {}
        self._syncs: dict[str, _LinkSync] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._announcing = False
        self.progress = asyncio.Event()
        """Set whenever anything has happened on any link."""

    def start(self) -> None:
        """Take part in the links that come up from now on."""
        self._store.follow(self._committed)
        self._peers.on_up(self._link_up)
        self._peers.on_down(self._link_down)
        self._peers.handle(Interest, self._on_interest)
        serving: dict[type, Callable[[Any, Any], list[Effect]]] = {
            Resume: Serving.on_resume,
            Ack: Serving.on_ack,
            Summaries: Serving.on_summaries,
            PullKeys: Serving.on_pull,
            Barrier: Serving.on_barrier,
        }
        following: dict[type, Callable[[Any, Any], list[Effect]]] = {
            Changes: Following.on_changes,
            Resumed: Following.on_resumed,
            Differences: Following.on_differences,
            Pulled: Following.on_pulled,
        }
        for kind, served in serving.items():
            self._peers.handle(kind, self._handler(lambda sync: sync.serving, served))
        for kind, followed in following.items():
            self._peers.handle(kind, self._handler(lambda sync: sync.following, followed))
        self._peers.handle(BarrierReached, self._on_barrier_reached)

    async def close(self) -> None:
        """Save what has been reached, and leave no task behind. The links must be down."""
        if self._expiry is not None:
            self._expiry.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _handler(
        self, side: Callable[[_LinkSync], Any], event: Callable[[Any, Any], list[Effect]]
    ) -> Callable[[Link, Any], Any]:
        def handle(link: Link, message: Any) -> asyncio.Future[None] | None:
            sync = self._syncs.get(link.node_id)
            if sync is None or sync.link is not link:
                return None
            sync.run(event(side(sync), message))
            return sync.back_pressure()

        return handle

    # --- interest ---------------------------------------------------------------------------------

    def want(self, name: str, entry: InterestEntry | None) -> None:
        """Ask the mesh for the documents of ``entry``, under a name; ``None`` withdraws it."""
        if self._wants.get(name) == entry:
            return
        if entry is None:
            self._wants.pop(name, None)
        else:
            self._wants[name] = entry
        self._table.set_own(self._wants.values(), int(self._clock() * 1000))
        self._announce_soon()

    def _on_interest(self, link: Link, interest: Interest) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is not None and sync.link is link and self._table.heard(link.node_id, interest):
            sync.run(sync.serving.wanted(self._table.wanted_by(link.node_id)))
            self._announce_soon()

    def _announce_soon(self) -> None:
        """Several changes in one turn of the loop are announced once."""
        if not self._announcing and self._syncs:
            self._announcing = True
            asyncio.get_running_loop().call_soon(self._announce)

    def _announce(self) -> None:
        self._announcing = False
        for sync in list(self._syncs.values()):
            sync.announce(self._table)

    def _expire(self) -> None:
        self._expiry = None
        if self._table.expire(asyncio.get_running_loop().time()):
            self._announce_soon()

    # --- links ------------------------------------------------------------------------------------

    def _link_up(self, link: Link) -> None:
        sync = _LinkSync(self, self._store, link)
        self._syncs[link.node_id] = sync
        sync.run(sync.serving.wanted(self._table.wanted_by(link.node_id)))
        sync.announce(self._table)
        self.progress.set()

    def _link_down(self, link: Link, reason: str) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is not None and sync.link is link:
            del self._syncs[link.node_id]
            sync.end()
            loop = asyncio.get_running_loop()
            self._table.link_down(link.node_id, loop.time())
            if self._expiry is None:
                self._expiry = loop.call_later(SOFT_STATE_SECONDS + 1, self._expire)
        self.progress.set()

    def _committed(self, commits: list[Commit]) -> None:
        for sync in list(self._syncs.values()):
            sync.run(sync.serving.committed(commits))

    def _on_barrier_reached(self, link: Link, message: BarrierReached) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is not None and sync.link is link:
            sync.barrier_reached(message.number)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that :meth:`close` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- settled ----------------------------------------------------------------------------------

    async def settled(self, timeout: float, unlinked: Callable[[], Iterable[str]]) -> None:
        """Wait until no linked peer holds anything that this node lacks, or lacks anything that it holds.

        Args:
            timeout: in seconds.
            unlinked: names what else has to be linked first.

        Raises:
            SettleTimeout: it did not come to that in time.
        """
        open_ends: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self.progress.clear()
                    syncs = list(self._syncs.values())
                    await asyncio.gather(*[sync.barrier() for sync in syncs])
                    open_ends = [f"{url} (not linked)" for url in unlinked()]
                    open_ends += [
                        f"sync with {sync.peer}"
                        for sync in self._syncs.values()
                        if sync not in syncs or not sync.settled
                    ]
                    if not open_ends:
                        return
                    await self.progress.wait()
        except TimeoutError:
            open_ends = [f"{url} (not linked)" for url in unlinked()] or open_ends
            open_ends = open_ends or [
                f"sync with {s.link.name or s.link.node_id[:8]}" for s in self._syncs.values()
            ]
            raise SettleTimeout(timeout, open_ends) from None


class _LinkSync:
    """One link's session: carries out its effects, and feeds the results back."""

    def __init__(self, replicator: Replicator, store: DocumentStore, link: Link) -> None:
        self.link = link
        self.serving = Serving(link.node_id, store.log_id, store.head)
        self.following = Following()
        self._replicator = replicator
        self._store = store
        self._announced: dict[str, Interest] = {}
        self._applying = 0
        self._room: asyncio.Future[None] | None = None
        self._positions: dict[tuple[bytes, ...], tuple[bytes, int]] = {}
        self._saving: asyncio.TimerHandle | None = None
        self._barriers: dict[int, asyncio.Future[None]] = {}
        self._next_barrier = 1
        self._ended = False

    @property
    def peer(self) -> str:
        """The peer as people know it."""
        return self.link.name or short_id(self.link.node_id)

    def announce(self, table: InterestTable) -> None:
        """Tell the peer what has changed in what is wanted from it."""
        peer = self.link.node_id
        current = {interest.origin: interest for interest in table.announcements(peer)}
        for origin, interest in current.items():
            if self._announced.get(origin) != interest:
                self.link.send(interest)
        for origin in self._announced.keys() - current.keys():
            self.link.send(Interest(origin, 0, WITHDRAWN, []))
        self._announced = current
        self.run(self.following.wanting(table.wanted_from(peer)))

    def end(self) -> None:
        """The link is down."""
        self._ended = True
        self._save_now()
        for barrier in self._barriers.values():
            if not barrier.done():
                barrier.set_result(None)

    def back_pressure(self) -> asyncio.Future[None] | None:
        """What to wait for before more is read from the link."""
        if self._applying < MAX_APPLYING:
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room

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
                case Send(message):
                    self.link.send(message)
                case SavePosition(log_id, entries, upto):
                    self._save_soon(log_id, entries, upto)
                case ApplyFrame(frame):
                    self._applying += 1
                    self._replicator.spawn(self._apply(frame))
                case _:
                    self._replicator.spawn(self._read(effect))
        self._replicator.progress.set()

    async def _read(self, effect: Effect) -> None:
        peer = self.link.node_id
        read = self._store.read
        try:
            match effect:
                case ReadLog(after, until, limit, interest):
                    page = await read(lambda rows: replicas.read_log(rows, after, until, limit, interest))
                    self.run(self.serving.log_read(*page))
                case ReadWanted(wants, positions):
                    found = await read(lambda rows: replicas.read_wanted(rows, wants, positions))
                    self.run(self.serving.wanted_read(*found))
                case ReadPositions(entries):
                    standings = await read(lambda rows: replicas.read_standings(rows, peer, entries))
                    self.run(self.following.positions_read(standings))
                case ReadKeys(number, mine, interest):
                    keys = await read(lambda rows: replicas.key_set(rows, interest))
                    side = self.following if mine else self.serving
                    self.run(side.keys_read(number, keys))
                case _:
                    raise AssertionError(f"not something to read: {effect}")
        except Exception as error:
            self._failed(error)

    async def _apply(self, frame: Changes) -> None:
        positions, self._positions = self._positions, {}

        def job(rows: Any) -> Any:
            for entries, (log_id, upto) in positions.items():
                replicas.save_position(rows, self.link.node_id, log_id, entries, upto)
            return replicas.apply_frame(rows, self.link.node_id, frame)

        try:
            wants = await self._store.write(job)
            self._applying -= 1
            self.run(self.following.applied(frame, wants))
        except Exception as error:
            self._applying -= 1
            self._failed(error)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _failed(self, error: Exception) -> None:
        """The store cannot go on with this link for now: it is closed, and dialled again later."""
        if isinstance(error, NotStarted):
            return
        if not isinstance(error, ProtocolViolation):
            _log.error("sync with %s failed: %s", self.peer, error, exc_info=error)
        self.link.close(f"sync failed: {error}")

    # --- positions --------------------------------------------------------------------------------

    def _save_soon(self, log_id: bytes, entries: list[bytes], upto: int) -> None:
        self._positions[tuple(entries)] = (log_id, upto)
        if self._ended:
            self._save_now()
        elif self._saving is None:
            loop = asyncio.get_running_loop()
            self._saving = loop.call_later(POSITION_DELAY_SECONDS, self._save_now)

    def _save_now(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        if self._positions:
            self._replicator.spawn(self._save())

    async def _save(self) -> None:
        positions, self._positions = self._positions, {}

        def job(rows: Any) -> None:
            for entries, (log_id, upto) in positions.items():
                replicas.save_position(rows, self.link.node_id, log_id, entries, upto)

        try:
            await self._store.write(job)
        except Exception as error:
            self._failed(error)
