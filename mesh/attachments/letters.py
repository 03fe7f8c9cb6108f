"""What is said of blobs on a link, put together: for many small blobs, messages cost more than bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mesh.core.wire import BlobAsk, BlobForget, BlobHave, BlobNews, BlobServed
from mesh.network.link import Link

MAX_ITEMS = 256
"""In one message."""

MAX_TOGETHER_BYTES = 1024
"""A map of chunks that is larger goes alone."""

Item = BlobAsk | BlobForget | BlobHave | BlobServed


class Letters:
    """Sends what was said to each peer in one turn of the event loop, in that order."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = links
        self._unsent: dict[str, list[Item]] = {}

    def say(self, peer: str, item: Item) -> None:
        """Tell a peer something soon; nothing happens if there is no link with it then."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.setdefault(peer, []).append(item)

    def forget(self, peer: str) -> None:
        """The link with a peer ended: the next one begins anew."""
        self._unsent.pop(peer, None)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for peer, items in unsent.items():
            if (link := self._links.get(peer)) is not None:
                _post(link, items)


def _post(link: Link, items: list[Item]) -> None:
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
