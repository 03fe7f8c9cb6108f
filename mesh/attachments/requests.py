"""What a downloader asked for and did not get yet, in the order in which it is served."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass, field

from mesh.core.status import TransferPriority
from mesh.core.wire import ChunkCancel, ChunkGet, ChunkListGet, Message, PieceGet
from mesh.errors import ProtocolViolation

MAX_QUEUED = 4096
"""Chunks that one downloader may have asked for and not got; more end its connection."""

COUNTED_BLOBS = 64
"""Of so many blobs it is known which chunks were sent before."""

_MAX_PRIORITY = TransferPriority.CRITICAL  # whatever a peer says
_LIST_PRIORITY = _MAX_PRIORITY + 1

_MAX_COUNT = 255

Request = ChunkListGet | PieceGet | ChunkGet


class SentBefore:
    """How often each chunk was sent to whomever, whole or in pieces, of the blobs served last: a byte
    per chunk."""

    def __init__(self) -> None:
        self._counts: OrderedDict[bytes, bytearray] = OrderedDict()

    def count(self, hash: bytes, index: int) -> int:
        """How often a chunk was sent."""
        counts = self._counts.get(hash, b"")
        return counts[index] if 0 <= index < len(counts) else 0

    def add(self, hash: bytes, index: int) -> None:
        """A chunk that is held is being sent."""
        counts = self._counts.setdefault(hash, bytearray())
        self._counts.move_to_end(hash)
        if len(self._counts) > COUNTED_BLOBS:
            self._counts.popitem(last=False)
        if index >= len(counts):
            counts.extend(bytes(index + 1 - len(counts)))
        counts[index] = min(_MAX_COUNT, counts[index] + 1)


@dataclass(order=True, slots=True)
class Job:
    """One thing to send.

    Attributes:
        rank: (-priority, whether it was not begun, how often the chunk was sent to others, arrival).
        sent: how many bytes of it are on their way.
        answer: what is to be sent, once it was read.
    """

    rank: tuple[int, bool, int, int]
    request: Request = field(compare=False)
    index: int = field(compare=False)
    sent: int = field(compare=False, default=0)
    answer: asyncio.Task[bytearray | Message] | None = field(compare=False, default=None)

    @property
    def priority(self) -> int:
        """Against what others asked for: a list goes first among what the same downloader asked for only."""
        return min(-self.rank[0], _MAX_PRIORITY)


class RequestQueue:
    """The jobs of one downloader: the highest priority first; then what was begun; then chunks that were sent
    to nobody yet, so that its copies soon are where others can have them from; then in the order of asking.
    """

    def __init__(self, before: SentBefore) -> None:
        self._before = before
        self._here = SentBefore()
        self._heap: list[Job] = []
        self._numbers = itertools.count()
        self._wanted: set[tuple[bytes, int]] = set()
        self._filled = asyncio.Event()

    def add(self, message: Message) -> None:
        """Take a request.

        Raises:
            ProtocolViolation: the message is no request, or there are too many.
        """
        match message:
            case ChunkListGet():
                self._push(_LIST_PRIORITY, message, -1)
            case PieceGet():
                self._push(min(message.priority, _MAX_PRIORITY), message, message.index)
            case ChunkGet():
                for index in message.indices:
                    self._push(min(message.priority, _MAX_PRIORITY), message, index)
            case ChunkCancel():
                self._wanted.difference_update((message.hash, index) for index in message.indices)
            case _:
                raise ProtocolViolation(f"a {type(message).__name__} where a request for chunks belongs")

    def _push(self, priority: int, request: Request, index: int) -> None:
        if len(self._heap) >= MAX_QUEUED:
            raise ProtocolViolation(f"more than {MAX_QUEUED} chunks asked for at once")
        if not isinstance(request, PieceGet):
            self._wanted.add((request.hash, index))
        rank = (-priority, True, self._count(request, index), next(self._numbers))
        heapq.heappush(self._heap, Job(rank, request, index))
        self._filled.set()

    def _count(self, request: Request, index: int) -> int:
        return self._before.count(request.hash, index) if isinstance(request, ChunkGet) else 0

    def peek(self) -> Job | None:
        """The next job, if there is one; it stays."""
        while self._heap:
            job = self._heap[0]
            if not isinstance(job.request, PieceGet) and (job.request.hash, job.index) not in self._wanted:
                heapq.heappop(self._heap)
                continue
            count = self._count(job.request, job.index)
            if count <= job.rank[2] or job.sent:
                return job
            job.rank = (*job.rank[:2], count, job.rank[3])
            job.answer = None  # what was read goes: there may soon be a lot of it, for every downloader
            heapq.heapreplace(self._heap, job)
        self._filled.clear()
        return None

    def ahead(self, count: int) -> list[Job]:
        """The next jobs, unless others come."""
        return heapq.nsmallest(count, self._heap)

    async def filled(self) -> None:
        """Wait until there is a job."""
        await self._filled.wait()

    def begin(self, job: Job) -> None:
        """The next job is being sent."""
        first = job.request.offset == 0 if isinstance(job.request, PieceGet) else not job.sent
        if first and not isinstance(job.request, ChunkListGet):
            self._before.add(job.request.hash, job.index)
            self._here.add(job.request.hash, job.index)
        job.rank = (job.rank[0], False, *job.rank[2:])  # it is the first anyway

    def again(self, job: Job) -> bool:
        """Whether this downloader got the chunk before: it may have found it damaged."""
        return self._here.count(job.request.hash, job.index) > 0

    def pop(self) -> None:
        """The next job is done."""
        job = heapq.heappop(self._heap)
        if not isinstance(job.request, PieceGet):
            self._wanted.discard((job.request.hash, job.index))
