"""Who the neighbours are linked with: told while somebody asks, and never a document.

Whoever watches asks its neighbours, again and again: a neighbour that is not asked for a while stops telling.
It tells when it is asked and when something has changed, but not more often than every few seconds.
"""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from mesh.core.structs import Struct
from mesh.core.wire import MAX_SEEN_LINKS, LinksAsk, LinksTold, SeenLink
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.streams import Stream

ASK_SECONDS = 10.0
"""Between two questions of one who watches."""

ASKED_SECONDS = 25.0
"""How long a neighbour tells after it was asked."""

TELL_SECONDS = 2.0
"""Between two answers."""


class Neighbour(Struct, frozen=True):
    """A neighbour, and the links that it has."""

    node_id: str
    links: list[SeenLink]


class Neighbourhood:
    """The links of the neighbours, for those who watch; and this node's own links, for neighbours that do."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._streams: WeakSet[Stream[list[Neighbour]]] = WeakSet()
        self._known: dict[str, list[SeenLink]] = {}
        self._askers: dict[str, tuple[float, list[SeenLink] | None]] = {}  # until when, and what was told
        self._asking: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        peers.handle(LinksAsk, self._on_ask)
        peers.handle(LinksTold, self._on_told)
        peers.on_up(self._link_up)
        peers.on_down(self._link_down)

    def observe(self) -> Stream[list[Neighbour]]:
        """What is known now, then whenever that changes; the neighbours are asked while one is open."""
        stream: Stream[list[Neighbour]] = Stream(
            merge=lambda older, newer: newer, on_close=lambda: self._streams.discard(stream)
        )
        stream.push(self._now())
        self._streams.add(stream)
        if self._asking is None:
            self._ask()
        return stream

    def close(self) -> None:
        """Nobody watches any more, and nobody is told."""
        for stream in list(self._streams):
            stream.finish()
        for timer in (self._asking, self._telling):
            if timer is not None:
                timer.cancel()

    # --- asking -----------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._asking = None
        if not self._streams:
            self._known.clear()
            return
        for link in self._peers.links.values():
            link.send(LinksAsk())
        self._asking = asyncio.get_running_loop().call_later(ASK_SECONDS, self._ask)

    def _on_told(self, link: Link, message: LinksTold) -> None:
        if self._asking is not None:  # else nobody has asked for a while
            self._known[link.node_id] = message.links
            self._changed()

    def _link_up(self, link: Link) -> None:
        if self._asking is not None:
            link.send(LinksAsk())

    def _link_down(self, link: Link, reason: str) -> None:
        self._askers.pop(link.node_id, None)
        if self._known.pop(link.node_id, None) is not None:
            self._changed()

    def _changed(self) -> None:
        for stream in list(self._streams):
            stream.push(self._now())

    def _now(self) -> list[Neighbour]:
        return [Neighbour(node_id, links) for node_id, links in sorted(self._known.items())]

    # --- telling ----------------------------------------------------------------------------------

    def _on_ask(self, link: Link, message: LinksAsk) -> None:
        # What it was told before it may have forgotten: it may not have watched all the time.
        self._askers[link.node_id] = (asyncio.get_running_loop().time() + ASKED_SECONDS, None)
        if self._telling is None:
            self._tell()

    def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        links = [SeenLink(link.node_id, link.rtt) for link in self._peers.links.values()][:MAX_SEEN_LINKS]
        for node_id, (until, told) in list(self._askers.items()):
            if until <= loop.time():
                del self._askers[node_id]
            elif told != links:
                self._peers.links[node_id].send(LinksTold(links))
                self._askers[node_id] = (until, links)
        self._telling = loop.call_later(TELL_SECONDS, self._tell) if self._askers else None
