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
"""Verdicts that are remembered, for all peers together."""

MAX_WAITING = 256
"""Asks of one peer that are kept."""

Answer = Callable[[Link, BlobAsk], None]

_Key = tuple[bytes, str]


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
        self._waiting: dict[str, dict[_Key, tuple[Link, BlobAsk, Answer]]] = {}

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
        key = (ask.hash, ask.origin)
        waiting = self._waiting.setdefault(link.node_id, {})
        waiting.pop(key, None)
        if len(waiting) >= MAX_WAITING:
            del waiting[next(iter(waiting))]
        waiting[key] = (link, ask, allowed)
        self._spawn(self._judge(link.node_id, key, refused))

    def taken_back(self, peer: str, hash: bytes, origin: str) -> None:
        """A peer does not ask for a blob on behalf of an origin any more."""
        self._waiting.get(peer, {}).pop((hash, origin), None)

    def forget(self, peer: str) -> None:
        """The link with a peer ended."""
        self._waiting.pop(peer, None)
        for allowed in [allowed for allowed in self._allowed if allowed[0] == peer]:
            del self._allowed[allowed]

    def reconsider(self, *, hash: bytes | None = None, peer: str | None = None) -> None:
        """Judge again what was asked for: what refers to a blob has changed, or what is known of a peer."""
        for asker, waiting in self._waiting.items():
            for key in waiting:
                if hash == key[0] or peer == asker:
                    self._spawn(self._judge(asker, key))

    async def _judge(self, peer: str, key: _Key, refused: Answer | None = None) -> None:
        asked = self._waiting.get(peer, {}).get(key)
        if asked is None:
            return
        link, ask, allowed = asked
        may = await self.may(peer, ask.hash)
        if self._waiting.get(peer, {}).get(key) is not asked:
            return
        if may:
            del self._waiting[peer][key]
            allowed(link, ask)
        elif refused is not None:
            refused(link, ask)
