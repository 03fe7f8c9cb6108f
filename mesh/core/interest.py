"""Interest: which documents a peer is kept up to date with, and how that travels over several hops.

Every node tells its peers what it wants itself, and passes on what it heard others want, unless its own
interest covers that already (a hub absorbs the interest of everybody behind it, so the cost at the edge
does not grow with the mesh). It is always an *origin's* interest that travels, never a union of unions, so
that nodes in a circle cannot keep each other's dead interest alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from blake3 import blake3

from mesh.core.selector import Matcher, compile_selector
from mesh.core.wire import Interest, InterestEntry
from mesh.errors import InvalidSelector, ProtocolViolation

EVERYTHING = InterestEntry("*")
"""Every collection, whole: what a hub wants."""

MAX_HOPS = 16
"""Links that an interest crosses at most."""

MAX_ENTRIES = 64
"""Selectors per collection and link; beyond them the whole collection is synced."""

MAX_ORIGINS = 16_384
"""Origins that one peer speaks for."""

SOFT_STATE_SECONDS = 15 * 60.0
"""How long the interest of a peer outlives its link."""


def entry_digest(entry: InterestEntry) -> bytes:
    """16 bytes that name an entry."""
    return blake3(msgspec.json.encode([entry.collection, entry.selector], order="sorted")).digest(length=16)


class InterestSet:
    """Entries, ready for matching. Immutable; equal sets have equal ``digests``."""

    def __init__(self, entries: Iterable[InterestEntry] = ()) -> None:
        by_digest: dict[bytes, InterestEntry] = {}
        whole: set[str] = set()
        counts: dict[str, int] = {}
        for entry in entries:
            digest = entry_digest(entry)
            if digest in by_digest:
                continue
            by_digest[digest] = entry
            counts[entry.collection] = counts.get(entry.collection, 0) + 1
            if not entry.selector:
                whole.add(entry.collection)
        whole |= {collection for collection, count in counts.items() if count > MAX_ENTRIES}
        for collection in whole:
            by_digest = {d: e for d, e in by_digest.items() if e.collection != collection}
            entry = InterestEntry(collection)
            by_digest[entry_digest(entry)] = entry
        self.everything = EVERYTHING.collection in whole
        if self.everything:
            by_digest = {entry_digest(EVERYTHING): EVERYTHING}
            whole = set()
        self._by_digest = by_digest
        self._whole = whole
        self._matchers: dict[str, list[Matcher]] = {}
        for entry in by_digest.values():
            if entry.selector:
                self._matchers.setdefault(entry.collection, []).append(compile_selector(entry.selector))

    @property
    def entries(self) -> dict[bytes, InterestEntry]:
        """The entries by their digests."""
        return self._by_digest

    @property
    def collections(self) -> set[str]:
        """The collections that any entry is about; none are named where it is about everything."""
        return self._whole | self._matchers.keys()

    def __contains__(self, collection: str) -> bool:
        return self.everything or collection in self._whole or collection in self._matchers

    def partial(self, collection: str) -> bool:
        """Whether only part of a collection is wanted."""
        return collection in self._matchers

    def matches(self, collection: str, fields: Mapping[str, Any] | None) -> bool:
        """Whether a document is wanted; a removed one (``None``) matches every selector."""
        if self.everything or collection in self._whole:
            return True
        matchers = self._matchers.get(collection)
        return matchers is not None and (fields is None or any(match(fields) for match in matchers))

    def covers(self, entry: InterestEntry) -> bool:
        """Whether an entry asks for nothing that this set does not."""
        return self.everything or entry.collection in self._whole or entry_digest(entry) in self._by_digest


@dataclass(slots=True)
class _Heard:
    sequence: int
    hops: int
    entries: list[InterestEntry]
    expires: float | None = None


class InterestTable:
    """What this node and, as far as it heard, others want.

    ``peer`` arguments are node ids; ``now`` is in seconds on any steady clock.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._own = InterestSet()
        self._sequence = 0
        self._heard: dict[str, dict[str, _Heard]] = {}  # peer -> origin -> what it said

    @property
    def own(self) -> InterestSet:
        """What this node wants itself."""
        return self._own

    def set_own(self, entries: Iterable[InterestEntry], sequence: int) -> None:
        """Replace this node's own interest; ``sequence`` must grow (milliseconds since the epoch do)."""
        self._own = InterestSet(entries)
        self._sequence = max(self._sequence + 1, sequence)

    def heard(self, peer: str, interest: Interest) -> bool:
        """Take in what ``peer`` says; whether that changes anything.

        It replaces what the peer said of this origin before, whatever the sequence: the peer counts on it.

        Raises:
            ProtocolViolation: an entry is malformed.
        """
        origins = self._heard.setdefault(peer, {})
        if interest.hops > MAX_HOPS:  # WITHDRAWN is
            return origins.pop(interest.origin, None) is not None
        if interest.origin == self._node_id:
            return False
        if (interest.hops == 0) != (interest.origin == peer):
            raise ProtocolViolation(
                f"{peer} passes on the interest of {interest.origin} as if it were its own"
            )
        known = origins.get(interest.origin)
        if known is None and len(origins) >= MAX_ORIGINS:
            raise ProtocolViolation(f"speaks for more than {MAX_ORIGINS} origins")
        try:
            entries = InterestSet(interest.entries).entries
        except InvalidSelector as error:
            raise ProtocolViolation(f"an interest that cannot be: {error}") from error
        fresh = _Heard(interest.sequence, interest.hops, list(entries.values()))
        origins[interest.origin] = fresh
        return known is None or known != fresh

    def link_down(self, peer: str, now: float) -> None:
        """The link with ``peer`` is gone; what it said is kept for a while."""
        for heard in self._heard.get(peer, {}).values():
            heard.expires = now + SOFT_STATE_SECONDS

    def expire(self, now: float) -> bool:
        """Forget what has outlived its link for too long; whether there was any."""
        before = sum(map(len, self._heard.values()))
        for peer, origins in list(self._heard.items()):
            kept = {o: h for o, h in origins.items() if h.expires is None or h.expires > now}
            if kept:
                self._heard[peer] = kept
            else:
                del self._heard[peer]
        return sum(map(len, self._heard.values())) != before

    @property
    def next_expiry(self) -> float | None:
        """When there is something to :meth:`expire`."""
        times = [
            h.expires for origins in self._heard.values() for h in origins.values() if h.expires is not None
        ]
        return min(times, default=None)

    def wanted_by(self, peer: str) -> InterestSet:
        """What ``peer`` is to be kept up to date with, for itself and for those behind it."""
        entries = [e for heard in self._heard.get(peer, {}).values() for e in heard.entries]
        # Neighbours always know each other's node documents.
        return InterestSet([*entries, InterestEntry("nodes", {"_id": self._node_id})])

    def wanted_from(self, peer: str) -> InterestSet:
        """What ``peer`` is asked to keep this node up to date with."""
        entries = [e for interest in self.announcements(peer) for e in interest.entries]
        return InterestSet([*entries, InterestEntry("nodes", {"_id": peer})])

    def announcements(self, peer: str) -> list[Interest]:
        """Everything to tell ``peer``: this node's own interest, then that of the origins behind it."""
        result = [Interest(self._node_id, self._sequence, 0, list(self._own.entries.values()))]
        best: dict[str, tuple[str, _Heard]] = {}
        for via, origins in self._heard.items():
            for origin, heard in origins.items():
                known = best.get(origin)
                if known is None or (-heard.sequence, heard.hops, via) < (
                    -known[1].sequence,
                    known[1].hops,
                    known[0],
                ):
                    best[origin] = (via, heard)
        for origin, (via, heard) in sorted(best.items()):
            if peer in (via, origin) or heard.hops + 1 > MAX_HOPS:
                continue
            entries = [entry for entry in heard.entries if not self._own.covers(entry)]
            if entries:
                result.append(Interest(origin, heard.sequence, heard.hops + 1, entries))
        return result
