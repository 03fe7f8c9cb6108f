"""Version vectors: what a replica holds of a document, as ``{clock identity: counter}``.

A clock identity is 8 bytes that stand for one writing store, which may have several; its counter ticks once
per local change of any document, deletions included. Yjs state vectors cannot serve: a deletion does not
move them, and their bytes differ between equal replicas.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from blake3 import blake3

from mesh.errors import InvalidDocument

VersionVector = dict[bytes, int]

CLOCK_BYTES = 8
"""Length of a clock identity."""

MAX_CLOCKS = 4096
"""Clock identities in one vector: the stores that ever wrote one document."""

MAX_COUNTER = 2**53 - 1
"""Largest counter, incarnation, epoch and sequence."""

Rank = tuple[int, int]
"""Orders whole states of one document: (incarnation, dead) or, for an owned one, (epoch, sequence)."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(VersionVector)


def covers(held: Mapping[bytes, int], wanted: Mapping[bytes, int]) -> bool:
    """Whether ``held`` includes every change that ``wanted`` includes."""
    return all(held.get(clock, 0) >= counter for clock, counter in wanted.items())


def check_version(rank: Rank, vector: Mapping[bytes, int]) -> None:
    """Refuse a version that no store gives.

    Raises:
        InvalidDocument: a number or the size of the vector is out of bounds.
    """
    if not (0 <= rank[0] <= MAX_COUNTER and 0 <= rank[1] <= MAX_COUNTER):
        raise InvalidDocument(f"the rank {rank} cannot be")
    if len(vector) > MAX_CLOCKS:
        raise InvalidDocument(f"a version of {len(vector)} clocks is over the limit of {MAX_CLOCKS}")
    for clock, counter in vector.items():
        if len(clock) != CLOCK_BYTES or not 0 < counter <= MAX_COUNTER:
            raise InvalidDocument(f"the version {clock.hex()}: {counter} cannot be")


def join(a: Mapping[bytes, int], b: Mapping[bytes, int]) -> VersionVector:
    """The smallest vector that covers both."""
    joined = dict(a)
    for clock, counter in b.items():
        if counter > joined.get(clock, 0):
            joined[clock] = counter
    return joined


def moved_clocks(before: Mapping[bytes, int], after: Mapping[bytes, int]) -> bytes:
    """The clock identities under which something was written between two versions, one after the other."""
    if len(after) == 1 and not before:
        return next(iter(after))
    return b"".join([clock for clock, counter in after.items() if counter > before.get(clock, 0)])


def encode_vector(vector: Mapping[bytes, int]) -> bytes:
    """Canonical bytes: equal vectors give equal bytes."""
    return _encoder.encode(dict(sorted(vector.items())) if len(vector) > 1 else vector)


def decode_vector(data: bytes) -> VersionVector:
    """The vector that :func:`encode_vector` gave ``data``."""
    return _decoder.decode(data)


def key_hash(collection: str, document_id: str) -> int:
    """Where a document stands in the key space that reconciliation divides: 63 bits."""
    return _hash63(f"{collection}\0{document_id}".encode())


def version_hash(key: int, rank: Rank, encoded_vector: bytes) -> int:
    """63 bits that differ, but for chance, between any two versions of any documents; ``key`` is the
    :func:`key_hash` of this one."""
    return _hash63(b"%d.%d.%d." % (key, *rank) + encoded_vector)


def _hash63(data: bytes) -> int:
    return int.from_bytes(blake3(data).digest(length=8), "big") >> 1
