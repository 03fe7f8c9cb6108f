"""Who may have which blob: in a closed mesh a peer gets nothing of one that it has no right to, and cannot
tell that from one that is not here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from mesh.core.wire import BlobAsk
from mesh.network.link import Link

MayRead = Callable[[str, str], Awaitable[bool]]
"""Whether a peer may have the blob with a hash."""

ALLOWED_SECONDS = 10.0
"""For so long a peer that was allowed a blob gets more of it without being judged anew."""

MAX_ALLOWED = 4096
MAX_WAITING = 4096
"""What is remembered, for all peers together."""

Answer = Callable[[Link, BlobAsk], None]

_Key = tuple[str, bytes, str]


class Readers:
    """Lets those through who may read what they ask for.

    An ask that is not allowed is kept until it is taken back: what would allow it may be on its way.
    """

    def __init__(
        self, may_read: MayRead | None, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        """``may_read``: ``None`` in an open mesh, where everybody may."""
        self.open = may_read is None
        self._may_read = may_read
        self._spawn = spawn
        self._allowed: dict[tuple[str, bytes], float] = {}
        self._waiting: dict[_Key, tuple[Link, BlobAsk, Answer]] = {}

    async def may(self, peer: str, hash: bytes) -> bool:
        """Whether a peer may have a blob."""
        if self._may_read is None:
            return True
        now = asyncio.get_running_loop().time()
        if self._allowed.get((peer, hash), 0.0) > now:
            return True
        allowed = await self._may_read(peer, hash.hex())
        if allowed:
            if len(self._allowed) >= MAX_ALLOWED:
                self._allowed.clear()
            self._allowed[peer, hash] = now + ALLOWED_SECONDS
        return allowed

    def ask(self, link: Link, ask: BlobAsk, allowed: Answer, refused: Answer) -> None:
        """Call one of two, now or soon."""
        if self.open:
            allowed(link, ask)
            return
        key = (link.node_id, ask.hash, ask.origin)
        self._waiting.pop(key, None)
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[key] = (link, ask, allowed)
        self._spawn(self._judge(key, refused))

    def forget(self, peer: str, hash: bytes | None = None, origin: str | None = None) -> None:
        """A peer takes back what it asked for on behalf of an origin; or all, as its link ended."""
        if origin is not None and hash is not None:
            self._waiting.pop((peer, hash, origin), None)
            return
        for key in [key for key in self._waiting if key[0] == peer]:
            del self._waiting[key]
        for allowed in [allowed for allowed in self._allowed if allowed[0] == peer]:
            del self._allowed[allowed]

    def reconsider(self, *, hash: bytes | None = None, peer: str | None = None) -> None:
        """Judge again what was asked for: what refers to a blob has changed, or what is known of a peer."""
        for key in self._waiting:
            if hash == key[1] or peer == key[0]:
                self._spawn(self._judge(key))

    async def _judge(self, key: _Key, refused: Answer | None = None) -> None:
        asked = self._waiting.get(key)
        if asked is None:
            return
        link, ask, allowed = asked
        may = await self.may(link.node_id, ask.hash)
        if self._waiting.get(key) is not asked or link.closed:
            return
        if may:
            del self._waiting[key]
            allowed(link, ask)
        elif refused is not None:
            refused(link, ask)
