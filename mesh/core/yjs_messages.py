"""The messages of y-websocket, as bytes: what an unmodified Yjs client says and hears.

A message is a number that says what it is about, and what that needs. Numbers and lengths take seven bits a
byte, the lowest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.core.items import number
from mesh.errors import ProtocolViolation

SYNC, AWARENESS, AUTH, QUERY_AWARENESS = range(4)
"""What a message is about. Of authorisation nothing is said in this way here."""

STEP_1, STEP_2, UPDATE = range(3)
"""Of sync: a state vector, which asks for what is lacking; that; a change."""

MAX_NUMBER_BYTES = 8


class Message(NamedTuple):
    """One message. ``step`` matters for sync only."""

    about: int
    step: int
    payload: bytes


class Awareness(NamedTuple):
    """What one client says of itself to whoever looks at the same document: JSON; ``null``: it is gone."""

    client: int
    clock: int
    state: str


def encode_sync(step: int, payload: bytes) -> bytes:
    """A sync message."""
    return bytes((SYNC, step)) + number(len(payload)) + payload


def encode_awareness(told: Iterable[Awareness]) -> bytes:
    """A message that tells of the awareness of some clients."""
    parts = []
    for client, clock, state in told:
        text = state.encode()
        parts += [number(client), number(clock), number(len(text)), text]
    payload = number(len(parts) // 4) + b"".join(parts)
    return bytes((AWARENESS,)) + number(len(payload)) + payload


def encode_state_vector(clocks: Mapping[int, int]) -> bytes:
    """A Yjs state vector."""
    return number(len(clocks)) + b"".join(number(client) + number(clock) for client, clock in clocks.items())


def decode_message(data: bytes) -> Message:
    """One message; one that is about something unknown is given without its payload.

    Raises:
        ProtocolViolation: it is malformed.
    """
    reader = _Reader(data)
    about, step, payload = reader.number(), 0, b""
    if about == SYNC:
        step = reader.number()
        if step > UPDATE:
            raise ProtocolViolation(f"a sync message of an unknown kind: {step}")
    if about in (SYNC, AWARENESS):
        payload = reader.bytes()
        reader.end()
    return Message(about, step, payload)


def decode_awareness(payload: bytes) -> list[Awareness]:
    """What the payload of an awareness message tells.

    Raises:
        ProtocolViolation: it is malformed.
    """
    reader = _Reader(payload)
    count = reader.number()
    if count > len(payload):
        raise ProtocolViolation("an awareness message counts more than it holds")
    try:
        told = [Awareness(reader.number(), reader.number(), reader.bytes().decode()) for _ in range(count)]
    except UnicodeDecodeError:
        raise ProtocolViolation("an awareness message with a text that is not UTF-8") from None
    reader.end()
    return told


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        found = 0
        for place in range(MAX_NUMBER_BYTES):
            if self._at >= len(self._data):
                raise ProtocolViolation("a message that is cut short")
            byte = self._data[self._at]
            self._at += 1
            found |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if place and not byte:
                    raise ProtocolViolation("a number in a message is longer than it has to be")
                return found
        raise ProtocolViolation("a number in a message is too long")

    def bytes(self) -> bytes:
        size = self.number()
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ProtocolViolation("a message that is cut short")
        return self._data[start : self._at]

    def end(self) -> None:
        if self._at < len(self._data):
            raise ProtocolViolation("something follows a message")
