"""What the benchmarks of documents store: tasks of 199 bytes on average, the same ones in every run."""

from __future__ import annotations

import json
import random
from typing import Any

_WORDS = """
anchor basil cedar drift ember flint grove haven iris jade kettle lantern
meadow nickel orchid pear quarry ripple sable timber umber violet walnut yarrow zinc
"""
WORDS = _WORDS.split()
STATES = ["blocked", "open", "doing", "done", "hold", "open", "doing", "done", "new", "open"]
OWNERS = 100


def name_of(number: int) -> str:
    """The ``_id`` of a document."""
    return f"doc{number:07d}"


def task(number: int) -> dict[str, Any]:
    """One document: a few short fields, and some prose that does not compress too well."""
    words = random.Random(number).choices(WORDS, k=16)
    return {
        "_id": name_of(number),
        "title": f"Task {number:05d} {' '.join(words[:3])}",
        "status": STATES[number % len(STATES)],
        "owner": f"user-{number % OWNERS:02d}",
        "priority": number % 10,
        "due": f"2025-0{1 + number % 9}-1{number % 10}",
        "body": " ".join(words[3:]),
    }


def tasks(first: int, last: int) -> list[dict[str, Any]]:
    """The documents of a range."""
    return [task(number) for number in range(first, last)]


def selector_of(count: int) -> dict[str, Any]:
    """A query that finds about a thousand of ``count`` documents, or a tenth where there are fewer."""
    return {"status": "blocked"} if count <= 20_000 else {"owner": "user-07"}


def bytes_of(document: dict[str, Any]) -> int:
    """The size of a document's fields as compact JSON."""
    return len(json.dumps({k: v for k, v in document.items() if k != "_id"}, separators=(",", ":")))
