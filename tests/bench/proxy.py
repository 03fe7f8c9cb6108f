"""A TCP proxy on loopback that counts bytes and trips and adds delay: what a sync costs on the wire, without
looking into it.

What a side sends may be an answer to anything that was delivered to it before. So it is one trip further than
the furthest of that, and the trips of a sync are how far it got. The delay keeps apart what does not depend
on each other, as a real network does: where it is longer than either side thinks, the number does not depend
on that.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from urllib.parse import urlsplit

from tests.bench.processes import run


class Proxy:
    """Passes connections on to one address."""

    def __init__(self) -> None:
        self._moved = 0
        self._delivered: list[tuple[float, int]] = []
        self._delay = 0.0
        self._target = ("", 0)
        self._server: asyncio.Server | None = None

    async def start(self, url: str, delay: float) -> str:
        """Stand before ``url``; the address to dial instead.

        Args:
            delay: seconds that everything takes, each way.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._delay = delay
        self._server = await asyncio.get_running_loop().create_server(lambda: _End(self), "127.0.0.1", 0)
        return f"{parts.scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{parts.path}"

    async def moved(self) -> int:
        """How many bytes have passed so far, in both directions."""
        return self._moved

    async def round_trips(self, since: float, until: float) -> float:
        """How many there were between two moments of ``time.monotonic()``."""

        def furthest(moment: float) -> int:
            return max((trip for at, trip in self._delivered if at <= moment), default=0)

        return (furthest(until) - furthest(since)) / 2

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def connect(self, end: _End) -> None:
        """Find the other end of a connection that somebody made."""
        other = _End(self, other=end)
        await asyncio.get_running_loop().create_connection(lambda: other, *self._target)
        end.join(other)

    def pass_on(self, data: bytes, trip: int, end: _End) -> None:
        """Deliver what has arrived, when it is due."""
        self._moved += len(data)
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._deliver, data, trip, end)
        else:
            self._deliver(data, trip, end)

    def _deliver(self, data: bytes, trip: int, end: _End) -> None:
        self._delivered.append((time.monotonic(), trip))
        end.write(data, trip)


class _End(asyncio.Protocol):
    """One side of a connection that is passed on. Timers of equal delay fire in the order they were set."""

    def __init__(self, proxy: Proxy, other: _End | None = None) -> None:
        self._proxy = proxy
        self._other = other
        self._early: deque[bytes] = deque()
        self._furthest = 0
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._other is None:
            self._connecting = asyncio.get_running_loop().create_task(self._proxy.connect(self))

    def join(self, other: _End) -> None:
        """The other end is there."""
        self._other = other
        while self._early:
            self._proxy.pass_on(self._early.popleft(), 1, other)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._proxy.pass_on(data, self._furthest + 1, self._other)

    def write(self, data: bytes, trip: int) -> None:
        """Send, unless the connection has ended."""
        self._furthest = max(self._furthest, trip)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()


if __name__ == "__main__":
    run(Proxy())
