"""What the peers of a node are told: what it wants itself, and of what others want as much as there is room
for. See :mod:`mesh.core.routes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from mesh.core.own_interest import OwnInterest
from mesh.core.ways import MAX_HOPS, LinkState, Origin, Way
from mesh.core.wire import WITHDRAWN, Interest, Routes

_TRIED = 256
"""Origins of which there was no room to tell that are tried again at once."""

_NOTHING = Origin()


class Telling:
    """Says it on all links.

    Attributes:
        concerned: linked peers for which there is something new, until :meth:`tell`.
    """

    def __init__(self, own: OwnInterest, origins: dict[str, Origin], links: Mapping[str, LinkState]) -> None:
        self.concerned: set[str] = set()
        self._own = own
        self._origins = origins
        self._links = links

    def mark(self, origin: str, peers: Iterable[str]) -> None:
        """There may be something to tell these peers of an origin."""
        for peer in peers:
            if peer in self._links:
                self._links[peer].changed.add(origin)
                self.concerned.add(peer)

    def tell(self, peer: str) -> list[Interest | Routes]:
        """What ``peer`` has not been told yet, in order."""
        link, node_id = self._links[peer], self._own.node_id
        messages: list[Interest | Routes] = []
        news: list[Interest] = []
        for origin in sorted(link.changed, key=lambda origin: (origin != node_id, origin)):
            interest = self.announcement(peer, origin)
            ended = link.ended.pop(origin, 0)
            if interest is None:
                if self._untell(peer, origin) or ended:
                    messages.append(Interest(origin, ended, WITHDRAWN, []))
            elif origin != node_id:
                news.append(interest)
            elif interest != link.told_own:
                link.told_own = interest
                messages.append(interest)
        link.changed.clear()
        for interest in news:
            messages += self._tell(peer, interest)
        while link.told.has_room and link.untold:
            messages += self._try_again(peer)
        told = link.routed_told or set()
        if link.routed != link.routed_told:
            messages.append(Routes(sorted(link.routed - told), sorted(told - link.routed)))
            link.routed_told = set(link.routed)
        self.concerned.discard(peer)
        return messages

    def _tell(self, peer: str, interest: Interest) -> list[Interest]:
        """What to say to have told a peer what another node wants, if there is room for it."""
        link, known = self._links[peer], self._origins[interest.origin]
        if interest == link.told.get(interest.origin) or known.way is None:
            return []
        # Somebody may make up any number of origins, and the peer would not know that it was not us.
        via = known.way.via if isinstance(known.way, Way) else known.way.lost
        crowded_out = link.told.add(interest, via)
        if crowded_out is None:
            link.untold[interest.origin] = None
            return []
        link.untold.pop(interest.origin, None)
        known.told.add(peer)
        for origin in crowded_out:
            self._origins[origin].told.discard(peer)
            link.untold[origin] = None
        return [*(Interest(origin, 0, WITHDRAWN, []) for origin in crowded_out), interest]

    def _try_again(self, peer: str) -> list[Interest]:
        """What to say now that there is room; only so much is tried that fails."""
        link = self._links[peer]
        link.told.has_room = False
        messages: list[Interest] = []
        for origin in list(islice(link.untold, _TRIED)):
            del link.untold[origin]
            interest = self.announcement(peer, origin)
            if interest is not None and (said := self._tell(peer, interest)):
                messages += said
                link.told.has_room = True
        return messages

    def _untell(self, peer: str, origin: str) -> bool:
        """A peer is not told of an origin any more; whether it was."""
        link, known = self._links[peer], self._origins.get(origin)
        link.untold.pop(origin, None)
        was_told = link.told.remove(origin)
        if known is not None:
            known.told.discard(peer)
            if known.is_over:
                del self._origins[origin]
        return was_told

    def announcement(self, peer: str, origin: str) -> Interest | None:
        """What ``peer`` is to know of an origin; ``None``: nothing."""
        if origin == self._own.node_id:
            return self._own.announcement()
        known = self._origins.get(origin, _NOTHING)
        way = known.way
        if way is None or way.hops > MAX_HOPS:
            return None
        if origin == peer:
            direct = known.heard.get(peer)
            behind = direct is not None and direct.sequence < way.sequence
            return Interest(origin, way.sequence, way.hops, []) if behind else None
        if isinstance(way, Way):
            if way.via == peer:
                return None
        elif way.quiet:
            return None
        entries = self._own.uncovered(way.entries)
        # Whoever is on an older way to the origin has to hear of the newer one, whatever is left to ask for.
        if not entries and peer not in known.behind:
            return None
        return Interest(origin, way.sequence, way.hops, entries)
