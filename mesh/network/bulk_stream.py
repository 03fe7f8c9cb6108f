"""The dialler's end of a bulk connection: once the WebSocket is open, its bytes are read in place."""

from __future__ import annotations

import asyncio
from collections import deque

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import State

from mesh.core.limits import peer_log
from mesh.errors import LinkClosed
from mesh.network.bulk_frames import STAGING_BYTES, FrameError, FrameReceiver
from mesh.network.transport import (
    BULK_PATH,
    HEADROOM_BYTES,
    MAX_BULK_MESSAGE_BYTES,
    MAX_STRANGER_BYTES,
    Buffer,
)

CLOSE_SECONDS = 2.0

QUEUED_MESSAGES = 4
"""Messages that nobody has asked for yet; while there are so many, nothing more is read."""

QUEUED_SMALL_MESSAGES = 256
"""The same where together they have less than ``STAGING_BYTES``."""

_END_OF_HEAD = b"\r\n\r\n"
_MAX_CLOSE_REASON_BYTES = 123  # what a WebSocket close frame has room for

log = peer_log(__name__)


class OpeningConnection(ClientConnection):
    """Opens the WebSocket, and takes nothing that follows the response.

    Attributes:
        early: what followed it already.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.early = b""
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self.state is State.CONNECTING:
            before, self._head = len(self._head), self._head + data
            end = self._head.find(_END_OF_HEAD)
            cut = len(data) if end < 0 else end + len(_END_OF_HEAD) - before
            super().data_received(data[:cut])
            data = data[cut:]
        if self.state is State.OPEN:
            self.early += data
        elif data:
            super().data_received(data)  # of a response that says no


class BulkConnection(asyncio.BufferedProtocol):
    """See :class:`mesh.network.transport.Connection`."""

    path = BULK_PATH

    def __init__(self, opened: OpeningConnection, remote: str, binding: bytes) -> None:
        """Take over a connection that was just opened."""
        self.remote = remote
        self.binding = binding
        self._transport = opened.transport
        self._frames = FrameReceiver(MAX_STRANGER_BYTES)
        self._messages: deque[Buffer] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._filled = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._ended = asyncio.Event()
        self._why: str | None = None  # it is closing, or closed
        self._paused = False
        self._transport.set_protocol(self)
        early = memoryview(opened.early)
        while len(early) and self._why is None:
            room = self._frames.room()
            count = min(len(room), len(early))
            room[:count], early = early[:count], early[count:]
            self.buffer_updated(count)
        if self._transport.is_closing():
            self.connection_lost(None)  # before there was anybody to be told

    def trust(self) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        self._frames.max_bytes = MAX_BULK_MESSAGE_BYTES

    async def send(self, *messages: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        for message in messages:
            if self._why is None:
                self._write(Opcode.BINARY, message)
                await self._may_write.wait()
        if self._why is not None:
            raise LinkClosed(self._why)

    async def send_in_place(self, message: bytearray) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        await self.send(memoryview(message)[HEADROOM_BYTES:])  # masking copies it

    async def receive(self) -> Buffer:
        """See :class:`mesh.network.transport.Connection`."""
        while not self._messages:
            if self._why is not None:
                raise LinkClosed(self._why)
            self._filled.clear()
            await self._filled.wait()
        message = self._messages.popleft()
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return message

    def reuse(self, message: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        if isinstance(message, memoryview):
            self._frames.reuse(message)

    async def close(self, reason: str = "") -> None:
        """See :class:`mesh.network.transport.Connection`."""
        if self._why is None:
            short = reason.encode()[:_MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
            self._write(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, short).serialize())
            self._end(reason or "closed by this side")
            self._messages.clear()
            if self._paused:  # what comes now is not kept
                self._paused = False
                self._transport.resume_reading()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            log.debug("%s did not answer the closing handshake", self.remote)
        finally:
            self._transport.abort()

    # --- what the transport calls -----------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """See :class:`asyncio.BufferedProtocol`."""
        return self._frames.room()

    def buffer_updated(self, nbytes: int) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        try:
            for opcode, data in self._frames.put(nbytes):
                if opcode is Opcode.PING:
                    # Who takes nothing, gets no answers: they would pile up.
                    if self._why is None and self._may_write.is_set():
                        self._write(Opcode.PONG, data)
                elif opcode is Opcode.CLOSE:
                    self._closed_by_peer(bytes(data))
                elif opcode is Opcode.BINARY and self._why is None:
                    self._messages.append(data)
                    self._filled.set()
        except FrameError as error:
            self._fail(error.code, str(error))
        if self._has_enough() and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _has_enough(self) -> bool:
        small = len(self._messages) < QUEUED_SMALL_MESSAGES and sum(map(len, self._messages)) < STAGING_BYTES
        return len(self._messages) >= QUEUED_MESSAGES and not small

    def eof_received(self) -> None:
        """See :class:`asyncio.BufferedProtocol`."""

    def pause_writing(self) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._end(f"the connection broke ({exc})" if isinstance(exc, OSError) else "the connection broke")
        self._ended.set()

    # --- closing ------------------------------------------------------------------------------------

    def _closed_by_peer(self, payload: bytes) -> None:
        try:
            reason = Close.parse(payload).reason
        except (ProtocolError, UnicodeDecodeError):
            self._fail(CloseCode.PROTOCOL_ERROR, "a malformed close frame")
            return
        if self._why is None:
            self._write(Opcode.CLOSE, payload)
            self._end(reason or "the other side closed it")
        self._flush()
        self._transport.close()

    def _fail(self, code: CloseCode, why: str) -> None:
        log.warning("closing a bulk connection with %s: %s", self.remote, why)
        if self._why is None:
            self._write(Opcode.CLOSE, Close(code, why).serialize())
            self._end(why)
        self._flush()
        self._transport.close()

    def _end(self, why: str) -> None:
        if self._why is None:
            self._why = why
        self._filled.set()
        self._may_write.set()

    def _write(self, opcode: Opcode, data: Buffer) -> None:
        """Send a frame; small ones that are sent in one turn of the event loop go together."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame := Frame(opcode, data).serialize(mask=True))
        self._unsent_bytes += len(frame)
        if self._unsent_bytes >= STAGING_BYTES:
            self._flush()

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if unsent:  # together, but not by `writelines`, which until Python 3.13.1 holds up nobody
            self._transport.write(b"".join(unsent))
