"""A link: an authenticated connection with a peer, as the services see it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mesh.core.frames import Encoded, FrameReader, frames_of
from mesh.core.handshake import PeerInfo
from mesh.core.heartbeat import Heartbeat
from mesh.core.identity import short_id
from mesh.core.limits import MESSAGES_AT_ONCE, MESSAGES_PER_SECOND, peer_log
from mesh.core.rates import TokenBucket
from mesh.core.wire import Goodbye, Hello, Message, Ping, Pong, Proof
from mesh.errors import LinkClosed, ProtocolViolation
from mesh.network.transport import Connection

FRAME_BYTES = 16 * 1024
"""Largest frame that is sent: a message waits for no more than this of a bulk one, and the peer hears of this
side in time where a second carries only 1 kB. The receiver may not have trusted this side yet when the first
ones arrive, so it is no more than a handshake may send."""

HIGH_WATER_BYTES = 1 << 20
"""``drain()`` waits while more is pending."""

MAX_PENDING_BYTES = 16 << 20
"""A link with more pending is closed."""

SMALL_FRAME_BYTES = 4096
"""Smaller frames are counted (see ``MESSAGES_PER_SECOND``); larger ones take time to arrive. Frames go out
together until they are as large."""

FLUSH_SECONDS = 2.0
"""How long a link that is closed in good order tries to send what is pending."""

HANDLER_SECONDS = 5.0
"""How long a running handler may go on after its link has ended."""

_FEW = 100  # small frames that nobody waits for, and that a link waits for at a time: it costs more than one
_STREAM, _BULK_STREAM = 0, 1
_FIRST_ASKED = 1 << 32  # the heartbeat's pings are numbered below
_MAX_REASON = 200

log = peer_log(__name__)

Deliver = Callable[["Link", Message], Awaitable[None] | None]


class Link:
    """One link with a peer.

    Attributes:
        node_id: the peer, proven.
        name: the peer's name for people, as it says.
        url: how this node dialled it; ``None``: it was dialled by the peer.
        listen: where the peer says it accepts connections.
        features: the optional parts of the protocol that both sides know.
        instance: the run of the peer that is at the other end.
        member: what the peer may do in this mesh, proven; ``None``: the mesh is open.
        revoked: the digest of the revocations that the peer knew when the link came up.
        clock_skew: by how many seconds the peer's clock was ahead of this node's then; ``None``: not known.
        since: when it came up, in seconds since the epoch.
        started_at: the same on the event loop's clock.
        pending_bytes: queued and not yet handed to the transport.
        violations: how often the peer has broken the protocol.
        bytes_in, bytes_out: payload of the frames received and sent.
    """

    def __init__(
        self,
        connection: Connection,
        peer: PeerInfo,
        *,
        url: str | None,
        since: float,
        deliver: Deliver,
        first: Sequence[bytes] = (),
    ) -> None:
        """
        Args:
            connection: authenticated; it belongs to the link from now on.
            peer: who is at the other end.
            url: how this node dialled it.
            since: the wall clock, in seconds since the epoch.
            deliver: called with every message that is not about the link itself; the next one is not read
                before what it returns has been awaited.
            first: frames that go out before anything else.
        """
        self.node_id = peer.node_id
        self.name = peer.name
        self.listen = peer.listen
        self.features = peer.features
        self.instance = peer.instance
        self.member = peer.member
        self.revoked = peer.revoked
        self.clock_skew = peer.clock_skew
        self.url = url
        self.since = since
        self.pending_bytes = 0
        self.violations = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._connection = connection
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        self._heartbeat = Heartbeat(self.started_at)
        self._asked: dict[int, asyncio.Event] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._handling = False
        self._frames: deque[bytes] = deque()
        self._bulk_frames: deque[bytes] = deque()
        self._since_bulk = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._farewell: str | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._first = first

    def __repr__(self) -> str:
        return f"<Link with {self}>"

    def __str__(self) -> str:
        return f"{self.name} ({short_id(self.node_id)})" if self.name else short_id(self.node_id)

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; ``None`` until it is known."""
        return self._heartbeat.rtt

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    # --- sending ----------------------------------------------------------------------------------

    def send(self, message: Message | Encoded, *, bulk: bool = False) -> None:
        """Queue ``message``. Never blocks; after the link closed, nothing happens.

        Messages arrive in the order in which they were sent, except that those sent with ``bulk`` give way, a
        frame at a time, to the others. A link with more than ``MAX_PENDING_BYTES`` pending is closed: whoever
        sends much awaits :meth:`drain`.

        Raises:
            ProtocolViolation: the message is too large for the protocol; nothing was queued.
        """
        if self.closed:
            return
        stream, queue = (_BULK_STREAM, self._bulk_frames) if bulk else (_STREAM, self._frames)
        self._queue(queue, list(frames_of(message, stream, max_frame=FRAME_BYTES)))
        if self.pending_bytes > MAX_PENDING_BYTES:
            self._drop_queued()
            log.warning("closing the link with %s: it takes too little of what is sent to it", self)
            self.close(f"more than {MAX_PENDING_BYTES >> 20} MiB are waiting to be sent to it")

    async def drain(self) -> None:
        """Wait until at most ``HIGH_WATER_BYTES`` are pending, or the link closed."""
        await self._room.wait()

    def close(self, reason: str, *, drop: bool = False) -> None:
        """Say goodbye and end the link. What is pending is still sent if the peer takes it soon, unless it is
        to be dropped."""
        if not self.closed:
            if drop:
                self._drop_queued()
            self._farewell = reason
            self._end(reason)

    def violated(self, violation: ProtocolViolation) -> None:
        """End the link: the peer has broken the protocol."""
        log.warning("closing the link with %s: %s", self, violation)
        self.violations += 1
        self.close(f"protocol violation: {violation}")

    def _queue(self, queue: deque[bytes], frames: Sequence[bytes]) -> None:
        queue.extend(frames)
        self._count_pending(sum(map(len, frames)))
        self._wake.set()

    def _queue_first(self, message: Ping | Pong) -> None:
        frames = list(frames_of(message, _STREAM))
        self._frames.extendleft(frames)
        self._queue(self._frames, ())
        self._count_pending(sum(map(len, frames)))

    def _count_pending(self, size: int) -> None:
        self.pending_bytes += size
        if self.pending_bytes <= HIGH_WATER_BYTES or self.closed:
            self._room.set()
        else:
            self._room.clear()

    def _drop_queued(self) -> None:
        self._count_pending(-sum(map(len, self._frames)) - sum(map(len, self._bulk_frames)))
        self._frames.clear()
        self._bulk_frames.clear()

    def _next_frame(self) -> bytes | None:
        """Ordinary frames come first, but of every ``2 * FRAME_BYTES`` a frame is for bulk ones."""
        if self._frames and not (self._bulk_frames and self._since_bulk >= FRAME_BYTES):
            frame = self._frames.popleft()
            self._since_bulk += len(frame)
            return frame
        self._since_bulk = 0
        return self._bulk_frames.popleft() if self._bulk_frames else None

    def _next_frames(self) -> list[bytes]:
        """Small ones go together."""
        frames: list[bytes] = []
        size = 0
        while size < SMALL_FRAME_BYTES and (frame := self._next_frame()) is not None:
            frames.append(frame)
            size += len(frame)
        return frames

    async def _write(self) -> None:
        try:
            await self._connection.send(*self._first)
            while True:
                frames = self._next_frames()
                if frames:
                    await self._connection.send(*frames)
                    size = sum(map(len, frames))
                    self.bytes_out += size
                    self._heartbeat.said(self._loop.time())
                    self._count_pending(-size)
                elif self.closed:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except LinkClosed as error:
            self._end(error.reason)

    # --- receiving --------------------------------------------------------------------------------

    async def _read(self) -> None:
        frames = FrameReader()
        rate = TokenBucket(MESSAGES_PER_SECOND, self._loop.time(), MESSAGES_AT_ONCE)
        try:
            while True:
                frame = await self._connection.receive()
                self.bytes_in += len(frame)
                self._heartbeat.heard(self._loop.time())
                message = None if self.closed else frames.feed(frame)
                if message is not None:
                    outcome = self._take(message)
                    if outcome is not None:
                        await self._handle(outcome)
                if len(frame) < SMALL_FRAME_BYTES:
                    await self._take_turns(rate)
        except LinkClosed as error:
            self._end(error.reason)
        except ProtocolViolation as violation:
            self.violated(violation)
        except Exception:
            log.exception("closing the link with %s: handling what it sent failed", self)
            self.close("internal error")

    async def _take_turns(self, rate: TokenBucket) -> None:
        """Small frames may come faster than anything else gets on: of many there is one at a time."""
        now = self._loop.time()
        rate.take(1, now)
        if rate.ready_at(1, now) > now:
            await asyncio.wait({self._ended}, timeout=rate.ready_at(_FEW, now) - now)
        elif rate.ready_at(MESSAGES_AT_ONCE - _FEW, now) > now:
            await asyncio.sleep(0)

    def _take(self, message: Message) -> Awaitable[None] | None:
        match message:
            case Ping():
                self._queue_first(Pong(message.number))
            case Pong(number) if (answered := self._asked.pop(number, None)) is not None:
                answered.set()
            case Pong():
                self._heartbeat.ponged(message.number, self._loop.time())
            case Goodbye():
                self._end(f"the peer said goodbye: {plain(message.reason)}")
            case Hello() | Proof():
                raise ProtocolViolation(f"a {type(message).__name__} after the handshake")
            case _:
                return self._deliver(self, message)
        return None

    async def _handle(self, outcome: Awaitable[None]) -> None:
        self._handling = True
        try:
            await outcome
        except LinkClosed as error:
            raise RuntimeError("a handler let an ended link's error through") from error
        finally:
            self._handling = False
            self._heartbeat.heard(self._loop.time())

    # --- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Send and receive from now on."""
        self._connection.trust()
        create = self._loop.create_task
        self._tasks = (
            create(self._read(), name=f"read {short_id(self.node_id)}"),
            create(self._write(), name=f"write {short_id(self.node_id)}"),
        )
        self._beat()

    async def answers(self, seconds: float) -> bool:
        """Whether the peer answers a ping within some time."""
        number = _FIRST_ASKED + len(self._asked)
        answered = self._asked.setdefault(number, asyncio.Event())
        self._queue_first(Ping(number))
        try:
            async with asyncio.timeout(seconds):
                await answered.wait()
        except TimeoutError:
            self._asked.pop(number, None)
        return answered.is_set() and not self.closed

    async def ended(self) -> str:
        """Wait until the link has ended; why."""
        return await asyncio.shield(self._ended)

    async def finish(self) -> None:
        """Leave nothing of an ended link behind: say goodbye, close the connection, end the tasks."""
        reader, writer = self._tasks
        if self._farewell is None:
            self._drop_queued()
        else:
            self._queue(self._frames, list(frames_of(Goodbye(self._farewell), _STREAM)))
        self._wake.set()
        await asyncio.wait({writer}, timeout=FLUSH_SECONDS)
        writer.cancel()
        await self._connection.close(self._farewell or "")
        await asyncio.wait({reader}, timeout=HANDLER_SECONDS)
        reader.cancel()
        await asyncio.wait({reader, writer})

    def _end(self, reason: str) -> None:
        if self._ended.done():
            return
        self._ended.set_result(reason)
        self._room.set()
        self._wake.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        number = self._heartbeat.tick(self._loop.time(), listening=not self._handling)
        if self._heartbeat.dead:
            self._end("the peer does not answer any more")
            return
        if number is not None:
            self._queue_first(Ping(number))
        self._timer = self._loop.call_at(self._heartbeat.due(), self._beat)


def plain(text: str) -> str:
    """What a peer says, fit for a log: short and without control characters."""
    return "".join(c if c.isprintable() else "�" for c in text[:_MAX_REASON])
