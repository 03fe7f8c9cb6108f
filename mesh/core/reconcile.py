"""Set reconciliation: which of many documents differ between two replicas that share no history.

Each document is a pair (key hash, version hash), 63 bits each; the version hash covers the key. The key space
is divided by prefixes, and a range is summed up by the XOR of its version hashes, shortened. Two replicas
compare the first ranges, more of them where there are more documents, then only what is inside those that
differ: small ranges are listed by shortened hashes, large ones divided again. So the cost follows the number
of differences, and the rounds the logarithm of the size (the idea of range-based set reconciliation, Meyer
2023).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from operator import xor
from typing import NamedTuple

from mesh.core.wire import MAX_PULLED as MAX_PULLED
from mesh.errors import ProtocolViolation

KEY_BITS = 63
STEP_BITS = 4
LIST_UP_TO = 128
"""A range with at most so many documents is listed instead of divided."""

SHORT_BYTES = 6
"""What is told of a version hash, and of a digest: of few documents or ranges, two are told apart all the
same."""

MAX_SUMMARIES = 128
"""Summaries in one message: the answer, even if it lists every range, fits a message too, and to make
or read it holds up no loop."""

MAX_BITS = 32
"""Ranges are never divided beyond so many bits: what still collides there is listed."""

FIRST_BITS = 6
FIRST_RANGES = 1 << FIRST_BITS
"""What is divided first is at most so many ranges: then 100,000 documents take no more rounds than a few, and
what that costs is about what the listings do."""

_CHILDREN = 1 << STEP_BITS
_SHORT = (1 << (8 * SHORT_BYTES)) - 1


class Range(NamedTuple):
    """The keys whose highest ``bits`` bits are ``prefix``."""

    bits: int
    prefix: int

    @property
    def start(self) -> int:
        """The first key of the range."""
        return self.prefix << (KEY_BITS - self.bits)

    @property
    def end(self) -> int:
        """The first key after the range."""
        return (self.prefix + 1) << (KEY_BITS - self.bits)

    def children(self) -> list[Range]:
        """The 16 ranges that this one divides into."""
        first = self.prefix << STEP_BITS
        return [Range(self.bits + STEP_BITS, prefix) for prefix in range(first, first + _CHILDREN)]


class KeySet:
    """An immutable set of (key hash, version hash, position in the log), sorted by key.

    ``others`` are the key hashes and positions of documents that are held and not in the set: who holds them
    as they were when they belonged to it finds them out by comparing, and is told what became of them.
    """

    def __init__(self, rows: Iterable[tuple[int, int, int]], others: Iterable[tuple[int, int]] = ()) -> None:
        """
        Args:
            rows: sorted by key.
            others: in any order.
        """
        self._others = dict(others)
        self._keys = array("q")
        self._versions = array("q")
        self._positions = array("q")
        for key, version, position in rows:
            self._keys.append(key)
            self._versions.append(version)
            self._positions.append(position)
        # The digests of all beginnings: that of any range is the difference of two.
        self._digests = array("q", accumulate(self._versions, xor, initial=0))

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def others(self) -> int:
        """How many documents are held that are not in the set."""
        return len(self._others)

    def key(self, index: int) -> int:
        """The key hash of the document at a place of the set."""
        return self._keys[index]

    def position(self, index: int) -> int:
        """Where the document at a place of the set stood in the log."""
        return self._positions[index]

    def position_of(self, key: int) -> int | None:
        """Where the document with a key hash stood in the log; ``None`` if it is not held."""
        index = bisect_left(self._keys, key)
        found = index < len(self._keys) and self._keys[index] == key
        return self._positions[index] if found else self._others.get(key)

    def bounds(self, within: Range) -> tuple[int, int]:
        """The places of a range in the set: the first one, and the one after the last."""
        return bisect_left(self._keys, within.start), bisect_left(self._keys, within.end)

    def digest(self, start: int, end: int) -> int:
        """What sums up a range, given by its places; 0 for an empty one."""
        return (self._digests[start] ^ self._digests[end]) & _SHORT

    def listed(self, start: int, end: int) -> list[int]:
        """The shortened version hashes of a range, given by its places."""
        return [version & _SHORT for version in self._versions[start:end]]


class Summary(NamedTuple):
    """The sender's digests of the ranges that a range divides into, in their order."""

    bits: int
    prefix: int
    digests: bytes


class Listing(NamedTuple):
    """All that the sender holds in a range: shortened version hashes in the order of its set, and the place
    of the first one there."""

    bits: int
    prefix: int
    first: int
    versions: bytes


class Answer(NamedTuple):
    """What the holder says about the ranges it was asked about."""

    divide: list[Range]
    listings: list[Listing]


class Differing(NamedTuple):
    """Places of documents that the other side does not hold in the same version: in its set, and in mine."""

    theirs: list[int]
    mine: list[int]


def first_ranges(mine: KeySet) -> list[Range]:
    """What to divide first, so that its parts have half of what is listed at most, if that is possible."""
    parts = 2 * len(mine) // LIST_UP_TO
    bits = min(max(parts.bit_length() - STEP_BITS, 0), FIRST_BITS)
    return [Range(bits, prefix) for prefix in range(1 << bits)]


def summary(mine: KeySet, parent: Range) -> Summary:
    """My digests of the ranges that ``parent`` divides into, empty ones included."""
    digests = [mine.digest(*mine.bounds(child)).to_bytes(SHORT_BYTES, "big") for child in parent.children()]
    return Summary(*parent, b"".join(digests))


def answer(mine: KeySet, theirs: Iterable[Summary]) -> Answer:
    """For each of their ranges that differs from mine: what I hold in it, or that it should be divided.

    Raises:
        ProtocolViolation: they are no summaries.
    """
    divide: list[Range] = []
    listings: list[Listing] = []
    for bits, prefix, digests in theirs:
        if not (0 <= bits < MAX_BITS and 0 <= prefix < 1 << bits) or len(digests) != _CHILDREN * SHORT_BYTES:
            raise ProtocolViolation("a summary of no range")
        for i, child in enumerate(Range(bits, prefix).children()):
            start, end = mine.bounds(child)
            digest = int.from_bytes(digests[i * SHORT_BYTES : (i + 1) * SHORT_BYTES], "big")
            if digest == mine.digest(start, end):
                continue
            if end - start <= LIST_UP_TO or child.bits >= MAX_BITS:
                versions = [version.to_bytes(SHORT_BYTES, "big") for version in mine.listed(start, end)]
                listings.append(Listing(*child, start, b"".join(versions)))
            else:
                divide.append(child)
    return Answer(divide, listings)


def differing(mine: KeySet, listings: Iterable[Listing]) -> Differing:
    """What differs between mine and the listed ones, or only one side has."""
    result = Differing([], [])
    for bits, prefix, first, versions in listings:
        start, end = mine.bounds(Range(bits, prefix))
        here = {version: start + i for i, version in enumerate(mine.listed(start, end))}
        for i in range(len(versions) // SHORT_BYTES):
            version = int.from_bytes(versions[i * SHORT_BYTES : (i + 1) * SHORT_BYTES], "big")
            if here.pop(version, None) is None:
                result.theirs.append(first + i)
        result.mine.extend(here.values())
    return result
