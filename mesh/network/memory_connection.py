"""Connections of a network in memory: what is under way in each direction, and when it arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from mesh.errors import LinkClosed
from mesh.network.transport import HEADROOM_BYTES, MAX_STRANGER_BYTES, Buffer, max_message_bytes

if TYPE_CHECKING:
    from mesh.network.memory import MemoryNetwork

BUFFER_BYTES = 256 * 1024
"""What a connection holds in one direction, under way and unread, before ``send`` waits."""

_BROKEN = "the connection broke"


class Pipe:
    """One direction of a connection: what is under way, then what has arrived and is unread."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._source, self._target = source, target
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[bytes | None] = deque()  # None: the end
        self._due = 0  # how many of them would have arrived, were there no partition
        self._arrived: deque[bytes] = deque()
        self._held_bytes = 0
        self._last_arrival = 0.0
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.max_message_bytes = MAX_STRANGER_BYTES
        self.closed: str | None = None  # why nothing can be sent any more
        self.ended: str | None = None  # why nothing will arrive any more

    async def send(self, message: bytes) -> None:
        if self.closed is not None:
            raise LinkClosed(self.closed)
        self._hold(len(message))
        self._dispatch(message, self._arrival_of(len(message)))
        await self._writable.wait()
        if self.closed is not None:
            raise LinkClosed(self.closed)

    async def receive(self) -> bytes:
        while not self._arrived:
            if self.ended is not None:
                raise LinkClosed(self.ended)
            self._readable.clear()
            await self._readable.wait()
        message = self._arrived.popleft()
        self._hold(-len(message))
        return message

    def close(self, reason: str) -> None:
        """Nothing more is sent; what was sent arrives."""
        if self.closed is None:
            self.closed = reason or "the other side closed it"
            self._writable.set()
            self._dispatch(None, self._arrival_of(0))

    def break_off(self, reason: str) -> None:
        """At once, for both sides; what is under way is lost."""
        self.closed = self.closed or reason
        self.ended = self.ended or reason
        self._under_way.clear()
        self._due = 0
        self._readable.set()
        self._writable.set()

    def flush(self) -> None:
        """Deliver what is due, unless a partition stalls it."""
        while self._due and not self._network.stalls(self._source, self._target):
            self._due -= 1
            message = self._under_way.popleft()
            if message is None:
                self.ended = self.ended or self.closed
            elif len(message) > self.max_message_bytes:
                self.break_off(f"a message of {len(message)} bytes, where {self.max_message_bytes} may be")
            elif self.ended is None:
                self._arrived.append(message)
            self._readable.set()

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        if self._held_bytes < BUFFER_BYTES:
            self._writable.set()
        elif self.closed is None:
            self._writable.clear()

    def _arrival_of(self, size: int) -> float:
        path = self._network.path(self._source, self._target)
        sender, receiver = self._network.host(self._source), self._network.host(self._target)
        time = self._loop.time()
        if sender.bytes_per_second is not None:
            time = sender.upload_free_at = max(time, sender.upload_free_at) + size / sender.bytes_per_second
        time += path.delay
        if path.jitter:
            time += self._network.rng.uniform(0, path.jitter)
        if receiver.bytes_per_second is not None:
            time = max(time, receiver.download_free_at) + size / receiver.bytes_per_second
            receiver.download_free_at = time
        self._last_arrival = max(self._last_arrival, time)
        return self._last_arrival

    def _dispatch(self, message: bytes | None, arrival: float) -> None:
        self._under_way.append(message)
        if arrival > self._loop.time():
            self._loop.call_at(arrival, self._arrive)
        else:
            self._loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        if self._due < len(self._under_way):  # else it broke while this was under way
            self._due += 1
            self.flush()


class MemoryConnection:
    """See :class:`mesh.network.transport.Connection`."""

    def __init__(
        self,
        network: MemoryNetwork,
        host: str,
        peer_host: str,
        path: str,
        incoming: Pipe,
        outgoing: Pipe,
    ) -> None:
        self.host, self.peer_host = host, peer_host
        self.remote = peer_host
        self.path = path
        self.binding = b""
        self.incoming, self._outgoing = incoming, outgoing
        self._network = network
        network.host(host).connections[self] = None

    def trust(self) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        self.incoming.max_message_bytes = max_message_bytes(self.path)

    async def send(self, *messages: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        path = self._network.path(self.host, self.peer_host)
        for message in messages:
            if path.loss and self._network.rng.random() < path.loss:
                self.break_off()
            await self._outgoing.send(bytes(message))

    async def send_in_place(self, message: bytearray) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        await self.send(memoryview(message)[HEADROOM_BYTES:])

    async def receive(self) -> bytes:
        """See :class:`mesh.network.transport.Connection`."""
        return await self.incoming.receive()

    def reuse(self, message: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""

    async def close(self, reason: str = "") -> None:
        """See :class:`mesh.network.transport.Connection`."""
        self._outgoing.close(reason)
        self.incoming.break_off(reason or "closed by this side")
        self._network.host(self.host).connections.pop(self, None)

    def break_off(self) -> None:
        """Both sides lose it at once."""
        self.incoming.break_off(_BROKEN)
        self._outgoing.break_off(_BROKEN)
        self._network.host(self.host).connections.pop(self, None)
