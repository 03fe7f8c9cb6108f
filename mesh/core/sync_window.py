"""The frames on their way to one peer: what fits into each, how many there may be, and which give way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mesh.core.commits import change_size
from mesh.core.document import MAX_STATE_BYTES
from mesh.core.sync_effects import Send
from mesh.core.wire import Ack, Change, Changes, Grave, Version
from mesh.errors import ProtocolViolation

PAGE = 500
"""Documents per frame and per page read from the log."""

FRAME_BYTES = 192 * 1024
"""A frame is closed once its changes have this many bytes."""

BULK_BYTES = 32 * 1024
"""Larger changes give way to the others, and so do larger frames of what happened long ago."""

WINDOW_FRAMES = 16
WINDOW_BYTES = MAX_STATE_BYTES + 4 * 1024 * 1024
"""Frames and bytes that may be unacknowledged: what a slow peer costs at most. There is room for a page, and
its last document, beside others that are on their way."""


@dataclass(slots=True)
class Batch:
    """The changes of one frame, and what they take."""

    changes: list[Change] = field(default_factory=list)
    size: int = 0
    bulk: bool = False
    """Whether it gives way to the others."""

    def add(self, change: Change) -> None:
        self.changes.append(change)
        self.size += change_size(change)


class Window:
    """What one peer has been sent and has not acknowledged.

    Attributes:
        told: the position of our log that the last live frame has said, or that counted before it.
    """

    def __init__(self, told: int) -> None:
        self.told = told
        self._next_frame = 1
        self._in_flight: dict[int, tuple[int, int]] = {}  # frame -> bytes, documents
        self._bulk: dict[int, set[tuple[str, str]]] = {}  # those of them that give way -> documents
        self._giving_way: dict[tuple[str, str], int] = {}  # document -> the last such frame with it
        self._bytes_in_flight = 0

    @property
    def empty(self) -> bool:
        """Whether everything has been acknowledged."""
        return not self._in_flight

    @property
    def last(self) -> int:
        """The number of the last frame that was sent."""
        return self._next_frame - 1

    @property
    def acknowledged(self) -> int:
        """All frames up to this number have been."""
        return next(iter(self._in_flight), self._next_frame) - 1

    def has_room(self, frames: int, size: int) -> bool:
        """Whether so many frames with so many bytes may be sent."""
        return len(self._in_flight) + frames <= WINDOW_FRAMES and self._bytes_in_flight + size <= WINDOW_BYTES

    def frame(
        self,
        scan: int,
        upto: int,
        batch: Batch,
        offers: Sequence[Version] = (),
        notices: Sequence[Version] = (),
        gone: Sequence[tuple[str, str]] = (),
        graves: Sequence[Grave] = (),
    ) -> Send:
        """Send a frame: see :class:`~mesh.core.wire.Changes`."""
        if scan == 0 and upto:
            self.told = upto
        number = self._next_frame
        self._next_frame += 1
        documents: list[Change | Version] = [*batch.changes, *offers, *notices]
        bulk = batch.bulk or (scan > 0 and batch.size > BULK_BYTES)
        if bulk or any(map(self.gives_way, documents)):
            bulk = True
            self._bulk[number] = {(document.collection, document.id) for document in documents}
            self._giving_way.update(dict.fromkeys(self._bulk[number], number))
        self._in_flight[number] = (batch.size, len(documents))
        self._bytes_in_flight += batch.size
        changes = Changes(number, scan, upto, batch.changes, [*offers], [*notices], [*gone], [*graves])
        return Send(changes, bulk)

    def acknowledge(self, message: Ack) -> None:
        """The peer holds a frame, but for what it asks for.

        Raises:
            ProtocolViolation: it asks for more than was in it.
        """
        size, documents = self._in_flight.pop(message.number, (0, -1))
        if len(message.wants) > documents:
            raise ProtocolViolation(f"an acknowledgement that does not fit frame {message.number}")
        self._bytes_in_flight -= size
        for key in self._bulk.pop(message.number, ()):
            if self._giving_way[key] == message.number:
                del self._giving_way[key]

    def batches(self, changes: Sequence[Change]) -> list[Batch]:
        """``changes`` as they fit frames: first those that go at once, then the large ones and what has to
        go after them. Those of one document stay in order."""
        at_once: list[Batch] = []
        bulk: list[Batch] = []
        late: set[tuple[str, str]] = set()
        for change in changes:
            if len(change.update) > BULK_BYTES:
                late.add((change.collection, change.id))
            gives_way = (late and (change.collection, change.id) in late) or self.gives_way(change)
            batches = bulk if gives_way else at_once
            if not batches or batches[-1].size >= FRAME_BYTES or len(batches[-1].changes) >= PAGE:
                batches.append(Batch(bulk=batches is bulk))
            batches[-1].add(change)
        return at_once + bulk

    def gives_way(self, document: Change | Version) -> bool:
        """Whether a frame with this document, on its way, gives way to others."""
        return bool(self._giving_way) and (document.collection, document.id) in self._giving_way
