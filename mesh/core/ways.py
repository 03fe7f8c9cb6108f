"""What a node knows of the ways to those who want something; see :mod:`mesh.core.routes`."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.core.told import Told
from mesh.core.wire import Interest, InterestEntry

MAX_SEQUENCE = 1 << 53
"""Sequences are milliseconds since the epoch, rounded to even, or a little above what was heard."""

MAX_HOPS = 16
"""Links that an interest is passed on over at most, after the first one."""


@dataclass(slots=True)
class Heard:
    """What a peer said of an origin."""

    sequence: int
    hops: int
    entries: list[InterestEntry]


@dataclass(slots=True)
class Way:
    """Where an origin's documents go, and its interest as this node passes it on."""

    via: str
    sequence: int
    hops: int
    entries: list[InterestEntry]


@dataclass(slots=True)
class StandIn:
    """In place of a way. ``quiet``: nobody was told of the origin, nor speaks of it, so that its sequence
    still stands."""

    lost: str
    sequence: int
    entries: list[InterestEntry]
    expires: float
    quiet: bool
    hops: int = 1  # only the origin itself has 0


@dataclass(slots=True)
class Origin:
    """What is known of a node that wants something."""

    heard: dict[str, Heard] = field(default_factory=dict)  # peer -> what it said
    way: Way | StandIn | None = None
    behind: set[str] = field(default_factory=set)
    """Peers that spoke of it under an older sequence than the way's when they last spoke of it."""
    told: set[str] = field(default_factory=set)
    """Peers that have been told of it, and not that it is over: for so long it is known here."""
    contested: bool = False
    """It was linked with, and somebody else spoke as it, newer."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left of it for anybody."""
        return self.way is None and not self.heard and not self.told


@dataclass(slots=True)
class LinkState:
    """What has passed on one link."""

    told: Told
    """What the peer was told that others want."""
    untold: dict[str, None] = field(default_factory=dict)
    """Origins of which there was no room to tell, in the order in which they are tried again."""
    heard: dict[str, int] = field(default_factory=dict)
    """Origins that the peer speaks for, and what their entries take, in bytes; ..."""
    heard_bytes: int = 0
    """... those of all of them."""
    told_own: Interest | None = None
    """What the peer was told that this node wants."""
    routed: set[str] = field(default_factory=set)
    """Origins whose documents go this way, ..."""
    routed_told: set[str] | None = None
    """... and as the peer was told; ``None``: it was told nothing yet."""
    uses: set[str] = field(default_factory=set)
    """Origins for which the peer sends its documents this way."""
    changed: set[str] = field(default_factory=set)
    """Origins of which there may be something to tell."""
    ended: dict[str, int] = field(default_factory=dict)
    """Origins to be taken back, not only here, and the sequence up to which that goes."""
    complete: bool = False
    """Whether the peer has said all that it had to say when the link came up."""

    def hear(self, origin: str, size_bytes: int) -> None:
        self.heard_bytes += size_bytes - self.heard.get(origin, 0)
        self.heard[origin] = size_bytes

    def unhear(self, origin: str) -> None:
        self.heard_bytes -= self.heard.pop(origin, 0)


def leads_away(old: Way | StandIn | None, heard: Heard) -> bool:
    """Whether what was heard of an origin cannot be an echo of what this node said of it: who is nearer to
    it under the same sequence does not go by this node."""
    if isinstance(old, StandIn):
        return heard.sequence >= old.sequence if old.quiet else heard.sequence > old.sequence
    return old is None or (heard.sequence, -heard.hops) > (old.sequence, -old.hops)


def above(sequence: int) -> int:
    """The next sequence for a stand-in: an odd one."""
    return min(sequence + 1 + sequence % 2, MAX_SEQUENCE - 1)
