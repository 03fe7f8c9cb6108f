"""WebSocket frames of a server, sent from where they are and received into memory that is used again. No I/O.

A chunk is read where it stays: fresh memory for every one costs more than the network. What the other end may
send is what a WebSocket server sends to this one: whole binary messages, pings, pongs and a close.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode, Opcode

STAGING_BYTES = 64 * 1024
"""What is read at once where no large message is under way."""

MAX_SPARE_BUFFERS = 8

LARGE_BYTES = 1 << 16
"""A message of so many bytes has a head of ``HEADROOM_BYTES``; one of fewer a shorter one."""

_HEAD = struct.Struct("!BBQ")
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_MAX_CONTROL_BYTES = 125
_TAKEN = (Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG)


def pack_frame_head(into: bytearray) -> None:
    """Write the head of a binary message of a server, of ``LARGE_BYTES`` at least, into the first
    ``HEADROOM_BYTES`` of ``into``, which are followed by it (RFC 6455, section 5.2)."""
    _HEAD.pack_into(into, 0, _FIN | Opcode.BINARY, _LENGTH_64, len(into) - _HEAD.size)


class Received(NamedTuple):
    """A message, or a control frame."""

    opcode: Opcode
    data: memoryview | bytes


class FrameError(ProtocolError):
    """What came is not what a server sends; ``code`` says so in a close frame."""

    def __init__(self, code: CloseCode, what: str) -> None:
        super().__init__(what)
        self.code = code


class FrameReceiver:
    """Says where the next bytes go, and makes frames of them.

    Attributes:
        max_bytes: of a message; larger ones are an error as soon as their length is known.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._staging = memoryview(bytearray(STAGING_BYTES))
        self._start = self._end = 0  # of what is staged and not used yet
        self._message: memoryview | None = None  # under way: the bytes that come next belong to it
        self._filled = 0
        self._spare: list[bytearray] = []

    def room(self) -> memoryview:
        """Where to put the next bytes; never empty."""
        if self._message is not None:
            return self._message[self._filled :]
        return self._staging[self._end :]

    def put(self, count: int) -> Iterator[Received]:
        """So many bytes were put into :meth:`room`; what they complete. To be exhausted before the next call.

        Raises:
            FrameError: nothing that follows can be understood.
        """
        if self._message is None:
            self._end += count
        else:
            self._filled += count
            if self._filled < len(self._message):
                return
            yield self._complete()
        while (frame := self._next()) is not None:
            yield frame
        rest = self._end - self._start
        if self._start:
            self._staging[:rest] = self._staging[self._start : self._end]
            self._start, self._end = 0, rest

    def reuse(self, message: memoryview) -> None:
        """Nobody looks at ``message`` any more: its memory may carry another.

        Raises:
            ValueError: it was given back before.
        """
        buffer = message.obj
        message.release()
        assert isinstance(buffer, bytearray)
        if len(buffer) == self.max_bytes > STAGING_BYTES and len(self._spare) < MAX_SPARE_BUFFERS:
            self._spare.append(buffer)

    def _complete(self) -> Received:
        message, self._message = self._message, None
        assert message is not None
        return Received(Opcode.BINARY, message)

    def _next(self) -> Received | None:
        """The next frame, as far as it is staged; ``None``: more has to come first."""
        staged = self._staging[self._start : self._end]
        if len(staged) < 2:
            return None
        opcode, size, length = _checked(staged[0], staged[1])
        if len(staged) < size:
            return None
        if size > 2:
            length = int.from_bytes(staged[2:size], "big")
        if length > self.max_bytes and opcode is Opcode.BINARY:
            raise FrameError(
                CloseCode.MESSAGE_TOO_BIG,
                f"a message of {length} bytes, but at most {self.max_bytes} are taken",
            )
        here = staged[size : size + length]
        if opcode is not Opcode.BINARY:
            if len(here) < length:
                return None
            self._start += size + length
            return Received(opcode, bytes(here))
        self._start += size + len(here)
        self._message, self._filled = self._buffer(length), len(here)
        self._message[: len(here)] = here
        return self._complete() if len(here) == length else None

    def _buffer(self, length: int) -> memoryview:
        if length <= STAGING_BYTES:
            return memoryview(bytearray(length))
        buffer = self._spare.pop() if self._spare else bytearray(self.max_bytes)
        return memoryview(buffer)[:length]


def _checked(first: int, second: int) -> tuple[Opcode, int, int]:
    """(opcode, size of the head, length if the head says it in its first two bytes)."""
    try:
        opcode = Opcode(first & _OPCODE)
    except ValueError as error:
        raise FrameError(CloseCode.PROTOCOL_ERROR, f"an unknown opcode ({first & _OPCODE})") from error
    length = second & _LENGTH
    if opcode not in _TAKEN or not first & _FIN:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "text, or a message in fragments")
    if first & _RESERVED or second & _MASKED:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bits, or a masked frame")
    if opcode is not Opcode.BINARY and length > _MAX_CONTROL_BYTES:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "a control frame that is too long")
    return opcode, {_LENGTH_16: 4, _LENGTH_64: 10}.get(length, 2), length
