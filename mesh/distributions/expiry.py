"""Tells when distributions expire, by the wall clock."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

MAX_SLEEP = 3600.0
"""Seconds after which the wall clock is read again: a device may learn the true time long after its start."""


class ExpiryTimer:
    """Calls back with each id once its time has come. The time may lie in the past already."""

    def __init__(self, clock: Callable[[], float], expired: Callable[[str], None]) -> None:
        self._clock = clock
        self._expired = expired
        self._due: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, expires_at: float, distribution_id: str) -> None:
        """Tell about ``distribution_id`` at ``expires_at``, seconds since the epoch."""
        if not self._closed:
            heapq.heappush(self._due, (expires_at, distribution_id))
            self._arm()

    def close(self) -> None:
        """Call back no more."""
        self._closed = True
        self._due.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            delay = min(MAX_SLEEP, max(0.0, self._due[0][0] - self._clock()))
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            self._expired(heapq.heappop(self._due)[1])
        self._arm()
