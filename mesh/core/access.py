"""Access: what the certificates of two nodes let pass on the link between them.

Both ends know both certificates, so they decide alike: what one sends the other takes, and neither has to say
what it keeps back. A collection passes from one node to another if the first may write it (it is merged state
and carries no signature, so who relays it answers for it) and the second may read it. Owned documents prove
themselves, and pass everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec
from blake3 import blake3

from mesh.core.certificates import RELAY, Grant, covered
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.wire import WITHDRAWN, Interest

Only = frozenset[tuple[str, ...]]
"""Lists of patterns: collections that each of the lists allows, beside the owned ones."""

ALL: Only = frozenset()
"""Every collection: in an open mesh, and between nodes that may read and write everything."""

ANY_COLLECTION = "*"


@lru_cache(8192)
def permits(only: Only, collection: str) -> bool:
    """Whether a collection is one of ``only``; ``*`` is, as it stands for those that are."""
    owned = collection in OWNED_COLLECTIONS or collection == ANY_COLLECTION
    return owned or all(covered(collection, patterns) for patterns in only)


class Access(NamedTuple):
    """What passes on one link, as one end sees it.

    Attributes:
        sends: what the peer may be told of.
        takes: what is accepted from the peer.
        compares: what of that the peer may read as well, so that it may see digests of what is held here.
        node_id, peer: the two ends.
        passes_on: whether this node may ask the peer on behalf of others.
        listens: whether the peer may ask this node on behalf of others.
        name: changes with the rights of either end: what was held under others says nothing of these.
    """

    sends: Only = ALL
    takes: Only = ALL
    compares: Only = ALL
    node_id: str = ""
    peer: str = ""
    passes_on: bool = True
    listens: bool = True
    name: str = ""

    def told(self, interest: Interest) -> Interest | None:
        """What the peer may hear of an interest; ``None``: nothing."""
        return self._heard(interest, self.takes, self.passes_on)

    def heard(self, interest: Interest) -> Interest | None:
        """What of an interest that the peer speaks of counts; ``None``: nothing."""
        return self._heard(interest, self.sends, self.listens)

    def _heard(self, interest: Interest, only: Only, relay: bool) -> Interest | None:
        if not relay and interest.origin not in (self.node_id, self.peer):
            return None
        if not only:
            return interest
        entries = [entry for entry in interest.entries if permits(only, entry.collection)]
        if interest.entries and not entries and interest.origin not in (self.node_id, self.peer):
            return Interest(interest.origin, 0, WITHDRAWN, [])
        return msgspec.structs.replace(interest, entries=entries)


OPEN = Access()


def access_between(node_id: str, own: Grant, peer: str, theirs: Grant) -> Access:
    """What passes between this node and a peer of the same closed mesh."""
    sends = _only(own.write, theirs.read)
    takes = _only(theirs.write, own.read)
    compares = takes | _only(theirs.read)
    name = blake3(msgspec.msgpack.encode([own, theirs])).hexdigest(8)
    return Access(sends, takes, compares, node_id, peer, RELAY in own.roles, RELAY in theirs.roles, name)


def _only(*lists: list[str]) -> Only:
    return frozenset(tuple(patterns) for patterns in lists if ANY_COLLECTION not in patterns)
