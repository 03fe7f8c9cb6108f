"""Bytes for fuzzing: numbers as Yjs writes them, and damage of every sort."""

from __future__ import annotations

import random
from collections.abc import Sequence

_TELLING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    2**14,
    2**29,
    2**29 + 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63,
    2**64 - 1,
    2**70,
)


def number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def text(value: str) -> bytes:
    """A text after its length."""
    encoded = value.encode()
    return number(len(encoded)) + encoded


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """``data`` with a few bytes or numbers changed, or a piece of it moved, repeated, lost or exchanged with
    one of ``others``."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.randint(1, 9))
        match rng.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 2:
                changed[at : at + rng.randrange(2)] = number(rng.choice(_TELLING))
            case 3 if at < len(changed):
                changed[at] = max(0, changed[at] - 1) if rng.random() < 0.5 else min(255, changed[at] + 1)
            case 4:
                del changed[at:end]
            case 5:
                changed[at:at] = changed[at:end] * rng.choice((1, 1, 2, 50))
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                changed[at:end] = other[start : start + rng.randint(1, 40)]
            case _:
                other_at = rng.randrange(len(changed) + 1)
                changed[other_at:other_at] = changed[at:end]
    return bytes(changed)
