"""The downloading side: one lane per holder, over which every transfer asks it for chunks.

A lane prefers a bulk connection that it dials itself, then one that the holder dials back, then the shared
link. On the link, and until a connection has shown that it is quick, chunks come in pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from mesh.attachments.dialling import Dial, Dialling
from mesh.attachments.parts import Parts
from mesh.attachments.pending import Pending, Receiver
from mesh.attachments.pieces import Pieces
from mesh.core.chunks import (
    CHUNK_HEAD_BYTES,
    CHUNK_KIND,
    HASH_BYTES,
    Buffer,
    chunk_length,
    chunks_hash,
    unpack_head,
)
from mesh.core.frames import FrameReader, frames_of
from mesh.core.limits import peer_log
from mesh.core.picking import LIST
from mesh.core.wire import (
    ChunkCancel,
    ChunkGet,
    ChunkList,
    ChunkListGet,
    ChunkPiece,
    ChunkRefused,
    Message,
    PieceGet,
)
from mesh.errors import LinkClosed, ProtocolViolation
from mesh.network.link import Link
from mesh.network.transport import Connection

QUEUED_CHUNKS = 4
"""Chunks received and not yet verified and written, per lane; the socket waits while there are more."""

MAX_WRONG_LIST_BYTES = 1 << 20
"""A chunk list may be as long as this whatever the token says, as that shows that the token is wrong."""

IDLE_SECONDS = 30.0
"""A bulk connection that nothing was asked over for so long is closed."""

log = peer_log(__name__)


class Lane:
    """Chunks from one holder."""

    def __init__(
        self,
        link: Link,
        dial: Dial,
        on_bytes: Callable[[int], None],
    ) -> None:
        self.link = link
        self._peer = link.node_id
        self._dialling = Dialling(link, dial)
        self._on_bytes = on_bytes
        self._loop = asyncio.get_running_loop()
        self._pending = Pending()
        self._numbers: dict[bytes, int] = {}
        self._by_number: dict[int, Receiver] = {}
        self._lists: dict[bytes, bytearray] = {}
        self._outbox: list[Message] = []
        self._filled = asyncio.Event()
        self._slots = asyncio.Semaphore(QUEUED_CHUNKS)
        self._jobs: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False
        self._parts = Parts()
        self._over_link = False
        self._pieces = Pieces()

    # --- what transfers do -------------------------------------------------------------------------

    def ask(self, receiver: Receiver, indices: list[int]) -> None:
        """Ask the holder for chunks (``LIST``: for the chunk list)."""
        hash = bytes.fromhex(receiver.token.hash)
        number = self._numbers.setdefault(hash, len(self._numbers))
        self._by_number[number] = receiver
        whole: list[int] = []
        for index in indices:
            self._pending.add((hash, index), receiver)
            if index == LIST or (self._pieces.quick and not self._over_link):
                whole.append(index)
            else:
                self._pieces.add((hash, index), chunk_length(receiver.token.size_bytes, index))
        if any(index != LIST for index in whole):
            self._pieces.whole_asked(self._loop.time())
        if not self._over_link:
            self._outbox += self._requests(hash, whole, receiver.priority)
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name=f"chunks from {self.link}")
        self._filled.set()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def cancel(self, receiver: Receiver, indices: list[int]) -> None:
        """Chunks are not wanted any more; those under way are dropped when they come."""
        hash = bytes.fromhex(receiver.token.hash)
        for index in indices:
            self._pending.take((hash, index))
            self._parts.drop((hash, index))
            self._pieces.drop((hash, index))
        if LIST in indices:
            self._lists.pop(hash, None)
        chunks = [index for index in indices if index != LIST]
        if chunks and not self._over_link:
            self._outbox.append(ChunkCancel(hash, chunks))
        self._filled.set()
        self._watch_idle()

    def forget(self, receiver: Receiver) -> None:
        """The transfer ended."""
        hash = bytes.fromhex(receiver.token.hash)
        if pending := self._pending.indices_of(hash):
            self.cancel(receiver, pending)
        self._watch_idle()
        self._lists.pop(hash, None)
        number = self._numbers.get(hash)
        if number is not None:
            self._by_number.pop(number, None)

    async def close(self) -> None:
        """End it; nothing is reported to transfers."""
        self._closed = True
        self._pending.clear()
        if self._idle is not None:
            self._idle.cancel()
        tasks = [*self._jobs, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- its connection ------------------------------------------------------------------------------

    async def adopt(self, connection: Connection) -> None:
        """The holder dialled back; returns when the connection is not needed any more."""
        await self._dialling.adopt(connection)

    async def _run(self) -> None:
        connection: Connection | None = None
        try:
            connection = await self._dialling.connect()
            if connection is None:
                await self._use_link()
            else:
                await self._use(connection)
        except LinkClosed as error:
            log.debug("the bulk connection with %s ended: %s", self.link, error.reason)
        except ProtocolViolation as violation:
            log.warning("closing the bulk connection with %s: %s", self.link, violation)
        finally:
            self._task, self._over_link = None, False
            self._outbox.clear()
            self._numbers.clear()
            self._by_number.clear()
            self._lists.clear()
            self._parts.clear()
            self._pieces = Pieces()
            if connection is not None:
                await self._dialling.close(connection)
            if not self._closed:
                self._report_lost()

    def _report_lost(self) -> None:
        receivers = list(dict.fromkeys(receiver for _, receiver in self._pending.items()))
        self._pending.clear()
        self._pieces = Pieces()
        for receiver in receivers:
            receiver.lost(self._peer)

    async def _use(self, connection: Connection) -> None:
        writer = self._loop.create_task(self._write(connection), name=f"ask {self.link} for chunks")
        frames = FrameReader()
        try:
            while True:
                frame = await connection.receive()
                self._on_bytes(len(frame))
                if frame[:1] == bytes((CHUNK_KIND,)):
                    await self._take(frame, connection)
                else:
                    message = frames.feed(frame)
                    if isinstance(message, ChunkPiece):
                        await self.piece_came(message)
                    elif message is not None:
                        self._heed(message)
                self._watch_idle()
        finally:
            writer.cancel()
            await asyncio.wait({writer})

    async def _write(self, connection: Connection) -> None:
        try:
            while True:
                await self._filled.wait()
                self._filled.clear()
                self._ask_for_pieces()
                messages, self._outbox = self._outbox, []
                for message in messages:
                    for frame in frames_of(message, 0):
                        await connection.send(frame)
        except LinkClosed:
            pass  # the reader learns it too, and says so

    def _watch_idle(self) -> None:
        """Once nothing is pending, close after a while."""
        if not self._pending and self._idle is None and self._task is not None:
            self._idle = self._loop.call_later(IDLE_SECONDS, self._task.cancel)

    # --- what comes ------------------------------------------------------------------------------------

    async def _take(self, frame: Buffer, connection: Connection) -> None:
        number, index, offset = unpack_head(frame)
        receiver = self._by_number.get(number)
        if receiver is None or not receiver.wants(index):
            return  # cancelled meanwhile
        key = (bytes.fromhex(receiver.token.hash), index)
        data: Buffer = memoryview(frame)[CHUNK_HEAD_BYTES:]
        length = chunk_length(receiver.token.size_bytes, index)
        if len(data) < length:
            if self._pending.get(key) is None:
                return
            fits, whole = self._parts.join(key, offset, data, length)
            if whole is None:
                if fits and not receiver.ends(index, self._parts.so_far(key)):
                    receiver.alive(self._peer, index, len(data))
                return
            data = whole
        self._pending.take(key)
        self._pieces.drop(key)
        self._filled.set()  # which makes room for others
        if self._pieces.whole_came(self._loop.time(), last=not self._pending):
            self._ask_in_pieces()
        await self._verify(receiver, index, data, partial(connection.reuse, frame))

    async def _verify(
        self, receiver: Receiver, index: int, data: Buffer, done: Callable[[], None] = lambda: None
    ) -> None:
        """Have a chunk verified and written; waits while ``QUEUED_CHUNKS`` are. ``done``: nobody looks at
        ``data`` any more."""
        if receiver.take_small(self._peer, data):
            done()
            return
        await self._slots.acquire()

        async def verify() -> None:
            await receiver.take_chunk(self._peer, index, data)
            done()  # not after a cancellation: it may be being written still

        job = self._loop.create_task(verify())
        self._jobs.add(job)
        job.add_done_callback(self._verified)

    def _verified(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        self._slots.release()

    def _heed(self, message: Message) -> None:
        match message:
            case ChunkList():
                self.list_came(message)
            case ChunkRefused():
                self.refused(message)
            case _:
                raise ProtocolViolation(f"a {type(message).__name__} on a bulk connection")

    def refused(self, message: ChunkRefused) -> None:
        """The holder does not serve a chunk."""
        receiver = self._pending.take((message.hash, message.index))
        self._parts.drop((message.hash, message.index))
        self._pieces.drop((message.hash, message.index))
        if receiver is not None:
            receiver.refused(self._peer, message.index)
        self._filled.set()
        self._watch_idle()

    def list_came(self, message: ChunkList) -> None:
        """A piece of a chunk list came: ask for the next, or hand the whole over."""
        receiver = self._pending.get((message.hash, LIST))
        if receiver is None:
            return
        so_far = self._lists.setdefault(message.hash, bytearray())
        total = receiver.token.chunk_count * HASH_BYTES
        fits = message.start * HASH_BYTES == len(so_far) and len(message.hashes) % HASH_BYTES == 0
        so_far += message.hashes
        if not so_far or not fits or len(so_far) > max(total, MAX_WRONG_LIST_BYTES):
            del self._lists[message.hash]
            self._pending.take((message.hash, LIST))
            receiver.refused(self._peer, LIST)
            return
        # Where the token says too few bytes, the list goes on.
        whole = len(so_far) >= total and chunks_hash(so_far) == receiver.token.chunks_hash
        if message.hashes and not whole:
            receiver.alive(self._peer, LIST, len(message.hashes))
            self._outbox.append(ChunkListGet(message.hash, len(so_far) // HASH_BYTES))
            self._filled.set()
            return
        del self._lists[message.hash]
        self._pending.take((message.hash, LIST))
        job = self._loop.create_task(receiver.take_list(self._peer, bytes(so_far)))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _requests(self, hash: bytes, indices: Iterable[int], priority: int) -> list[Message]:
        messages: list[Message] = []
        chunks = [index for index in indices if index != LIST]
        if len(chunks) < len(list(indices)):
            self._lists.pop(hash, None)
            messages.append(ChunkListGet(hash, 0))
        if chunks:
            messages.append(ChunkGet(hash, self._numbers[hash], chunks, priority))
        return messages

    # --- in pieces, and the shared link ----------------------------------------------------------------

    async def _use_link(self) -> None:
        """Ask for pieces, a few at a time, in the order in which their chunks were asked for."""
        self._over_link = True
        self._outbox.clear()  # it is made again from what is pending
        for key, receiver in self._pending.items():
            if key[1] != LIST:
                self._pieces.add(key, chunk_length(receiver.token.size_bytes, key[1]))
        self._filled.set()
        while True:
            await self._filled.wait()
            self._filled.clear()
            for hash in {
                hash for (hash, index), _ in self._pending.items() if index == LIST
            } - self._lists.keys():
                self._lists[hash] = bytearray()
                self._outbox.append(ChunkListGet(hash, 0))
            self._ask_for_pieces()
            for message in self._outbox:
                self.link.send(message)
            self._outbox.clear()

    def _ask_for_pieces(self) -> None:
        while (piece := self._pieces.next(self._loop.time())) is not None:
            receiver = self._pending.get(piece.key)
            assert receiver is not None
            self._outbox.append(PieceGet(*piece.key, piece.offset, piece.length, receiver.priority))

    async def piece_came(self, message: ChunkPiece) -> None:
        """A piece of a chunk came."""
        key = (message.hash, message.index)
        receiver = self._pending.get(key)
        if receiver is None or not self._pieces.asked(key, message.offset):
            return  # cancelled meanwhile
        if self._over_link:
            self._on_bytes(len(message.data))
        fits, whole = self._pieces.came(key, message.offset, message.data, self._loop.time())
        self._filled.set()
        if not fits:
            so_far = self._pieces.so_far(key, message.offset, message.data)
            if len(so_far) >= chunk_length(receiver.token.size_bytes, message.index):
                whole = bytearray(so_far)  # more was asked for than the token says
            elif receiver.ends(message.index, so_far):
                return
            else:
                self.refused(ChunkRefused(message.hash, message.index, "a piece of the wrong length"))
                return
        if self._pieces.quick and not self._over_link:
            self._ask_for_the_rest()
        if whole is None or (fits and receiver.lacks_end(message.index, whole)):
            if whole is not None:
                self._pieces.go_on(key, whole)
            receiver.alive(self._peer, message.index, len(message.data))
            return
        self._pending.take(key)
        self._pieces.drop(key)
        self._watch_idle()
        await self._verify(receiver, message.index, whole)

    def _ask_in_pieces(self) -> None:
        """The connection has become slow: what is pending is asked for again, in pieces."""
        self._parts.clear()
        for key, receiver in self._pending.items():
            if key[1] != LIST:
                self._outbox.append(ChunkCancel(key[0], [key[1]]))
                self._pieces.add(key, chunk_length(receiver.token.size_bytes, key[1]))

    def _ask_for_the_rest(self) -> None:
        """The connection is quick: what was not begun is asked for as it is."""
        rest: dict[bytes, list[int]] = {}
        for hash, index in self._pieces.take_unbegun():
            rest.setdefault(hash, []).append(index)
        for hash, indices in rest.items():
            receiver = self._pending.get((hash, indices[0]))
            assert receiver is not None
            self._pieces.whole_asked(self._loop.time())
            self._outbox += self._requests(hash, indices, receiver.priority)
