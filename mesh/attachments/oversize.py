"""Blobs that a node does not pass on because they are larger than all that it keeps for others."""

from __future__ import annotations

from collections.abc import Callable

from mesh.core.limits import peer_log
from mesh.core.tokens import BlobToken
from mesh.core.wire import BlobTooLarge
from mesh.network.link import Link
from mesh.network.peers import Peers

MAX_WARNED = 1024
"""Blobs that are remembered to have been warned of."""

RelayBytes = Callable[[BlobToken, str], int | None]
"""What a blob may have at most to be passed on to an origin; ``None``: there is no such bound, or it is not
passed on whatever its size."""

log = peer_log(__name__)


class Oversize:
    """Says so to whoever asks for one, and in the log, once per blob; and remembers who said so."""

    def __init__(self, peers: Peers, relay_bytes: RelayBytes) -> None:
        self._peers = peers
        self._relay_bytes = relay_bytes
        self._warned: dict[str, None] = {}  # the oldest first
        self._said: dict[bytes, dict[str, int]] = {}  # hash -> peer -> its limit

    def refused(self, link: Link, token: BlobToken, origin: str) -> None:
        """A peer asked for a blob that is not here and that this node does not ask on for. Nothing is said of
        what it could ask nobody else for, or what it has no room for now only."""
        limit = self._relay_bytes(token, origin)
        if limit is None or token.size_bytes <= limit or len(self._peers.links) < 2:
            return
        link.send(BlobTooLarge(bytes.fromhex(token.hash), limit))
        if token.hash in self._warned:
            return
        self._warned[token.hash] = None
        if len(self._warned) > MAX_WARNED:
            del self._warned[next(iter(self._warned))]
        log.warning(
            "%s asks for blob %s, which is not passed on: it has %d bytes, and all blobs that are here for "
            "others only may take %d bytes; Node(cache_bytes=...) or `mesh up --cache` lets them take more",
            link,
            token.hash,
            token.size_bytes,
            limit,
        )

    def __contains__(self, hash: bytes) -> bool:
        """Whether somebody said so of a blob."""
        return hash in self._said

    def heard(self, peer: str, message: BlobTooLarge) -> None:
        """A peer that was asked for a blob says that it does not pass it on."""
        self._said.setdefault(message.hash, {})[peer] = message.limit_bytes

    def keep(self, hash: bytes, asked: set[str]) -> None:
        """Only these are still asked for a blob."""
        said = {peer: limit for peer, limit in self._said.pop(hash, {}).items() if peer in asked}
        if said:
            self._said[hash] = said

    def of(self, hash: bytes, peer: str) -> str:
        """What ``peer`` said of a blob, to stand behind its name; nothing, if it did not."""
        limit = self._said.get(hash, {}).get(peer)
        if limit is None:
            return ""
        return f" [does not pass it on: larger than it keeps for others ({limit / 1e6:,.1f} MB)]"
