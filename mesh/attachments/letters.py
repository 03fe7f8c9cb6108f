"""What is said of blobs on a link, put together: for many small blobs, messages cost more than bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mesh.attachments.serving import hash_bytes
from mesh.core.demand import MAX_HOPS
from mesh.core.tokens import MAX_BLOB_BYTES, BlobToken
from mesh.core.wire import BlobAsk, BlobForget, BlobHave, BlobNews, BlobServed
from mesh.errors import ProtocolViolation
from mesh.network.link import Link
from mesh.network.peers import Peers

MAX_ITEMS = 256
"""In one message."""

MAX_TOGETHER_BYTES = 1024
"""A map of chunks that is larger goes alone."""

MAX_ORIGIN_LENGTH = 128

T = TypeVar("T")

Item = BlobAsk | BlobForget | BlobHave | BlobServed


class Letters:
    """Sends what was said to a peer in one turn of the event loop, in that order; takes apart what came.

    Of what is held of a blob the last word is sent only: who asks again and again makes nothing pile up.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._unsent: dict[str, dict[object, Item]] = {}
        self._handlers: dict[type, Callable[[Link, Any], None]] = {}
        peers.handle(BlobNews, self._came)

    def on(self, kind: type[T], handler: Callable[[Link, T], None]) -> None:
        """Call ``handler`` with every message of a kind, however it came."""
        self._handlers[kind] = handler
        self._peers.handle(kind, handler)

    def say(self, peer: str, item: Item) -> None:
        """Tell a peer something soon; nothing happens if there is no link with it then."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        unsent = self._unsent.setdefault(peer, {})
        key = item.hash if isinstance(item, BlobHave) else object()
        unsent.pop(key, None)
        unsent[key] = item

    def forget(self, peer: str) -> None:
        """The link with a peer ended: the next one begins anew."""
        self._unsent.pop(peer, None)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for peer, items in unsent.items():
            if (link := self._peers.links.get(peer)) is not None:
                _post(link, items.values())

    def _came(self, link: Link, news: BlobNews) -> None:
        if len(news.items) > MAX_ITEMS:
            raise ProtocolViolation(f"news of blobs of {len(news.items)} items, over {MAX_ITEMS}")
        for item in news.items:
            self._handlers[type(item)](link, item)


def _post(link: Link, items: Iterable[Item]) -> None:
    together: list[Item] = []
    for item in items:
        alone = isinstance(item, BlobHave) and len(item.chunks or b"") > MAX_TOGETHER_BYTES
        if alone or len(together) == MAX_ITEMS:
            _post_together(link, together)
            together = []
        if alone:
            link.send(item)
        else:
            together.append(item)
    _post_together(link, together)


def _post_together(link: Link, items: list[Item]) -> None:
    if len(items) == 1:
        link.send(items[0])
    elif items:
        link.send(BlobNews(items))


def token_of(ask: BlobAsk) -> BlobToken:
    """The token of the blob that is asked for, without its metadata.

    Raises:
        ProtocolViolation: the demand cannot be true.
    """
    if not (0 <= ask.hops <= MAX_HOPS and 0 <= ask.size_bytes <= MAX_BLOB_BYTES):
        raise ProtocolViolation(f"a demand over {ask.hops} hops for {ask.size_bytes} bytes")
    if len(ask.origin) > MAX_ORIGIN_LENGTH:
        raise ProtocolViolation(f"an origin of {len(ask.origin)} characters")
    return BlobToken(hash_bytes(ask.hash).hex(), ask.size_bytes, hash_bytes(ask.chunks_hash).hex())
