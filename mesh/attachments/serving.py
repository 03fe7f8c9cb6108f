"""The uploading side: chunks, chunk lists and pieces to whoever asks, by priority."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from mesh.attachments.readers import Readers
from mesh.attachments.requests import Job, RequestQueue, SentBefore
from mesh.attachments.uplink import Uplink
from mesh.core.chunks import CHUNK_HEAD_BYTES, HASH_BYTES, Buffer, pack_head
from mesh.core.frames import FrameReader, frames_of
from mesh.core.limits import peer_log
from mesh.core.tokens import CHUNK_BYTES
from mesh.core.wire import ChunkGet, ChunkList, ChunkListGet, ChunkPiece, ChunkRefused, Message, PieceGet
from mesh.errors import BlobNotFound, LinkClosed, MeshError, ProtocolViolation
from mesh.network.link import Link
from mesh.network.transport import HEADROOM_BYTES, Connection
from mesh.storage.blobs import BlobStore

LIST_PIECE_HASHES = 2048
"""Chunk hashes in one message: 64 KiB."""

READ_AHEAD = 32
"""Small blobs that are read before it is their turn, for each connection: 2 MiB."""

QUEUED_READS = 4
"""Reads that wait for the store's worker at once, whoever they are for, but for small blobs: those are read
together."""

_HEADROOM_BYTES = HEADROOM_BYTES + CHUNK_HEAD_BYTES

log = peer_log(__name__)

Stopped = tuple[list[asyncio.Task[None]], list[Connection]]
"""Writers and connections that are about to end."""

Send = Callable[[Job, bytearray | Message, int], Awaitable[None]]
"""Sends so many of the bytes of a job that were not sent yet; a message, and a piece, as a whole."""


class _Downloader:
    """One connection on which a peer asks for chunks."""

    def __init__(self, peer: str, before: SentBefore, send: Send, *, in_parts: bool, headroom: int) -> None:
        self.peer = peer
        self.queue = RequestQueue(before)
        self.send = send
        self.in_parts = in_parts  # whether a chunk may be sent in parts
        self.headroom = headroom

    def left(self, job: Job, answer: bytearray | Message) -> int:
        """Bytes of a job that are still to be sent."""
        if isinstance(answer, bytearray):
            whole = job.request.length if isinstance(job.request, PieceGet) else len(answer) - self.headroom
            return whole - job.sent
        return len(answer.hashes) if isinstance(answer, ChunkList) else 0

    def ends_chunk(self, job: Job, answer: bytearray | Message) -> bool:
        """Whether a job is the end of a chunk, or of something that has no pieces."""
        request = job.request
        if isinstance(request, PieceGet) and isinstance(answer, bytearray):
            return request.offset + request.length >= len(answer)
        return True


class Server:
    """Serves what the store holds, whole or partial.

    Attributes:
        served_bytes: bytes of chunks sent so far.
        uplink: says who may send.
    """

    def __init__(self, store: BlobStore, readers: Readers) -> None:
        """``readers``: who may have what is held."""
        self.uplink = Uplink()
        self.served_bytes = 0
        self._store = store
        self._readers = readers
        self._reads = asyncio.Semaphore(QUEUED_READS)
        self._before = SentBefore()
        self._connections: dict[Connection, str] = {}
        self._on_links: dict[Link, tuple[_Downloader, asyncio.Task[None]]] = {}
        self._piece_of: tuple[bytes, int, bytearray] | None = None

    async def serve(self, peer: str, connection: Connection, first: Buffer | None = None) -> None:
        """Serve ``peer`` on a bulk connection until it ends. ``first`` was read from it already."""

        async def send(job: Job, answer: bytearray | Message, size: int) -> None:
            if isinstance(job.request, PieceGet) and isinstance(answer, bytearray):
                answer = _piece(job.request, answer)
                self.served_bytes += len(answer.data)
            if isinstance(answer, bytearray):
                assert isinstance(job.request, ChunkGet)
                part = answer
                if size < len(answer) - _HEADROOM_BYTES:
                    start = _HEADROOM_BYTES + job.sent
                    part = bytearray(_HEADROOM_BYTES) + memoryview(answer)[start : start + size]
                message = memoryview(part)[HEADROOM_BYTES:]
                pack_head(message, job.request.blob, job.index, size, job.sent)
                await connection.send_in_place(part)
                self.served_bytes += size
            else:
                for frame in frames_of(answer, 0):
                    await connection.send(frame)

        downloader = _Downloader(peer, self._before, send, in_parts=True, headroom=_HEADROOM_BYTES)
        frames = FrameReader()
        self._connections[connection] = peer
        writer = asyncio.create_task(self._write(downloader), name="serve chunks")
        try:
            while True:
                frame = first or await connection.receive()
                first = None
                message = frames.feed(frame)
                if message is not None:
                    self._add(downloader, message)
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

        async def send(job: Job, answer: bytearray | Message, size: int) -> None:
            if isinstance(answer, bytearray):
                request = job.request
                assert isinstance(request, PieceGet)
                answer = _piece(request, answer)
                self.served_bytes += len(answer.data)
            link.send(answer, bulk=True)
            await link.drain()

        if link not in self._on_links:
            downloader = _Downloader(link.node_id, self._before, send, in_parts=False, headroom=0)
            self._on_links[link] = (
                downloader,
                asyncio.create_task(self._write(downloader), name="serve pieces"),
            )
        self._add(self._on_links[link][0], request)

    def _add(self, downloader: _Downloader, request: Message) -> None:
        downloader.queue.add(request)
        if (job := downloader.queue.peek()) is not None:
            self.uplink.raised(downloader, job.priority)

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
        self.uplink.close()
        self._piece_of = None

    async def _write(self, downloader: _Downloader) -> None:
        """Send one answer while the next is being read; what comes with a higher priority overtakes."""
        queue, uplink = downloader.queue, self.uplink
        readings: set[asyncio.Task[bytearray | Message]] = set()
        unsent = 0  # of what was read together last

        def read(job: Job) -> asyncio.Task[bytearray | Message]:
            if job.answer is None:
                job.answer = asyncio.create_task(self._answer(job, downloader))
                readings.add(job.answer)
                job.answer.add_done_callback(readings.discard)
            return job.answer

        try:
            while True:
                job = queue.peek()
                if job is None:
                    uplink.idle(downloader)
                    await queue.filled()
                    continue
                answer = await read(job)
                if queue.peek() is not job:
                    continue
                turn = size = self._part(downloader, job, answer)
                await uplink.turn(downloader, downloader.peer, job.priority, size)
                while job is not queue.peek():  # something more urgent came, or it was cancelled
                    job = queue.peek()
                    if job is None:
                        break
                    answer = await read(job)
                    size = self._part(downloader, job, answer)
                if job is None:
                    uplink.adjust(downloader, -turn)
                    continue
                if size != turn:
                    uplink.adjust(downloader, size - turn)
                queue.begin(job)
                ended = size == downloader.left(job, answer)
                if ended:
                    queue.pop()
                    unsent -= 1
                    following = queue.peek()
                    if following is not None and (following.answer is None or unsent == READ_AHEAD // 2):
                        together = self._read_together(following, queue)
                        unsent = len(together)
                        for ahead in together:
                            read(ahead)
                await downloader.send(job, answer, size)
                job.sent += size
                uplink.sent(downloader, ended=ended and downloader.ends_chunk(job, answer))
        except LinkClosed:
            pass
        finally:
            uplink.leave(downloader)
            for reading in readings:
                reading.cancel()
            if readings:
                await asyncio.wait(readings)

    def _read_together(self, job: Job, queue: RequestQueue) -> list[Job]:
        """The next job, and what of the jobs after it is read with it: many small blobs, or two chunks."""
        if self._store.is_small(job.request.hash.hex()):
            return [job for job in queue.ahead(READ_AHEAD) if self._store.is_small(job.request.hash.hex())]
        if isinstance(job.request, ChunkGet):
            return [job for job in queue.ahead(2) if isinstance(job.request, ChunkGet)]
        return [job]

    def _part(self, downloader: _Downloader, job: Job, answer: bytearray | Message) -> int:
        """How many bytes of a job are sent next."""
        left = downloader.left(job, answer)
        in_parts = downloader.in_parts and isinstance(answer, bytearray)
        if not in_parts or isinstance(job.request, PieceGet):
            return left
        return min(left, self.uplink.part_bytes)

    async def _answer(self, job: Job, downloader: _Downloader) -> bytearray | Message:
        request = job.request
        try:
            if not (self._readers.open or await self._readers.may(downloader.peer, request.hash)):
                raise BlobNotFound(request.hash.hex())
            async with nullcontext() if self._store.is_small(request.hash.hex()) else self._reads:
                if isinstance(request, ChunkListGet):
                    hashes = await self._store.chunk_list(request.hash.hex())
                    start = request.start * HASH_BYTES
                    piece = hashes[start : start + LIST_PIECE_HASHES * HASH_BYTES] if start >= 0 else b""
                    return ChunkList(request.hash, request.start, piece)
                if isinstance(request, PieceGet):
                    return await self._read_for_piece(request)
                return await self._store.read_chunk(
                    request.hash.hex(), job.index, downloader.headroom, verified=downloader.queue.again(job)
                )
        except BlobNotFound as error:
            if isinstance(request, ChunkListGet):
                return ChunkList(request.hash, request.start, b"")
            return ChunkRefused(request.hash, job.index, str(error))
        except (MeshError, OSError) as error:
            log.error("cannot read chunk %d of blob %s: %s", job.index, request.hash.hex(), error)
            return ChunkRefused(request.hash, job.index, "it cannot be read")

    async def _read_for_piece(self, request: PieceGet) -> bytearray:
        if not (request.offset >= 0 and 0 < request.length <= CHUNK_BYTES):
            raise BlobNotFound(request.hash.hex())
        # Pieces of a chunk are asked for one after another: read it once.
        cached = self._piece_of
        if cached is None or cached[:2] != (request.hash, request.index):
            chunk = await self._store.read_chunk(request.hash.hex(), request.index, verified=True)
            cached = self._piece_of = (request.hash, request.index, chunk)
        return cached[2]


def _piece(request: PieceGet, chunk: bytearray) -> ChunkPiece:
    data = bytes(memoryview(chunk)[request.offset : request.offset + request.length])
    return ChunkPiece(request.hash, request.index, request.offset, data)


def hash_bytes(data: Buffer) -> bytes:
    """``data`` if it is as long as a hash.

    Raises:
        ProtocolViolation: it is not.
    """
    if len(data) != HASH_BYTES:
        raise ProtocolViolation(f"a hash of {len(data)} bytes")
    return bytes(data)
