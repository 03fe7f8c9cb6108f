"""Replication: runs a sync session on every link, between the store and the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any

from mesh.collections.sessions import SyncSession
from mesh.core.access import OPEN, access_between
from mesh.core.commits import Commit
from mesh.core.handshake import CLONED
from mesh.core.interest import EVERYTHING
from mesh.core.membership import Membership
from mesh.core.routes import InterestTable
from mesh.core.sharing import Sharing
from mesh.core.sync_effects import Effect
from mesh.core.sync_following import Following
from mesh.core.sync_serving import Serving
from mesh.core.wire import (
    Ack,
    Barrier,
    BarrierReached,
    Changes,
    Differences,
    Interest,
    InterestEntry,
    Pull,
    Pulled,
    Resume,
    Resumed,
    Routes,
    Summaries,
)
from mesh.errors import IdentityCloned, SettleTimeout
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.storage.authors import Confirmed
from mesh.storage.documents import DocumentStore

_log = logging.getLogger("mesh.replication")

FEW_ENTRIES = 64
"""What is wanted at most to be announced with every change; of more, ..."""

SECONDS_PER_ENTRY = 1e-4
"""... each entry adds so much to the time between two announcements: it takes about a tenth of that."""


class Replicator:
    """Keeps this node's store and those of its peers up to date with each other.

    What a node wants is a set of named entries (:meth:`want`); what travels is decided in :mod:`mesh.core`.
    """

    def __init__(
        self,
        store: DocumentStore,
        peers: Peers,
        *,
        node_id: str,
        clock: Callable[[], float],
        membership: Membership | None = None,
    ) -> None:
        """``membership``: of a closed mesh, in which certificates say what passes on a link."""
        self._node_id = node_id
        self._membership = membership
        self._store = store
        self._peers = peers
        self._clock = clock
        self._table = InterestTable(node_id)
        self._wants: dict[str, InterestEntry] = {}
        self._syncs: dict[str, SyncSession] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._announcing: asyncio.Handle | None = None
        self._next_announcement = 0.0
        self._wants_changed = False
        self._contested: set[str] = set()
        self._rival: Callable[[], None] = lambda: None
        self._evicted: set[str] = set()  # collections, until somebody asks for them
        self.progress = asyncio.Event()
        """Set whenever anything has happened on any link."""

    def start(self) -> None:
        """Take part in the links that come up from now on."""
        self._store.follow(self._committed)
        self._peers.on_up(self._link_up)
        self._peers.on_down(self._link_down)
        self._peers.dialer.on_reached(self.progress.set)
        self._peers.handle(Interest, self._on_interest)
        self._peers.handle(Routes, self._on_routes)
        serving: dict[type, Callable[[Any, Any], list[Effect]]] = {
            Ack: Serving.on_ack,
            Pull: Serving.on_pull,
            Barrier: Serving.on_barrier,
        }
        following: dict[type, Callable[[Any, Any], list[Effect]]] = {
            Changes: Following.on_changes,
            Resumed: Following.on_resumed,
            Differences: Following.on_differences,
            Pulled: Following.on_pulled,
        }
        for asked in (Resume, Summaries):
            self._peers.handle(asked, self._handler(lambda sync: sync, SyncSession.on_resume))
        for kind, served in serving.items():
            self._peers.handle(kind, self._handler(lambda sync: sync.serving, served))
        for kind, followed in following.items():
            self._peers.handle(kind, self._handler(lambda sync: sync.following, followed))
        self._peers.handle(BarrierReached, self._on_barrier_reached)

    async def close(self) -> None:
        """Save what has been reached, and leave no task behind. The links must be down."""
        for handle in (self._expiry, self._announcing):
            if handle is not None:
                handle.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def on_rival(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever a peer tells that somebody else speaks as this node. It may lie."""
        self._rival = callback

    def _handler(
        self, side: Callable[[SyncSession], Any], event: Callable[[Any, Any], list[Effect]]
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
        self._wants_changed = True
        self._announce_soon()
        if entry is not None:
            self._ask_again({entry.collection})

    def _on_interest(self, link: Link, interest: Interest) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is None or sync.link is not link:
            return
        heard = sync.access.heard(interest)
        if heard is None:
            return
        outdone, met = self._table.outdone, self._table.rivals_met
        if self._table.heard(link.node_id, heard, asyncio.get_running_loop().time()):
            self._expire_later()
            sync.run(sync.serving.wanted(self._table.wanted_by(link.node_id)))
            self._announce_soon()
        elif self._table.outdone and not outdone:
            _log.warning("%s (says %s)", IdentityCloned(CLONED), link)
            self._expire_later()
        if self._table.rivals_met != met:
            self._rival()

    def _on_routes(self, link: Link, routes: Routes) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is not None and sync.link is link:
            self._table.routed(link.node_id, routes)
            # Documents may follow at once.
            sync.run(sync.following.wanting(self._table.wanted_from(link.node_id)))
            self._announce_soon()

    def _announce_soon(self) -> None:
        """Several changes in one turn of the loop are announced once. So are more of them where much is
        wanted, as all of it is told each time."""
        if self._announcing is None and self._syncs:
            loop = asyncio.get_running_loop()
            self._announcing = (
                loop.call_soon(self._announce)
                if self._next_announcement <= loop.time()
                else loop.call_at(self._next_announcement, self._announce)
            )

    def _announce(self) -> None:
        self._announcing = None
        self._update_own()
        for peer in self._table.concerned:
            self._syncs[peer].announce(self._table)
        pause = max(0, len(self._table.own.entries) - FEW_ENTRIES) * SECONDS_PER_ENTRY
        self._next_announcement = asyncio.get_running_loop().time() + pause
        self.progress.set()

    def _update_own(self) -> None:
        if self._wants_changed or self._contested != self._table.contested:
            self._wants_changed = False
            self._contested = set(self._table.contested)
            documents = (InterestEntry("nodes", {"_id": peer}) for peer in sorted(self._contested))
            self._table.set_own([*self._wants.values(), *documents], int(self._clock() * 1000))

    def wants(self, collection: str) -> bool:
        """Whether this node itself asks the mesh for documents of ``collection``."""
        self._update_own()
        return collection in self._table.own

    def _expire(self) -> None:
        self._expiry = None
        if self._table.expire(asyncio.get_running_loop().time()):
            self._announce_soon()
        self._expire_later()

    def _expire_later(self) -> None:
        due = self._table.next_expiry
        if due is not None and self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_at(due, self._expire)

    # --- links ------------------------------------------------------------------------------------

    def _link_up(self, link: Link) -> None:
        access = OPEN
        if self._membership is not None:
            assert link.member is not None, "nobody is linked with a closed mesh without a certificate"
            access = access_between(self._node_id, self._membership.grant, link.node_id, link.member.grant)
        sync = SyncSession(
            self._store,
            link,
            spawn=self.spawn,
            wait_for=self.wait_for,
            progress=self.progress,
            asked=self._ask_again,
            access=access,
        )
        self._syncs[link.node_id] = sync
        self._update_own()
        self._table.link_up(link.node_id)
        sync.announce(self._table)
        self.progress.set()

    def _link_down(self, link: Link, reason: str) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is not None and sync.link is link:
            del self._syncs[link.node_id]
            sync.end()
            self._table.link_down(link.node_id, asyncio.get_running_loop().time())
            self._announce_soon()
            self._expire_later()
        self.progress.set()

    def _committed(self, commits: list[Commit]) -> None:
        evicted = {commit.change.collection for commit in commits if commit.evicted}
        self._evicted |= evicted
        sharing = Sharing()
        for sync in list(self._syncs.values()):
            if evicted:
                sync.evicted(evicted)
            sync.committed(commits, sharing)
        self._ask_again({collection for collection in evicted if self.wants(collection)})

    def _ask_again(self, collections: set[str]) -> None:
        """This node or a peer wants documents of ``collections``. What was evicted of them while they were
        relayed has to come once more: until then it was not missed."""
        again = self._evicted if EVERYTHING.collection in collections else self._evicted & collections
        if again:
            self._evicted = self._evicted - again
            for sync in self._syncs.values():
                sync.run(sync.following.ask_again(again))

    def _on_barrier_reached(self, link: Link, message: BarrierReached) -> None:
        sync = self._syncs.get(link.node_id)
        if sync is not None and sync.link is link:
            sync.barrier_reached(message.number)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that :meth:`close` waits for.

        It belongs to no transaction of the application, whoever has made the link.
        """
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self.wait_for(task)
        return task

    def wait_for(self, work: asyncio.Future[Any]) -> None:
        """Have :meth:`close` wait for ``work``."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    def confirmed(self) -> list[Confirmed]:
        """What the linked peers want, and up to which position of this node's log they hold it."""
        return [(sync.serving.followed, sync.serving.confirmed) for sync in self._syncs.values()]

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
                    if self._announcing is not None:
                        open_ends.append("what is wanted since this moment")
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
