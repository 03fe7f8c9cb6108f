"""The uploading side: chunks, chunk lists and pieces to whoever asks, by priority."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mesh.core.chunks import CHUNK_HEAD_BYTES, HASH_BYTES, Buffer, pack_head
from mesh.core.tokens import CHUNK_BYTES
from mesh.core.wire import (
    ChunkCancel,
    ChunkGet,
    ChunkList,
    ChunkListGet,
    ChunkPiece,
    ChunkRefused,
    FrameReader,
    Message,
    PieceGet,
    frames_of,
)
from mesh.errors import BlobNotFound, LinkClosed, ProtocolViolation
from mesh.network.link import Link
from mesh.network.transport import Connection
from mesh.storage.blobs import BlobStore

LIST_PIECE_HASHES = 2048
"""Chunk hashes in one message: 64 KiB."""

MAX_QUEUED = 4096
"""Chunks that one downloader may have asked for and not got; more end its connection."""

QUEUED_READS = 4
"""Reads that wait for the store's worker at once, whoever they are for."""

_LIST_PRIORITY = 100

log = logging.getLogger(__name__)


@dataclass(order=True, slots=True)
class _Job:
    rank: tuple[int, int]  # (-priority, arrival)
    request: ChunkListGet | PieceGet | ChunkGet = field(compare=False)
    index: int = field(compare=False)
    reading: asyncio.Task[bytearray | Message] | None = field(compare=False, default=None)


class _Queue:
    """What one downloader asked for; the highest priority first, then in the order of asking."""

    def __init__(self) -> None:
        self._heap: list[_Job] = []
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
                self._push(message.priority, message, message.index)
            case ChunkGet():
                for index in message.indices:
                    self._push(message.priority, message, index)
            case ChunkCancel():
                self._wanted.difference_update((message.hash, index) for index in message.indices)
            case _:
                raise ProtocolViolation(f"a {type(message).__name__} where a request for chunks belongs")

    def _push(self, priority: int, request: ChunkListGet | PieceGet | ChunkGet, index: int) -> None:
        if len(self._heap) >= MAX_QUEUED:
            raise ProtocolViolation(f"more than {MAX_QUEUED} chunks asked for at once")
        self._wanted.add((request.hash, index))
        heapq.heappush(self._heap, _Job((-priority, next(self._numbers)), request, index))
        self._filled.set()

    def peek(self) -> _Job | None:
        """The next job, if there is one; it stays."""
        while self._heap:
            job = self._heap[0]
            if isinstance(job.request, PieceGet) or (job.request.hash, job.index) in self._wanted:
                return job
            heapq.heappop(self._heap)
        self._filled.clear()
        return None

    async def next(self) -> _Job:
        """The next job, when there is one; it stays."""
        while (job := self.peek()) is None:
            await self._filled.wait()
        return job

    def pop(self) -> None:
        """The next job is being done."""
        job = heapq.heappop(self._heap)
        self._wanted.discard((job.request.hash, job.index))


Stopped = tuple[list[asyncio.Task[None]], list[Connection]]
"""Writers and connections that are about to end."""

Sink = Callable[[_Job, bytearray | Message], Awaitable[None]]


class Server:
    """Serves what the store holds, whole or partial.

    Attributes:
        served_bytes: bytes of chunks sent so far.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._reads = asyncio.Semaphore(QUEUED_READS)
        self._connections: dict[Connection, str] = {}
        self._on_links: dict[Link, tuple[_Queue, asyncio.Task[None]]] = {}
        self._piece_of: tuple[bytes, int, bytearray] | None = None
        self.served_bytes = 0

    async def serve(self, peer: str, connection: Connection, first: bytes | None = None) -> None:
        """Serve ``peer`` on a bulk connection until it ends. ``first`` was read from it already."""
        queue, frames = _Queue(), FrameReader()

        async def sink(job: _Job, answer: bytearray | Message) -> None:
            if isinstance(answer, bytearray):
                assert isinstance(job.request, ChunkGet)
                pack_head(answer, job.request.blob, job.index, len(answer) - CHUNK_HEAD_BYTES)
                await connection.send(answer)
                self.served_bytes += len(answer) - CHUNK_HEAD_BYTES
            else:
                for frame in frames_of(answer, 0):
                    await connection.send(frame)

        self._connections[connection] = peer
        writer = asyncio.create_task(self._write(queue, sink, CHUNK_HEAD_BYTES), name="serve chunks")
        try:
            while True:
                frame = first or await connection.receive()
                first = None
                message = frames.feed(frame)
                if message is not None:
                    queue.add(message)
        except LinkClosed:
            pass
        except ProtocolViolation as violation:
            log.warning("closing a bulk connection with %s: %s", peer, violation)
        finally:
            del self._connections[connection]
            writer.cancel()
            await connection.close()
            await asyncio.wait({writer})

    def serve_on_link(self, link: Link, request: ChunkListGet | PieceGet) -> None:
        """Answer a request that came over the shared link; it gives way to documents."""

        async def sink(job: _Job, answer: bytearray | Message) -> None:
            if isinstance(answer, bytearray):
                request = job.request
                assert isinstance(request, PieceGet)
                data = bytes(answer[request.offset : request.offset + request.length])
                answer = ChunkPiece(request.hash, request.index, request.offset, data)
                self.served_bytes += len(data)
            link.send(answer, bulk=True)
            await link.drain()

        if link not in self._on_links:
            queue = _Queue()
            self._on_links[link] = (
                queue,
                asyncio.create_task(self._write(queue, sink, 0), name="serve pieces"),
            )
        self._on_links[link][0].add(request)

    def stop(self, peer: str) -> Stopped:
        """The link with ``peer`` ended: so does what is served to it; to be followed by :meth:`end`."""
        writers = [self._on_links.pop(link)[1] for link in list(self._on_links) if link.node_id == peer]
        for writer in writers:
            writer.cancel()
        return writers, [connection for connection, other in self._connections.items() if other == peer]

    async def end(self, stopped: Stopped) -> None:
        """Wait for the end of what was stopped, and close its connections."""
        writers, connections = stopped
        if writers:
            await asyncio.wait(writers)
        for connection in connections:
            await connection.close("the link ended")

    async def close(self) -> None:
        """Stop serving."""
        for peer in {*self._connections.values(), *(link.node_id for link in self._on_links)}:
            await self.end(self.stop(peer))
        self._piece_of = None

    async def _write(self, queue: _Queue, sink: Sink, headroom: int) -> None:
        """Send one answer while the next is being read; what comes with a higher priority overtakes."""
        readings: set[asyncio.Task[bytearray | Message]] = set()

        def read(job: _Job) -> asyncio.Task[bytearray | Message]:
            if job.reading is None:
                job.reading = asyncio.create_task(self._answer(job, headroom))
                readings.add(job.reading)
                job.reading.add_done_callback(readings.discard)
            return job.reading

        try:
            while True:
                job = await queue.next()
                answer = await read(job)
                if queue.peek() is not job:
                    continue
                queue.pop()
                following = queue.peek()
                if following is not None:
                    read(following)
                await sink(job, answer)
        except LinkClosed:
            pass
        finally:
            for reading in readings:
                reading.cancel()
            if readings:
                await asyncio.wait(readings)

    async def _answer(self, job: _Job, headroom: int) -> bytearray | Message:
        request = job.request
        try:
            async with self._reads:
                if isinstance(request, ChunkListGet):
                    hashes = await self._store.chunk_list(request.hash.hex())
                    start = request.start * HASH_BYTES
                    piece = hashes[start : start + LIST_PIECE_HASHES * HASH_BYTES] if start >= 0 else b""
                    return ChunkList(request.hash, request.start, piece)
                if isinstance(request, PieceGet):
                    return await self._read_for_piece(request)
                return await self._store.read_chunk(request.hash.hex(), job.index, headroom)
        except BlobNotFound as error:
            if isinstance(request, ChunkListGet):
                return ChunkList(request.hash, request.start, b"")
            return ChunkRefused(request.hash, job.index, str(error))
        except OSError as error:
            log.error("cannot read chunk %d of blob %s: %s", job.index, request.hash.hex(), error)
            return ChunkRefused(request.hash, job.index, "it cannot be read")

    async def _read_for_piece(self, request: PieceGet) -> bytearray:
        if not (request.offset >= 0 and 0 < request.length <= CHUNK_BYTES):
            raise BlobNotFound(request.hash.hex())
        # Pieces of a chunk are asked for one after another: read it once.
        cached = self._piece_of
        if cached is None or cached[:2] != (request.hash, request.index):
            chunk = await self._store.read_chunk(request.hash.hex(), request.index)
            cached = self._piece_of = (request.hash, request.index, chunk)
        return cached[2]


def hash_bytes(data: Buffer) -> bytes:
    """``data`` if it is as long as a hash.

    Raises:
        ProtocolViolation: it is not.
    """
    if len(data) != HASH_BYTES:
        raise ProtocolViolation(f"a hash of {len(data)} bytes")
    return bytes(data)
