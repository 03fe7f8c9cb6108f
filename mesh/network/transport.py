"""The port that links stand on: dial, listen, and connections that carry whole messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from mesh.core.chunks import CHUNK_HEAD_BYTES
from mesh.core.frames import MAX_FRAME_BYTES
from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.core.tokens import CHUNK_BYTES

Buffer = bytes | bytearray | memoryview

BULK_PATH = "/bulk"
"""Path of the URL of bulk connections, which carry larger messages than links."""

JOIN_PATH = "/join"
"""Path of the URL of connections of who asks for a certificate (see :mod:`mesh.core.enrolment`)."""

BROKE = "the connection broke"
"""Why a connection has ended of which the other side said nothing."""

PATHS = ("/", BULK_PATH, JOIN_PATH)

MAX_STRANGER_BYTES = MAX_HANDSHAKE_BYTES
"""Largest message of somebody who has not proven who it is."""

HEADROOM_BYTES = 10
"""What is free in front of a message that is sent from where it is: the head of a WebSocket frame."""

MAX_BULK_MESSAGE_BYTES = CHUNK_HEAD_BYTES + CHUNK_BYTES
"""Largest message on a bulk connection: a chunk and its header."""


def max_message_bytes(path: str) -> int:
    """Largest message of a trusted peer on a connection that was dialled under ``path``."""
    return MAX_BULK_MESSAGE_BYTES if path == BULK_PATH else MAX_FRAME_BYTES


class Connection(Protocol):
    """An ordered, reliable carrier of binary messages to one other process."""

    @property
    def remote(self) -> str:
        """Where the other end is, for logs and errors."""

    @property
    def path(self) -> str:
        """The path of the URL under which it was dialled: what it is for."""

    @property
    def binding(self) -> bytes:
        """Names the channel: the hash of the TLS certificate that the listener presents and the dialler sees;
        empty where there is none."""

    def trust(self) -> None:
        """The other end has proven who it is: accept messages of full size from now on.

        Before that, a message of more than ``MAX_STRANGER_BYTES`` ends the connection. So whoever sends
        larger ones does it in answer to a message of the other end, which by then trusts it.
        """

    async def send(self, *messages: Buffer) -> None:
        """Send some messages; returns when there is room for the next (back-pressure).

        Raises:
            LinkClosed: the connection has ended.
        """

    async def send_in_place(self, message: bytearray) -> None:
        """Send what follows the first ``HEADROOM_BYTES`` of ``message``, which is given away: where that is
        possible, it is not copied. Otherwise as :meth:`send`.

        Raises:
            LinkClosed: the connection has ended.
        """

    async def receive(self) -> Buffer:
        """The next message.

        Raises:
            LinkClosed: the connection has ended; ``reason`` says how.
        """

    def reuse(self, message: Buffer) -> None:
        """Nobody looks at a received message, or at a part of it, any more: its memory may carry another.

        Messages need not be given back, and not twice.
        """

    async def close(self, reason: str = "") -> None:
        """End the connection; messages already sent may still arrive. Never raises, may be repeated."""


Accept = Callable[[Connection], Awaitable[None]]
"""Called, as a task of its own, for every connection that comes in; the connection ends with it."""


class Listener(Protocol):
    """A place where connections come in."""

    @property
    def address(self) -> str:
        """Where others can dial, e.g. ``ws://127.0.0.1:40101``; empty: not known."""

    @property
    def port(self) -> int:
        """The port, chosen or given."""

    @property
    def binding(self) -> bytes:
        """What names the channel of every connection that comes in here."""

    async def close(self) -> None:
        """Stop accepting, end every accepted connection and wait for their handlers."""


class Transport(Protocol):
    """Makes connections."""

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Accept connections at ``address`` (``host:port``; port 0: any free one).

        Raises:
            AddressInUse: somebody else listens there.
            InvalidAddress: it is not an address of this machine, or not an address at all.
        """

    def check(self, url: str) -> None:
        """Refuse a URL that can be seen, without asking anybody, never to be dialled.

        Raises:
            InvalidAddress: it is not one that this transport can dial.
            PlaintextRefused: it names another machine without TLS.
        """

    async def dial(self, url: str) -> Connection:
        """Connect to ``url`` (``ws://host:port`` or ``wss://host:port``, and one of ``PATHS`` after it).

        Raises:
            PeerUnreachable: nobody answers there.
            InvalidAddress: the URL is not one that this transport can dial.
        """
