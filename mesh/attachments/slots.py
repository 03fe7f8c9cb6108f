"""How many fetches are under way at once; the others wait, the most urgent first."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

MAX_UNDER_WAY = 256
"""Fetches of one priority and those above it that have sources and an open file at once. Whoever waits for a
source needs neither."""


class Claimant(Protocol):
    """A fetch."""

    @property
    def priority(self) -> int:
        """Higher ones go first."""


class Slots:
    """Gives a slot to each fetch that is under way."""

    def __init__(self, limit: int = MAX_UNDER_WAY) -> None:
        self._limit = limit
        self._taken: dict[Claimant, int] = {}  # -> its priority then
        self._levels: Counter[int] = Counter()  # how many of each priority have one
        self._waiting: dict[int, dict[Claimant, asyncio.Future[None]]] = {}  # by priority, in order

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for a slot."""
        return bool(self._waiting)

    @property
    def taken(self) -> int:
        """How many have a slot."""
        return len(self._taken)

    async def take(self, claimant: Claimant) -> None:
        """Wait for a slot. Has to be followed by :meth:`give_back`."""
        priority = claimant.priority
        if self._has_room(priority):
            self._give(claimant, priority)
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(priority, {})[claimant] = future
        try:
            await future
        finally:
            self._leave(claimant)

    def raised(self, claimant: Claimant) -> None:
        """The priority of ``claimant`` may have changed."""
        future = self._leave(claimant)
        if future is not None:
            self._waiting.setdefault(claimant.priority, {})[claimant] = future
            self._next()

    def give_back(self, claimant: Claimant) -> None:
        """The slot is not needed any more. May be repeated."""
        priority = self._taken.pop(claimant, None)
        if priority is not None:
            self._levels[priority] -= 1
            self._next()

    def _next(self) -> None:
        while self._waiting:
            priority = max(self._waiting)
            if not self._has_room(priority):
                return
            claimant = next(iter(self._waiting[priority]))
            future = self._leave(claimant)
            if future is not None and not future.done():
                self._give(claimant, priority)
                future.set_result(None)

    def _give(self, claimant: Claimant, priority: int) -> None:
        self._taken[claimant] = priority
        self._levels[priority] += 1

    def _leave(self, claimant: Claimant) -> asyncio.Future[None] | None:
        for priority, waiting in self._waiting.items():
            future = waiting.pop(claimant, None)
            if future is not None:
                if not waiting:
                    del self._waiting[priority]
                return future
        return None

    def _has_room(self, priority: int) -> bool:
        return sum(count for level, count in self._levels.items() if level >= priority) < self._limit
