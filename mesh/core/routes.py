"""Routes: how interest travels over several hops, and the way that documents take back to whoever wants them.

Every node tells its peers what it wants itself, and passes on what it heard others want. It is always an
*origin's* interest that travels, never a union of unions, so that nodes in a circle cannot keep each other's
dead interest alive. What a node wants itself it does not pass on for others: a hub absorbs the interest of
everybody behind it, so the cost at the edge does not grow with the mesh.

A document takes one way to each origin. Of the peers that passed on an origin's interest, a node chooses the
one with the newest sequence, then with the fewest hops, and says so by :class:`~mesh.core.wire.Routes`; only
that one asks it for the origin's documents. What a peer wants for itself it is always served. So a document
arrives at a node at most once per link, and at most once in all where only one node behind it wants it.

Distances alone would chase their own echo when an origin goes. So a node that loses its way to an origin, and
is offered none that surely does not lead through itself, *stands in* for it: it announces the interest under
a newer sequence, and the documents gather there for ``SOFT_STATE_SECONDS``. An origin that is still about
hears of that and goes above it (the idea of DSDV, Perkins and Bhagwat 1994). Origins use even sequences and
stand-ins odd ones, so that none is taken for the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from mesh.core.interest import MAX_INTEREST_BYTES, MAX_INTEREST_ENTRIES, InterestSet
from mesh.core.own_interest import OwnInterest
from mesh.core.telling import Telling
from mesh.core.told import Told
from mesh.core.ways import MAX_HOPS, MAX_SEQUENCE, Heard, LinkState, Origin, StandIn, Way, above, leads_away
from mesh.core.wire import Interest, InterestEntry, Routes
from mesh.errors import InvalidSelector, ProtocolViolation

MAX_ORIGINS = 16_384
"""Origins that one peer speaks for, and of those it spoke for, how many this node stands in for."""

SOFT_STATE_SECONDS = 15 * 60.0
"""How long a node stands in for an origin."""

_OWN_BYTES = MAX_INTEREST_BYTES // 4
"""What the interest of others leaves to this node's own of what it may tell a peer."""


class InterestTable:
    """What this node and, as far as it heard, others want, and which way documents go for it.

    ``peer`` arguments are node ids; ``now`` is in seconds on any steady clock. A peer that lies can draw to
    itself what is meant for others, and keep it, as anybody can who relays.

    Attributes:
        contested: linked peers that ask for their own node documents, while somebody else speaks as them
            elsewhere: between two that do, no way leads from one to the other, so their neighbours have to
            ask as well.
    """

    def __init__(self, node_id: str) -> None:
        self.contested: set[str] = set()
        self._own = OwnInterest(node_id)
        self._origins: dict[str, Origin] = {}
        self._links: dict[str, LinkState] = {}
        self._telling = Telling(self._own, self._origins, self._links)
        self._standing_in: dict[str, StandIn] = {}  # in the order in which they end
        self._left_by: Counter[str] = Counter()  # lost peer -> origins that are stood in for since

    @property
    def outdone(self) -> bool:
        """Whether another process speaks as this node, and was let have the last word for now."""
        return self._own.outdone

    @property
    def rivals_met(self) -> int:
        """How often another process was heard to speak as this node."""
        return self._own.rivals_met

    @property
    def own(self) -> InterestSet:
        """What this node wants itself."""
        return self._own.wanted

    @property
    def concerned(self) -> set[str]:
        """Linked peers for which there is something new, until :meth:`tell`."""
        return set(self._telling.concerned)

    def set_own(self, entries: Iterable[InterestEntry], sequence: int) -> None:
        """Replace this node's own interest; ``sequence`` should grow (milliseconds since the epoch do)."""
        self._own.replace(entries, sequence)
        for origin in (self._own.node_id, *self._origins):
            self._telling.mark(origin, self._links)

    def tell(self, peer: str) -> list[Interest | Routes]:
        """What ``peer`` has not been told yet, in order."""
        return self._telling.tell(peer)

    # --- what is heard ----------------------------------------------------------------------------

    def link_up(self, peer: str) -> None:
        """There is a link with ``peer``, and nothing has been said on it."""
        told = Told(MAX_ORIGINS - 1, MAX_INTEREST_BYTES - _OWN_BYTES)
        self._links[peer] = LinkState(told, changed={self._own.node_id, *self._origins})
        self._telling.concerned.add(peer)

    def heard(self, peer: str, interest: Interest, now: float) -> bool:
        """Take in what ``peer`` says; whether that changes anything.

        It replaces what the peer said of this origin before, whatever the sequence: the peer counts on it.

        Raises:
            ProtocolViolation: it is malformed, or too much.
        """
        origin, link = interest.origin, self._links[peer]
        if not 0 <= interest.sequence <= MAX_SEQUENCE or interest.hops < 0:
            raise ProtocolViolation(
                f"{peer} speaks of {origin} as of {interest.sequence}, {interest.hops} hops off"
            )
        if origin == self._own.node_id:
            if not self._own.heard(interest.sequence, now):
                return False
            self._telling.mark(origin, self._links)
            return True
        if interest.hops > MAX_HOPS:  # WITHDRAWN is
            return self._taken_back(peer, interest, now)
        if (interest.hops == 0) != (origin == peer):
            raise ProtocolViolation(f"{peer} passes on the interest of {origin} as if it were its own")
        known = self._origins.get(origin)
        if known is not None and known.heard.get(peer) == Heard(
            interest.sequence, interest.hops, interest.entries
        ):
            return False
        if origin not in link.heard and len(link.heard) >= MAX_ORIGINS:
            raise ProtocolViolation(f"speaks for more than {MAX_ORIGINS} origins")
        if len(interest.entries) > MAX_INTEREST_ENTRIES:
            raise ProtocolViolation(f"an interest of more than {MAX_INTEREST_ENTRIES} entries")
        try:
            wanted = InterestSet(interest.entries)
        except InvalidSelector as error:
            raise ProtocolViolation(f"an interest that cannot be: {error}") from error
        fresh = Heard(interest.sequence, interest.hops, list(wanted.entries.values()))
        if link.heard_bytes - link.heard.get(origin, 0) + wanted.size_bytes > MAX_INTEREST_BYTES:
            raise ProtocolViolation(f"wants what takes more than {MAX_INTEREST_BYTES} bytes")
        known = self._origins.setdefault(origin, Origin())
        if known.heard.get(peer) == fresh:
            return False
        known.heard[peer] = fresh
        link.hear(origin, wanted.size_bytes)
        self._choose(origin, now)
        if origin == peer and not fresh.entries:
            self._end(origin, fresh.sequence, now)
        self._telling.mark(origin, [peer])
        return True

    def routed(self, peer: str, routes: Routes) -> None:
        """Take in for which origins ``peer`` sends documents this way.

        Raises:
            ProtocolViolation: it is too much.
        """
        link = self._links[peer]
        link.uses.difference_update(routes.removed)
        link.uses.update(routes.added)
        if len(link.uses) > MAX_ORIGINS:
            raise ProtocolViolation(f"sends what more than {MAX_ORIGINS} origins want")
        if not link.complete:
            link.complete = True
            for origin, stand_in in self._standing_in.items():
                if stand_in.quiet:  # nor does the peer know of a way to it
                    self._speak_up(origin, stand_in)

    def _taken_back(self, peer: str, interest: Interest, now: float) -> bool:
        origin, link = interest.origin, self._links[peer]
        known = self._origins.get(origin)
        if known is None:
            return False
        if interest.sequence:
            self._end(origin, interest.sequence, now)
        if origin not in link.heard:
            return bool(interest.sequence)
        link.unhear(origin)
        del known.heard[peer]
        self._choose(origin, now)
        self._telling.mark(origin, [peer])
        return True

    def link_down(self, peer: str, now: float) -> None:
        """The link with ``peer`` is gone. Stand in for those to whom no other way is known."""
        link = self._links.pop(peer, None)
        if link is None:
            return
        self._telling.concerned.discard(peer)
        self.contested.discard(peer)
        if (known := self._origins.get(peer)) is not None:
            known.contested = False
        for known in self._origins.values():
            known.behind.discard(peer)
            known.told.discard(peer)
        for origin in sorted(link.heard.keys() | link.told.origins()):
            known = self._origins[origin]
            if known.heard.pop(peer, None) is not None:
                self._choose(origin, now, lost=peer)
            elif known.is_over:
                del self._origins[origin]

    def expire(self, now: float) -> bool:
        """Stand in no longer for those who have been gone for too long, and go above who speaks as this node
        again; whether there was anything to do."""
        risen = self._own.rise(now)
        if risen:
            self._telling.mark(self._own.node_id, self._links)
        ended = [(o, s.sequence) for o, s in self._standing_in.items() if s.expires <= now]
        for origin, sequence in ended:
            self._end(origin, sequence, now)
        return risen or bool(ended)

    @property
    def next_expiry(self) -> float | None:
        """When there is something to :meth:`expire`."""
        ends = [stand_in.expires for stand_in in islice(self._standing_in.values(), 1)]
        due = self._own.next_rise
        return min(ends if due is None else [*ends, due], default=None)

    # --- ways -------------------------------------------------------------------------------------

    def _choose(self, origin: str, now: float, *, lost: str | None = None) -> None:
        """Take the best way to an origin, or stand in for it. ``lost``: the peer whose link is down."""
        known = self._origins[origin]
        old = known.way
        direct = known.heard.get(origin)
        self.contested.discard(origin)
        if direct is not None:
            # It goes above the newest sequence that is about, as soon as it hears of it.
            newest = max(heard.sequence for heard in known.heard.values())
            sequence = newest if old is None else max(newest, old.sequence)
            known.contested |= newest > direct.sequence and not newest % 2
            if known.contested and InterestEntry("nodes", {"_id": origin}) in direct.entries:
                self.contested.add(origin)
            self._take(origin, Way(origin, sequence, 1, direct.entries))
            return
        current = old.via if isinstance(old, Way) else None
        ways = [item for item in known.heard.items() if leads_away(old, item[1])]
        if not ways and isinstance(old, Way) and not known.told:  # nobody can echo it, so far
            ways = [item for item in known.heard.items() if item[1].sequence >= old.sequence]
        if ways:
            via, heard = min(ways, key=lambda way: (-way[1].sequence, way[1].hops, way[0] != current, way[0]))
            self._take(origin, Way(via, heard.sequence, heard.hops + 1, heard.entries))
        elif isinstance(old, StandIn):
            if old.quiet and known.heard:  # those are behind it, and cannot be told so under its sequence
                self._speak_up(origin, old)
            self._take(origin, old)
        elif old is not None and old.entries and (known.heard or lost == old.via):
            self._stand_in(origin, old, now)
        else:
            self._take(origin, None)

    def _stand_in(self, origin: str, way: Way, now: float) -> None:
        if self._left_by[way.via] >= MAX_ORIGINS:
            self._take(origin, None)
            return
        known = self._origins[origin]
        quiet = not (known.told or known.heard)
        sequence = way.sequence if quiet else above(way.sequence)
        stand_in = StandIn(way.via, sequence, way.entries, now + SOFT_STATE_SECONDS, quiet)
        self._standing_in[origin] = stand_in
        self._left_by[way.via] += 1
        self._take(origin, stand_in)

    def _speak_up(self, origin: str, stand_in: StandIn) -> None:
        stand_in.quiet = False
        stand_in.sequence = above(stand_in.sequence)
        self._telling.mark(origin, self._links)

    def _end(self, origin: str, sequence: int, now: float) -> None:
        """What was said of an origin up to ``sequence`` counts no longer, for nobody."""
        known = self._origins.get(origin)
        if known is None:
            return
        way, direct = known.way, known.heard.get(origin)
        concerned = {
            peer for peer, heard in known.heard.items() if heard.sequence <= sequence and peer != origin
        }
        for peer in concerned:
            del known.heard[peer]
            self._links[peer].unhear(origin)
        if direct is not None and direct.entries:
            if direct.sequence <= sequence:  # whoever said so is wrong, and the origin will go above it
                self._take(origin, Way(origin, above(sequence), 1, direct.entries))
        elif way is not None and (direct is not None or way.sequence <= sequence):
            concerned |= known.told
            self._take(origin, None if direct is None else way)
        for peer in concerned:
            self._links[peer].ended[origin] = sequence
        self._telling.mark(origin, concerned)
        if origin in self._origins:
            self._choose(origin, now)

    def _take(self, origin: str, way: Way | StandIn | None) -> None:
        known = self._origins[origin]
        old, known.way = known.way, way
        for peer, heard in known.heard.items():
            behind = way is not None and heard.sequence < way.sequence
            (known.behind.add if behind else known.behind.discard)(peer)
        if way == old and way is not None:
            return
        if isinstance(old, Way) and old.via in self._links:
            self._links[old.via].routed.discard(origin)
            self._telling.mark(origin, [old.via])
        if not isinstance(way, StandIn):
            gone = self._standing_in.pop(origin, None)
            if gone is not None:
                self._left_by[gone.lost] -= 1
        if isinstance(way, Way):
            self._links[way.via].routed.add(origin)
            self._telling.mark(origin, [way.via])
        if way is None:
            known.behind.clear()
        # A hub with thousands of peers passes nothing on, so there is nothing to tell them.
        passed_on = way is not None and self._own.uncovered(way.entries)
        self._telling.mark(origin, self._links if passed_on else {*known.behind, *known.told, origin})
        if known.is_over:
            del self._origins[origin]

    # --- what documents are asked for -------------------------------------------------------------

    def wanted_by(self, peer: str) -> InterestSet:
        """What ``peer`` is to be kept up to date with, for itself and for those to whom the way is via it, as
        it has been told."""
        link = self._links[peer]
        origins = link.routed & (link.routed_told or set())
        origins |= {peer} & link.heard.keys()
        entries = [e for origin in origins for e in self._origins[origin].heard[peer].entries]
        # Neighbours always know each other's node documents.
        return InterestSet([*entries, InterestEntry("nodes", {"_id": self._own.node_id})])

    def wanted_from(self, peer: str) -> InterestSet:
        """What ``peer`` is asked to keep this node up to date with, as it has been told."""
        link = self._links[peer]
        told = [link.told_own, *(link.told.get(origin) for origin in link.uses)]
        entries = [entry for interest in told if interest is not None for entry in interest.entries]
        return InterestSet([*entries, InterestEntry("nodes", {"_id": peer})])
