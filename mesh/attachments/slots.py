"""How many fetches are under way at once; the others wait, the most urgent first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
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
        self._waiting: dict[int, dict[Claimant, Callable[[], object]]] = {}  # by priority, in order

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
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.claim(claimant, partial(_give_to, given))
        try:
            await given
        except asyncio.CancelledError:
            self.give_back(claimant)
            raise

    def claim(self, claimant: Claimant, begin: Callable[[], object]) -> None:
        """Have ``begin`` called once there is a slot. Has to be followed by :meth:`give_back`."""
        priority = claimant.priority
        if self._has_room(priority):
            self._give(claimant, priority)
            begin()
        else:
            self._waiting.setdefault(priority, {})[claimant] = begin

    def raised(self, claimant: Claimant) -> None:
        """The priority of ``claimant`` may have changed."""
        begin = self._leave(claimant)
        if begin is not None:
            self._waiting.setdefault(claimant.priority, {})[claimant] = begin
            self._next()

    def give_back(self, claimant: Claimant) -> None:
        """The slot is not needed any more, or not waited for. May be repeated."""
        self._leave(claimant)
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
            begin = self._leave(claimant)
            assert begin is not None
            self._give(claimant, priority)
            begin()

    def _give(self, claimant: Claimant, priority: int) -> None:
        self._taken[claimant] = priority
        self._levels[priority] += 1

    def _leave(self, claimant: Claimant) -> Callable[[], object] | None:
        for priority, waiting in self._waiting.items():
            begin = waiting.pop(claimant, None)
            if begin is not None:
                if not waiting:
                    del self._waiting[priority]
                return begin
        return None

    def _has_room(self, priority: int) -> bool:
        return len(self._taken) < self._limit or self._ahead_of(priority) < self._limit

    def _ahead_of(self, priority: int) -> int:
        return sum(count for level, count in self._levels.items() if level >= priority)


def _give_to(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
