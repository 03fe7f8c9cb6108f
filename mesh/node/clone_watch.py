"""Looks for another process that runs with this node's identity, and gives way to it if it has to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable

from mesh.collections.owned import OwnedDocuments
from mesh.core.commits import Commit
from mesh.core.handshake import CLONED
from mesh.errors import IdentityCloned, MeshError
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.node.profile import Profile, elapse
from mesh.storage import restored
from mesh.storage.documents import DocumentStore

log = logging.getLogger("mesh.node")

MAX_ANSWERS = 16
"""How often what another process writes in this node's name is put right at once, ..."""

ANSWER_SECONDS = 600.0
"""... within this time; more of it stands for as long. A few times are enough to find out who has to stop.
One of an older version does not, and would go on for ever."""

ASK_SECONDS = 600.0
"""How long the mesh is asked for this node's document, from when there is a link."""

CALM_SECONDS = 86_400.0
"""After so long on average, it is asked without a reason."""


class CloneWatch:
    """Keeps the node's own document as this process says it, and hears what others say in its place.

    Neighbours know each other's documents. Further on, they go where they are asked for; if every node always
    asked for its own, the cost at the edge would grow with the mesh. So it asks when it has a reason, and
    once a day at random: of two machines that go on from one snapshot neither may ever have any.
    """

    def __init__(
        self,
        owned: OwnedDocuments,
        profile: Profile,
        store: DocumentStore,
        peers: Peers,
        rng: random.Random,
        *,
        stop: Callable[[str], Awaitable[None]],
    ) -> None:
        """``stop`` takes this process out of the mesh for good, for a reason."""
        self._owned = owned
        self._profile = profile
        self._peers = peers
        self._store = store
        self._rng = rng
        self._log_id = store.log_id
        self._stop = stop
        self._answered: deque[float] = deque(maxlen=MAX_ANSWERS)
        self._linked = asyncio.Event()
        self._suspects = asyncio.Event()
        self._said_so = False
        self._tasks: list[asyncio.Task[None]] = []
        peers.on_up(self._link_up)
        peers.on_down(self._link_down)
        store.follow(self._committed)
        if store.path is not None and (store.logs is None or len(store.logs) > 1):
            self.suspect()  # it has begun a log of its own at some time, as copies do

    def start(self) -> None:
        """The document is written: see to it that it stays as it is."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(work) for work in (self._watch(), self._ask())]

    async def close(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def suspect(self) -> None:
        """There may be another process: ask the mesh for the document, for a while."""
        self._suspects.set()

    def _link_up(self, link: Link) -> None:
        self._linked.set()

    def _link_down(self, link: Link, reason: str) -> None:
        if not self._peers.links:
            self._linked.clear()

    def _committed(self, commits: list[Commit]) -> None:
        if self._log_id != self._store.log_id:
            # A peer knows of writes that this store has never made.
            self._log_id = self._store.log_id
            self.suspect()

    async def _ask(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0, 2 * CALM_SECONDS)):
                    await self._suspects.wait()
            self._suspects.set()
            await self._linked.wait()
            await self._owned.want("nodes", "self", {"_id": self._profile.node_id})
            while self._suspects.is_set():
                self._suspects.clear()
                await elapse(ASK_SECONDS)
            await self._owned.want("nodes", "self", None)

    async def _watch(self) -> None:
        stopped = False
        async with self._owned.observe("nodes", {"_id": self._profile.node_id}) as changes:
            async for _ in changes:
                try:
                    stopped = await self._look()
                except MeshError as error:
                    log.error("what another process has written in the name of this node stands: %s", error)
                if stopped:
                    return
                await self._slow_down()

    async def _look(self) -> bool:
        """Put the document right if need be; whether this process has stopped."""
        met = await self._profile.put_right()
        if met is None:
            return False
        said, finding = met
        self._answered.append(asyncio.get_running_loop().time())
        who = f"as {said.name!r}, at {said.listen or 'no address'}"
        if finding.stops:
            reason = (
                f"{CLONED} ({who}), and was started first: this one stays offline until it is started again"
            )
            log.error("%s", IdentityCloned(reason))
            await self._stop(reason)
        if finding.stops or finding.forked:
            # The other one may go on under the numbers and ids that this one wrote under.
            await self._store.write(lambda rows: restored.renew(rows, None))
        if not finding.proven:
            log.warning(
                "another process has written in the name of this node (%s), which is put right. Unless this "
                "node is a backup that was put back, or has lost its store, its directory was copied: a copy "
                "becomes a node of its own when the file identity.key is moved out of it before it runs for "
                "the first time",
                who,
            )
        elif not finding.stops and not self._said_so:
            self._said_so = True
            log.error("%s (%s): it was started after this one, and stops", CLONED, who)
        return finding.stops

    async def _slow_down(self) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._answered) == MAX_ANSWERS and now < self._answered[0] + ANSWER_SECONDS:
            await elapse(ANSWER_SECONDS)
