"""What a sync session asks its caller to do. Carried out in order; results come back as events."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.frames import Encoded
from mesh.core.interest import InterestSet
from mesh.core.wire import Changes, InterestEntry, Message, Want


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the peer. ``bulk``: it gives way to the others."""

    message: Message | Encoded
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read up to ``limit`` documents changed after ``after`` and up to ``until`` (of ``interest``'s
    collections), then call ``log_read``. ``back``: those as well that the peer has sent, as it has lost them.
    """

    after: int
    until: int
    limit: int
    interest: InterestSet
    back: bool = False


@dataclass(frozen=True, slots=True)
class ReadWanted:
    """Read the differences for ``wants`` and the documents at ``positions`` of the log, then call
    ``wanted_read``."""

    wants: list[Want]
    positions: list[int]
    pull: int | None = None
    """The pull that ``positions`` are part of."""


@dataclass(frozen=True, slots=True)
class ReadPositions:
    """Look up where this node stands with ``entries`` of the peer's log, then call ``positions_read``."""

    entries: list[InterestEntry]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where this node stands with some entries: see :class:`~mesh.core.wire.Resume`."""

    log_id: bytes
    after: int
    empty: bool
    entries: list[InterestEntry]


@dataclass(frozen=True, slots=True)
class ReadKeys:
    """Collect the key set of everything held that matches ``interest``, then call ``keys_read``."""

    number: int
    mine: bool
    interest: InterestSet


@dataclass(frozen=True, slots=True)
class Push:
    """The comparison has found what the peer lacks for its resume ``number``: the documents at ``positions``
    of our log, to be told to ``compared``."""

    number: int
    positions: list[int]


@dataclass(frozen=True, slots=True)
class ApplyFrame:
    """Apply a frame's changes durably, find out what of it is lacking, then call ``applied``."""

    frame: Changes


@dataclass(frozen=True, slots=True)
class SavePosition:
    """Remember durably: everything of ``entries`` up to ``upto`` in the peer's log is held."""

    log_id: bytes
    entries: list[bytes]
    upto: int


@dataclass(frozen=True, slots=True)
class Renew:
    """The peer has read ``position`` of our log, which was never there, or our log ``log_id``, which we never
    had: this store is a backup that was put back. Give it a new identity, and start over with everybody."""

    position: int | None = None
    log_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The peer has sent so many documents of collections that it may not write: they were dropped."""

    documents: int
    collections: list[str]


Effect = (
    Refuse | Send | ReadLog | ReadWanted | ReadPositions | ReadKeys | Push | ApplyFrame | SavePosition | Renew
)
