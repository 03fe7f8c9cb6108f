"""What the store tells those who follow it: one committed change of one document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from mesh.core.wire import Change, Grave, Version

PAGE_BYTES = 512 * 1024
"""What one read for a peer brings at most, but for its last document."""

SMALL_DOCUMENT_BYTES = 4096
"""States up to this size are sent unasked when catching up; larger ones are offered, and pulled as a
difference."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """A change that is durable now.

    ``before`` and ``after`` are the document with its ``_id``, ``None`` where it did not or does not exist.
    ``source`` is the node_id of the peer it came from, ``None`` for a local write. ``whole``: whoever holds
    what the change builds on, and then the change, holds all that is held here; not so where it was merged
    with something else. ``evicted``: the document has only left this node, which is nobody else's business.
    ``blobs``: those that it refers to no more, or newly.
    """

    seq: int
    change: Change
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    source: str | None
    whole: bool
    evicted: bool = False
    blobs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A document as it stands at one place of the local log; ``change`` is its whole state, if small."""

    seq: int
    version: Version
    change: Change | None
    document: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a peer asked for. ``offers`` are too large to send unasked, ``gone`` is not held any more;
    ``done`` counts the requests that this answers, in their order: the rest is to be read next."""

    changes: list[Change]
    offers: list[Version]
    gone: list[tuple[str, str]]
    done: int
    graves: list[Grave] = field(default_factory=list)


def change_size(change: Change) -> int:
    """What a change takes on the wire, about, in bytes, compression aside."""
    return len(change.update) + 20 * (len(change.since) + len(change.until)) + 60
