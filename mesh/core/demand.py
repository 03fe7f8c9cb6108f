"""Who wants which blob, how that demand spreads over the mesh, and who is told what this node holds."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from mesh.core.wire import BlobAsk, BlobForget, BlobServed

REPEAT = 30.0
"""Seconds after which an origin repeats its demand."""

FORGET = 90.0
"""Seconds after which a demand that was not repeated is forgotten."""

MAX_HOPS = 16
MAX_DEMANDS_PER_LINK = 16_384
"""(blob, origin) pairs remembered of one link; more are ignored."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to the peer ``link``."""

    link: str
    message: BlobAsk | BlobForget | BlobServed


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

Identity = tuple[int, bytes]
"""(size, chunks_hash): what the token of a blob says of it besides its hash."""


@dataclass(slots=True)
class _Origin:
    identity: Identity
    sequence: int
    priority: int
    wide: bool
    relayed: bool  # this node asks on for it
    links: dict[str, int] = field(default_factory=dict)  # link -> hops
    parent: str | None = None  # the link that is served; None: this node is the origin

    @property
    def hops(self) -> int:
        return -1 if self.parent is None else self.links[self.parent]


@dataclass(slots=True)
class _Blob:
    origins: dict[str, _Origin] = field(default_factory=dict)
    asked: dict[str, dict[str, int]] = field(default_factory=dict)  # link -> origin -> sequence
    declined: set[tuple[str, str]] = field(default_factory=set)  # (link, origin)


class Demands:
    """The demand for blobs as this node knows it. Every event returns what to send.

    Invariants:

    1. Only the origin makes new sequences, and nothing older than the newest known is passed on: in a loop
       a demand cannot live longer than ``FORGET`` after its origin's last word.
    2. On one link and for one token one origin stands for all that this node asks on for: never one whose
       demand came over that link (as its parent), nor the peer itself. So the cost of a link stays the same.
       Tokens of one blob that contradict each other are asked for side by side: who is right shows only
       when the bytes are there.
    3. Of the links over which one origin's demand arrives, the one with the fewest hops (the first among
       equals) is its parent, and only the parent is served; the others are told so. What flows to an
       origin thus flows along a tree, and no chunk takes two ways. ``wide`` lifts this when a way is stuck.
    """

    def __init__(self, node_id: str) -> None:
        self._me = node_id
        self._links: dict[str, int] = {}  # link -> how many demands it brought
        self._blobs: dict[bytes, _Blob] = {}
        self._whole: set[bytes] = set()
        # What is due first stands first in each of these.
        self._forget_at: dict[tuple[bytes, str, str], float] = {}  # (hash, origin, link)
        self._ended: dict[tuple[bytes, str], tuple[int, float]] = {}  # -> (sequence, forgotten at)
        self._repeat_at: dict[bytes, float] = {}

    # --- this node's own wishes ------------------------------------------------------------------

    def want(
        self, hash: bytes, size_bytes: int, chunks_hash: bytes, priority: int, sequence: int, now: float
    ) -> list[Send]:
        """This node wants a blob. ``sequence`` is higher than any it used before, in earlier lives too."""
        blob = self._blobs.setdefault(hash, _Blob())
        mine = _Origin((size_bytes, chunks_hash), sequence, priority, wide=False, relayed=True)
        blob.origins[self._me] = mine
        blob.declined = {pair for pair in blob.declined if pair[1] != self._me}
        _put_last(self._repeat_at, hash, now + REPEAT)
        return self._spread(hash)

    def repeat(self, hash: bytes, sequence: int, now: float, *, wide: bool) -> list[Send]:
        """Say again that this node wants a blob."""
        mine = self._blobs[hash].origins[self._me]
        mine.sequence, mine.wide = max(sequence, mine.sequence + 1), mine.wide or wide
        self._blobs[hash].declined.clear()
        _put_last(self._repeat_at, hash, now + REPEAT)
        return self._spread(hash)

    def unwant(self, hash: bytes) -> list[Send]:
        """This node does not want the blob any more."""
        self._repeat_at.pop(hash, None)
        blob = self._blobs.get(hash)
        mine = blob.origins.pop(self._me, None) if blob is not None else None
        return self._spread(hash, ended={self._me: mine.sequence} if mine is not None else {})

    def set_whole(self, hash: bytes, whole: bool) -> list[Send]:
        """The blob is here whole (or no longer): nobody needs to be asked for it (or somebody does)."""
        (self._whole.add if whole else self._whole.discard)(hash)
        return self._spread(hash)

    # --- what links bring --------------------------------------------------------------------------

    def asked(self, link: str, ask: BlobAsk, *, relay: bool, now: float) -> list[Send]:
        """``link`` passes on a demand. ``relay``: this node may ask on for it."""
        ended, until = self._ended.get((ask.hash, ask.origin), (-1, 0.0))
        if ask.origin == self._me or link not in self._links or (ask.sequence <= ended and now < until):
            return []
        blob = self._blobs.get(ask.hash)
        known = blob is not None and ask.origin in blob.origins and link in blob.origins[ask.origin].links
        if not known and self._links[link] >= MAX_DEMANDS_PER_LINK:
            return []
        if blob is None:
            blob = self._blobs[ask.hash] = _Blob()
        identity = (ask.size_bytes, ask.chunks_hash)
        origin = blob.origins.get(ask.origin)
        if origin is None:
            origin = blob.origins[ask.origin] = _Origin(identity, ask.sequence, ask.priority, ask.wide, relay)
        elif ask.sequence > origin.sequence:
            origin.sequence, origin.priority, origin.relayed = ask.sequence, ask.priority, relay
            origin.identity, origin.wide = identity, ask.wide
            blob.declined = {pair for pair in blob.declined if pair[1] != ask.origin}
        self._links[link] += not known
        if not known or ask.sequence == origin.sequence:  # an old one does not keep a demand alive
            origin.links[link] = ask.hops
            _put_last(self._forget_at, (ask.hash, ask.origin, link), now + FORGET)
        sends: list[Send] = []
        before = origin.parent
        if before is None or ask.hops < origin.links[before]:
            origin.parent = link
        if not origin.wide:
            for other in {before, link} - {origin.parent, None}:
                assert other is not None
                sends.append(Send(other, BlobServed(ask.origin, ask.hash)))
        return sends + self._spread(ask.hash)

    def relay(self, hash: bytes, origin: str) -> list[Send]:
        """This node may ask on now for one of those that are :meth:`refused`."""
        self._blobs[hash].origins[origin].relayed = True
        return self._spread(hash)

    def forgotten(self, link: str, forget: BlobForget, now: float) -> list[Send]:
        """``link`` takes a demand back, for itself or for its origin."""
        blob = self._blobs.get(forget.hash)
        origin = blob.origins.get(forget.origin) if blob is not None else None
        if blob is None or origin is None or forget.origin == self._me:
            return []
        if forget.ended < origin.sequence:
            self._leave(forget.hash, blob, forget.origin, link)
            return self._spread(forget.hash)
        _put_last(self._ended, (forget.hash, forget.origin), (forget.ended, now + FORGET))
        for other in list(origin.links):
            self._leave(forget.hash, blob, forget.origin, other)
        return self._spread(forget.hash, ended={forget.origin: forget.ended})

    def served(self, link: str, message: BlobServed) -> list[Send]:
        """``link`` serves an origin on another path."""
        blob = self._blobs.get(message.hash)
        if blob is None or message.origin not in blob.asked.get(link, ()):
            return []
        blob.declined.add((link, message.origin))
        return self._spread(message.hash)

    def accepted(self, link: str, hash: bytes) -> bool:
        """``link`` tells what it holds of a blob, so it serves this node. Whether it was asked to."""
        blob = self._blobs.get(hash)
        if blob is None or not blob.asked.get(link):
            return False
        blob.declined = {pair for pair in blob.declined if pair[0] != link}
        return True

    def link_up(self, link: str) -> list[Send]:
        """A link came up."""
        self._links[link] = 0
        return [send for hash in list(self._blobs) for send in self._spread(hash)]

    def link_down(self, link: str) -> list[Send]:
        """A link ended: what it brought is forgotten."""
        self._links.pop(link, None)
        sends: list[Send] = []
        for hash, blob in list(self._blobs.items()):
            blob.asked.pop(link, None)
            blob.declined = {pair for pair in blob.declined if pair[0] != link}
            for name in list(blob.origins):
                self._leave(hash, blob, name, link)
            sends += self._spread(hash)
        return sends

    def expire(self, now: float) -> tuple[list[Send], list[bytes], list[bytes]]:
        """Forget what was not repeated, and where; and the blobs for which :meth:`repeat` is due."""
        for ended in list(takewhile(lambda key: self._ended[key][1] <= now, self._ended)):
            del self._ended[ended]
        late = list(takewhile(lambda key: self._forget_at[key] <= now, self._forget_at))
        for hash, name, link in late:
            self._leave(hash, self._blobs[hash], name, link)
        changed = list(dict.fromkeys(hash for hash, _, _ in late))
        sends = [send for hash in changed for send in self._spread(hash)]
        return sends, changed, list(takewhile(lambda hash: self._repeat_at[hash] <= now, self._repeat_at))

    # --- what can be asked of it ---------------------------------------------------------------------

    @property
    def blobs(self) -> list[bytes]:
        """The blobs that somebody wants."""
        return list(self._blobs)

    def listeners(self, hash: bytes) -> set[str]:
        """The links to tell what is held of a blob."""
        blob = self._blobs.get(hash)
        if blob is None:
            return set()
        parents = {origin.parent for origin in blob.origins.values() if origin.parent is not None}
        return parents.union(*(origin.links for origin in blob.origins.values() if origin.wide))

    def relayed(self, hash: bytes) -> dict[Identity, int]:
        """What is to be fetched for others, and the highest priority of each; nothing if it is whole here."""
        blob = self._blobs.get(hash)
        found: dict[Identity, int] = {}
        if blob is None or hash in self._whole:
            return found
        for name, origin in blob.origins.items():
            if name != self._me and origin.relayed:
                found[origin.identity] = max(origin.priority, found.get(origin.identity, 0))
        return found

    def refused(self, hash: bytes) -> dict[str, Identity]:
        """The origins that this node does not ask on for, and what they want."""
        blob = self._blobs.get(hash)
        origins = blob.origins if blob is not None else {}
        return {name: origin.identity for name, origin in origins.items() if not origin.relayed}

    def asked_of(self, hash: bytes) -> set[str]:
        """The links that were asked for a blob and did not decline."""
        blob = self._blobs.get(hash)
        if blob is None:
            return set()
        return {
            link
            for link, origins in blob.asked.items()
            if any((link, origin) not in blob.declined for origin in origins)
        }

    # --- the one step that spreads -------------------------------------------------------------------

    def _leave(self, hash: bytes, blob: _Blob, name: str, link: str) -> None:
        origin = blob.origins[name]
        if origin.links.pop(link, None) is None:
            return
        del self._forget_at[hash, name, link]
        if link in self._links:
            self._links[link] -= 1
        if not origin.links:
            del blob.origins[name]
        elif origin.parent == link:
            origin.parent = min(origin.links, key=lambda other: origin.links[other])

    def _spread(self, hash: bytes, ended: dict[str, int] | None = None) -> list[Send]:
        """Bring what every link was asked for in line with what is wanted now."""
        blob = self._blobs.get(hash)
        if blob is None:
            return []
        sends: list[Send] = []
        ranked = sorted(
            (origin.hops, name)
            for name, origin in blob.origins.items()
            if origin.relayed and origin.hops < MAX_HOPS
        )
        for link in self._links:
            asked = blob.asked.get(link)
            # What is whole here is asked of nobody else, but the trees on which it flows stay as they are.
            known = (
                [entry for entry in ranked if entry[1] in (asked or ())] if hash in self._whole else ranked
            )
            names = self._representatives(blob, known, link)
            for name in names:
                asked = blob.asked.setdefault(link, {})
                origin = blob.origins[name]
                if asked.get(name) != origin.sequence:
                    asked[name] = origin.sequence
                    sends.append(Send(link, self._ask(hash, blob, name)))
            for other in list(asked or ()):
                if other in names or (other in blob.origins and (link, other) in blob.declined):
                    continue
                del blob.asked[link][other]
                sends.append(Send(link, BlobForget(other, hash, (ended or {}).get(other, 0))))
        blob.declined = {pair for pair in blob.declined if pair[1] in blob.origins}
        if not blob.origins:
            del self._blobs[hash]
        return sends

    def _representatives(self, blob: _Blob, ranked: list[tuple[int, str]], link: str) -> set[str]:
        found: dict[Identity, str] = {}
        for _, name in ranked:
            origin = blob.origins[name]
            if origin.parent != link and name != link and (link, name) not in blob.declined:
                found.setdefault(origin.identity, name)
        return set(found.values())

    def _ask(self, hash: bytes, blob: _Blob, name: str) -> BlobAsk:
        origin = blob.origins[name]
        priority = max(one.priority for one in blob.origins.values() if one.identity == origin.identity)
        return BlobAsk(
            name,
            origin.sequence,
            hash,
            *origin.identity,
            priority,
            origin.hops + 1,
            origin.wide,
        )


def _put_last(entries: dict[Key, Value], key: Key, value: Value) -> None:
    entries.pop(key, None)
    entries[key] = value
