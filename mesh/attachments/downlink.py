"""What transfers may ask for: caps for downloads, and room for what is more urgent."""

from __future__ import annotations

import asyncio
from collections import Counter
from operator import itemgetter
from typing import Protocol

from mesh.core.rates import PeerBuckets, TokenBucket

YIELD_SECONDS = 1.0
"""A transfer that got something within this time has what is less urgent wait."""

NODE_CAPPED = "nothing more may be asked for now: this node's download_limit is reached"
LINK_CAPPED = "nothing more may be asked for now: this node's link_limit is reached"
URGENT = "nothing more may be asked for now: something more urgent is fetched"
IN_TURN = "other fetches go first"


class Fetcher(Protocol):
    """A transfer, as the downlink sees it."""

    @property
    def priority(self) -> int:
        """The highest priority of anybody who wants it."""

    def give_way(self) -> None:
        """Take back what was asked for and has not come."""

    def go_on(self) -> None:
        """Ask again: there may be room."""


class Downlink:
    """Lets transfers ask for chunks.

    While one with a higher priority gets something at least every ``YIELD_SECONDS``, the others wait. Under
    a cap those of equal priority that wait for room have it in turn.
    """

    def __init__(self) -> None:
        self._fetchers: dict[Fetcher, int] = {}  # -> when it last had room, counted
        self._priorities: dict[Fetcher, int] = {}
        self._levels: Counter[int] = Counter()  # how many have each priority
        self._waiting: dict[Fetcher, str] = {}  # -> what for
        self._urgent: dict[int, float] = {}  # priority -> what is below waits until then
        self._node: TokenBucket | None = None
        self._links = PeerBuckets()
        self._grants = 0
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None

    def set_limits(self, node: float | None, link: float | None) -> None:
        """Cap what is asked for, of all peers together and of each; bytes a second, ``None``: no cap."""
        self._node = TokenBucket(node, self._now()) if node is not None else None
        self._links = PeerBuckets(link)
        self._wake_at(self._now())

    def enter(self, fetcher: Fetcher) -> None:
        """A transfer begins, or its priority has changed."""
        self._drop_priority(fetcher)
        priority = self._priorities[fetcher] = fetcher.priority
        self._levels[priority] += 1
        self._fetchers.setdefault(fetcher, self._grants)

    def leave(self, fetcher: Fetcher) -> None:
        """A transfer has ended."""
        if self._fetchers.pop(fetcher, None) is None:
            return
        self._drop_priority(fetcher)
        self._waiting.pop(fetcher, None)
        if not self._fetchers:
            self.close()
        elif self._waiting:
            self._wake_at(self._now())

    def _drop_priority(self, fetcher: Fetcher) -> None:
        priority = self._priorities.pop(fetcher, None)
        if priority is not None:
            self._levels[priority] -= 1
            if not self._levels[priority]:
                del self._levels[priority]
                self._urgent.pop(priority, None)

    def forget(self, peer: str) -> None:
        """The link with a peer ended."""
        self._links.forget(peer)

    def take(self, fetcher: Fetcher, peer: str, size: int) -> bool:
        """Whether ``fetcher`` may ask ``peer`` for ``size`` bytes; else it is told to go on when it may."""
        now = self._now()
        link = self._links.of(peer, now)
        ready, why = max(
            (self._node.ready_at(size, now) if self._node is not None else now, NODE_CAPPED),
            (link.ready_at(size, now) if link is not None else now, LINK_CAPPED),
            (self._urgent_until(self._priorities.get(fetcher, 0)), URGENT),
            key=itemgetter(0),
        )
        if ready > now or (self._node is not None and not self._waking and self._overtakes(fetcher)):
            self._waiting[fetcher] = why
            self._wake_at(ready)
            return False
        for bucket in (self._node, link):
            if bucket is not None:
                bucket.take(size, now)
        self._grants += 1
        self._fetchers[fetcher] = self._grants
        return True

    def held_back(self, fetcher: Fetcher) -> str:
        """Why ``fetcher`` may not ask for more now, for people to read."""
        return self._waiting.get(fetcher, IN_TURN)

    def got_on(self, fetcher: Fetcher) -> None:
        """A transfer asks for something, or something came."""
        priority = self._priorities.get(fetcher, 0)
        if all(level >= priority for level in self._levels):
            return
        now = self._now()
        until = self._urgent.get(priority, 0.0)
        self._urgent[priority] = now + YIELD_SECONDS
        if until <= now:
            for other, level in list(self._priorities.items()):
                if level < priority:
                    other.give_way()

    def close(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overtakes(self, fetcher: Fetcher) -> bool:
        """Whether somebody waits who is as urgent."""
        priority = self._priorities.get(fetcher, 0)
        return any(self._priorities.get(other, 0) >= priority for other in self._waiting)

    def _urgent_until(self, priority: int) -> float:
        return max((until for urgent, until in self._urgent.items() if urgent > priority), default=0.0)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._waking = True
        try:
            for fetcher in sorted(waiting, key=lambda one: (-self._priorities[one], self._fetchers[one])):
                fetcher.go_on()
        finally:
            self._waking = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
