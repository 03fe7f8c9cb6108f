"""Telling others what is held here of a blob: at once when it matters, otherwise not for every chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ANNOUNCE_CHUNKS = 16
ANNOUNCE_SECONDS = 0.1
"""What is held is told after so many new chunks, or so long after the first of them."""


class Announcer:
    """Knows who listens to which blob, and when to tell them."""

    def __init__(self, tell: Callable[[str, bytes], None]) -> None:
        """``tell(peer, hash)`` tells a peer what is held of a blob now."""
        self._tell = tell
        self._listeners: dict[bytes, set[str]] = {}
        self._fresh: dict[bytes, int] = {}  # chunks that nobody was told of yet
        self._timers: dict[bytes, asyncio.TimerHandle] = {}

    def set_listeners(self, hash: bytes, listeners: set[str]) -> None:
        """Who is to be told from now on; who was not before is told at once."""
        before = self._listeners.pop(hash, set())
        if listeners:
            self._listeners[hash] = listeners
        for peer in listeners - before:
            self._tell(peer, hash)

    def listens(self, hash: bytes, peer: str) -> bool:
        """Whether a peer is told of a blob."""
        return peer in self._listeners.get(hash, ())

    def forget(self, peer: str) -> None:
        """The link with a peer ended."""
        for listeners in self._listeners.values():
            listeners.discard(peer)

    def grew(self, hash: bytes) -> None:
        """A chunk arrived."""
        if not self._listeners.get(hash):
            return
        self._fresh[hash] = self._fresh.get(hash, 0) + 1
        if self._fresh[hash] >= ANNOUNCE_CHUNKS:
            self.tell_all(hash)
        elif hash not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[hash] = loop.call_later(ANNOUNCE_SECONDS, self.tell_all, hash)

    def tell_all(self, hash: bytes) -> None:
        """Tell everybody now."""
        self._fresh.pop(hash, None)
        timer = self._timers.pop(hash, None)
        if timer is not None:
            timer.cancel()
        for peer in self._listeners.get(hash, ()):
            self._tell(peer, hash)

    def close(self) -> None:
        """Tell nobody any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._listeners.clear()
