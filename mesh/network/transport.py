"""The port that links stand on: dial, listen, and connections that carry whole messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class Connection(Protocol):
    """An ordered, reliable carrier of binary messages to one other process."""

    @property
    def remote(self) -> str:
        """Where the other end is, for logs and errors."""

    async def send(self, message: Buffer) -> None:
        """Send one message; returns when there is room for the next (back-pressure).

        Raises:
            LinkClosed: the connection has ended.
        """

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            LinkClosed: the connection has ended; ``reason`` says how.
        """

    async def close(self, reason: str = "") -> None:
        """End the connection; messages already sent may still arrive. Never raises, may be repeated."""


Accept = Callable[[Connection], Awaitable[None]]
"""Called, as a task of its own, for every connection that comes in; the connection ends with it."""


class Listener(Protocol):
    """A place where connections come in."""

    @property
    def address(self) -> str:
        """Where others can dial, e.g. ``ws://127.0.0.1:40101``."""

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

    async def dial(self, url: str) -> Connection:
        """Connect to ``url`` (``ws://host:port``).

        Raises:
            PeerUnreachable: nobody answers there.
            InvalidAddress: the URL is not one that this transport can dial.
        """
