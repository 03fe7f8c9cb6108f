"""Keeps dialling the addresses that it was given."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Literal

from mesh.core.backoff import Backoff
from mesh.errors import IdentityCloned, MeshError

STABLE_SECONDS = 10.0
"""A link that stood this long counts as a success: the next failure starts the backoff over."""

CLONED_SECONDS = 600.0
"""How long an address that refuses this node for a clone is left alone."""

log = logging.getLogger(__name__)


class Target:
    """One address that is dialled for ever.

    Attributes:
        url: the address.
        node_id: the peer that it led to last, ``None`` until it led to one.
        state: ``connected`` (whichever side dialled), ``dialling`` or ``waiting``.
        error: why the last attempt failed, ``None`` after one that did not.
        next_try: when it is dialled again, on the event loop's clock.
        attempted: set once the first attempt has ended.
    """

    def __init__(self, url: str, rng: random.Random, node_id: str | None) -> None:
        self.url = url
        self.node_id = node_id
        self.state: Literal["connected", "dialling", "waiting"] = "waiting"
        self.error: MeshError | None = None
        self.next_try = 0.0
        self.attempted = asyncio.Event()
        self.backoff = Backoff(rng)
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Dialer:
    """Dials every target, with a backoff of its own, whenever no link with its peer stands."""

    def __init__(
        self,
        dial: Callable[[str], Awaitable[str]],
        linked: Callable[[str], bool],
        rng: random.Random,
    ) -> None:
        """
        Args:
            dial: makes a link with whoever is at a URL; the peer's node id. Raises a ``MeshError``.
            linked: whether there is a link with a node id. :meth:`peer_changed` is called when that changes.
            rng: the source of jitter.
        """
        self._dial = dial
        self._linked = linked
        self._rng = rng
        self._targets: dict[str, Target] = {}
        self._running = False
        self._reached: list[Callable[[], None]] = []

    @property
    def targets(self) -> list[Target]:
        """All targets, in the order in which they were added."""
        return list(self._targets.values())

    def on_reached(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever one more target leads to a linked peer, or one less is dialled."""
        self._reached.append(callback)

    def add(self, url: str, node_id: str | None = None) -> Target:
        """Dial ``url`` from now on. ``node_id``: the peer that it is known to lead to."""
        target = self._targets.get(url)
        if target is None:
            target = self._targets[url] = Target(url, self._rng, node_id)
            if self._running:
                self._run(target)
        elif node_id is not None:
            target.node_id = node_id
            target.changed.set()
        return target

    async def remove(self, url: str) -> None:
        """Dial ``url`` no more. A link that stands stays."""
        target = self._targets.pop(url, None)
        if target is not None:
            await _cancel([target])
            self._tell_reached()

    async def remove_peer(self, node_id: str) -> None:
        """Dial no more what leads to this peer."""
        for target in self.targets:
            if target.node_id == node_id:
                await self.remove(target.url)

    def kick(self) -> None:
        """Dial at once whatever waits, as if nothing had failed so far."""
        for target in self.targets:
            target.backoff.reset()
            target.next_try = 0.0
            target.changed.set()

    def peer_changed(self, node_id: str, listen: str | None = None) -> None:
        """A link with this peer came up or went down. ``listen``: where it says that it can be dialled; what
        is known of that address so far may be out of date."""
        for target in self.targets:
            if target.node_id == node_id:
                target.changed.set()
            elif target.url.rstrip("/") == listen:
                target.next_try = 0.0
                target.changed.set()

    def start(self) -> None:
        """Dial everything, at once."""
        self._running = True
        self.kick()
        for target in self.targets:
            self._run(target)

    async def stop(self) -> None:
        """Dial nothing; the targets stay."""
        self._running = False
        await _cancel(self.targets)

    def _run(self, target: Target) -> None:
        target.task = asyncio.get_running_loop().create_task(self._keep(target), name=f"dial {target.url}")

    async def _keep(self, target: Target) -> None:
        time = asyncio.get_running_loop().time
        while True:
            if target.node_id is not None and self._linked(target.node_id):
                await self._stay(target)
            elif time() < target.next_try:
                target.state = "waiting"
                await _changed(target, until=target.next_try)
            else:
                await self._try(target)

    async def _stay(self, target: Target) -> None:
        """A link with its peer stands: wait for its end."""
        since = asyncio.get_running_loop().time()
        target.state, target.error = "connected", None
        target.attempted.set()
        self._tell_reached()
        while target.node_id is not None and self._linked(target.node_id):
            await _changed(target)
        now = asyncio.get_running_loop().time()
        if now - since >= STABLE_SECONDS:
            target.backoff.reset()
        target.next_try = now + target.backoff.next_delay()

    def _tell_reached(self) -> None:
        for callback in self._reached:
            callback()

    async def _try(self, target: Target) -> None:
        target.state = "dialling"
        try:
            target.node_id = await self._dial(target.url)
        except MeshError as error:
            cloned = isinstance(error, IdentityCloned)
            if target.error is None or str(target.error) != str(error):
                log.log(logging.ERROR if cloned else logging.INFO, "%s; trying again for ever", error)
            target.error = error
            delay = CLONED_SECONDS if cloned else target.backoff.next_delay()
            target.next_try = asyncio.get_running_loop().time() + delay
            target.state = "waiting"
            target.attempted.set()


async def _changed(target: Target, until: float | None = None) -> None:
    target.changed.clear()
    try:
        async with asyncio.timeout_at(until):
            await target.changed.wait()
    except TimeoutError:
        pass


async def _cancel(targets: list[Target]) -> None:
    tasks = [target.task for target in targets if target.task is not None]
    for target in targets:
        target.task = None
        target.state = "waiting"
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
