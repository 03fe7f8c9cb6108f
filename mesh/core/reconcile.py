"""Set reconciliation: which of many documents differ between two replicas that share no history.

Each document is a pair (key hash, version hash), 63 bits each. The key space is divided by prefixes of
8 bits; a range is summed up by the XOR of its mixed pairs. Two replicas compare the
256 first ranges, then only what is inside those that differ: small ranges are listed, large ones divided
again. So the cost follows the number of differences, and the rounds the logarithm of the size (the
idea of range-based set reconciliation, Meyer 2023).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

KEY_BITS = 63
STEP_BITS = 8
LIST_UP_TO = 64
"""A range with at most so many documents is listed instead of divided."""

MAX_SUMMARIES = 4096
"""Summaries in one message: the answer, even if it lists every range, fits a message too."""

MAX_PULLED = 100_000
"""Keys in one message; one with fewer of them is the last of a pull."""

MAX_DEPTH = 4
"""Ranges are never divided beyond 32 bits: what still collides there is listed."""


class Range(NamedTuple):
    """The keys whose highest ``depth * STEP_BITS`` bits are ``prefix``."""

    depth: int
    prefix: int

    @property
    def start(self) -> int:
        """The first key of the range."""
        return self.prefix << (KEY_BITS - self.depth * STEP_BITS)

    @property
    def end(self) -> int:
        """The first key after the range."""
        return (self.prefix + 1) << (KEY_BITS - self.depth * STEP_BITS)

    def children(self) -> list[Range]:
        """The 256 ranges that this one divides into."""
        return [Range(self.depth + 1, (self.prefix << STEP_BITS) | step) for step in range(1 << STEP_BITS)]


WHOLE = Range(0, 0)


class KeySet:
    """An immutable set of (key hash, version hash, position in the log), sorted by key.

    ``others`` are the key hashes and positions of documents that are held and not in the set: who holds them
    as they were when they belonged to it finds them out by comparing, and is told what became of them.
    """

    def __init__(self, rows: Iterable[tuple[int, int, int]], others: Iterable[tuple[int, int]] = ()) -> None:
        ordered = sorted(rows)
        self._others = dict(others)
        self._keys = array("q", [row[0] for row in ordered])
        self._versions = array("q", [row[1] for row in ordered])
        self._positions = array("q", [row[2] for row in ordered])
        # The digests of all beginnings: that of any range is the difference of two.
        self._digests = array("q", [0])
        digest = 0
        for key, version, _ in ordered:
            digest ^= _mixed(key, version)
            self._digests.append(digest)

    def __len__(self) -> int:
        return len(self._keys)

    def pairs(self, within: Range) -> list[tuple[int, int]]:
        """The pairs in a range."""
        start, end = self._bounds(within)
        return list(zip(self._keys[start:end], self._versions[start:end], strict=True))

    def position(self, key: int) -> int | None:
        """Where the document with a key hash stood in the log; ``None`` if it is not held."""
        index = bisect_left(self._keys, key)
        found = index < len(self._keys) and self._keys[index] == key
        return self._positions[index] if found else self._others.get(key)

    def count(self, within: Range) -> int:
        """How many pairs are in a range."""
        start, end = self._bounds(within)
        return end - start

    def digest(self, within: Range) -> int:
        """63 bits that sum up a range; 0 for an empty one."""
        start, end = self._bounds(within)
        return self._digests[start] ^ self._digests[end]

    def _bounds(self, within: Range) -> tuple[int, int]:
        return bisect_left(self._keys, within.start), bisect_left(self._keys, within.end)


_MASK = (1 << KEY_BITS) - 1


def _mixed(key: int, version: int) -> int:
    """Ties a version to its key, so that two documents that swap versions do not cancel out."""
    mixed = (key * 0x9E3779B97F4A7C15 + version + 0x632BE59BD9B4E019) & _MASK
    mixed = ((mixed ^ (mixed >> 31)) * 0xC2B2AE3D27D4EB4F) & _MASK
    return mixed ^ (mixed >> 29)


Summary = tuple[Range, int]
"""A range and the sender's digest of it."""

Listing = tuple[Range, list[tuple[int, int]]]
"""A range and all of the sender's pairs in it."""


def summaries(mine: KeySet, ranges: Iterable[Range]) -> list[Summary]:
    """My digests of the ranges that ``ranges`` divide into, empty ones included."""
    return [(child, mine.digest(child)) for parent in ranges for child in parent.children()]


class Answer(NamedTuple):
    """What the holder says about the ranges it was asked about."""

    divide: list[Range]
    listings: list[Listing]


def answer(mine: KeySet, theirs: Iterable[Summary]) -> Answer:
    """For each of their ranges that differs from mine: my pairs in it, or that it should be divided."""
    divide: list[Range] = []
    listings: list[Listing] = []
    for within, digest in theirs:
        if digest == mine.digest(within):
            continue
        if mine.count(within) <= LIST_UP_TO or within.depth >= MAX_DEPTH:
            listings.append((within, mine.pairs(within)))
        else:
            divide.append(within)
    return Answer(divide, listings)


def differing_keys(mine: KeySet, listings: Iterable[Listing]) -> list[int]:
    """The keys whose versions differ between mine and the listed ones, or that only one side has."""
    differing: list[int] = []
    for within, pairs in listings:
        here = dict(mine.pairs(within))
        for key, version in pairs:
            if here.pop(key, None) != version:
                differing.append(key)
        differing.extend(here)
    return sorted(differing)
