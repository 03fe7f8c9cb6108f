"""A blob that is fetched: for whom, and from whom it can be had."""

from __future__ import annotations

from mesh.attachments.waiters import Waiter
from mesh.core.chunks import ChunkMap
from mesh.core.tokens import BlobProgress, BlobToken


class Wanted:
    """What all fetches have, however they go.

    Attributes:
        waiters: who waits for it here; none for a blob that is fetched for other nodes only.
        relay_priority: the highest priority among other nodes that want it; 0: none does.
        known: what the peers said they hold; ``None``: all of it.
    """

    def __init__(self, token: BlobToken) -> None:
        self.token = token
        self.waiters: list[Waiter] = []
        self.relay_priority = 0
        self.known: dict[str, ChunkMap | None] = {}

    @property
    def sources(self) -> list[str]:
        """The peers that said what they hold."""
        return list(self.known)

    @property
    def whole_sources(self) -> list[str]:
        """The peers that said they hold all of it."""
        return [peer for peer, have in self.known.items() if have is None]

    def tell_completed(self) -> None:
        """Tell who waits that it is here."""
        size = self.token.size_bytes
        for waiter in self.waiters:
            waiter.tell(BlobProgress("completed", size, size))

    @property
    def priority(self) -> int:
        """The highest priority of anybody who wants it."""
        return max((waiter.priority for waiter in self.waiters), default=self.relay_priority)
