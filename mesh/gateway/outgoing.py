"""What is on its way to clients: little of it for each, and bounded for all, however slowly they read."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh.core.limits import peer_log
from mesh.gateway.answers import Part

log = peer_log(__name__)

SLICE_BYTES = 64 << 10
"""What a connection is given at once."""

STALL_SECONDS = 30.0
"""Who does not take as much for so long is cut off."""

MAX_WAITING_BYTES = 64 << 20
"""Answers and events that wait for all clients of one gateway; what several are sent counts once. Beyond, who
has taken nothing for longest is cut off."""

_TOO_MUCH = "%s is cut off: it is slow, and too much waits for all clients"

Client = tuple[str, int]
"""The other end of a connection."""


class _Waiting(NamedTuple):
    client: Client
    body: Part


class Outgoing:
    """Sends what is large in slices.

    Args:
        app: the application.
        cut_off: ends a connection at once, whatever it has not taken.
    """

    def __init__(self, app: ASGIApp, cut_off: Callable[[Client], None]) -> None:
        self._app = app
        self._cut_off = cut_off
        self._waiting: OrderedDict[object, _Waiting] = OrderedDict()  # who took something last is the last
        self._shared: Counter[int] = Counter()
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sliced(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) <= SLICE_BYTES:
                await send(message)
                return
            with self._held(_Waiting(scope["client"], body)) as sending:
                for start in range(0, len(body), SLICE_BYTES):
                    end = start + SLICE_BYTES
                    more = end < len(body) or message.get("more_body", False)
                    await send({**message, "body": memoryview(body)[start:end], "more_body": more})
                    if sending in self._waiting:
                        self._waiting.move_to_end(sending)

        await self._app(scope, receive, sliced if scope["type"] == "http" else send)

    @contextmanager
    def _held(self, waiting: _Waiting) -> Iterator[object]:
        sending = object()
        self._waiting[sending] = waiting
        self._shared[id(waiting.body)] += 1
        if self._shared[id(waiting.body)] == 1:
            self._bytes += len(waiting.body)
        while self._bytes > MAX_WAITING_BYTES and len(self._waiting) > 1:
            slowest = next(iter(self._waiting))
            client = self._waiting[slowest].client
            log.warning(_TOO_MUCH, _named(client))
            self._drop(slowest)
            self._cut_off(client)
        try:
            yield sending
        finally:
            self._drop(sending)

    def _drop(self, sending: object) -> None:
        waiting = self._waiting.pop(sending, None)
        if waiting is not None:
            self._shared[id(waiting.body)] -= 1
            if not self._shared[id(waiting.body)]:
                del self._shared[id(waiting.body)]
                self._bytes -= len(waiting.body)


class Patient(asyncio.Protocol):
    """A connection that is cut off if it takes nothing while something waits for it."""

    connections: set[Any]
    transport: asyncio.Transport
    _cutting: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """It is full."""
        super().pause_writing()
        self._cutting = asyncio.get_running_loop().call_later(STALL_SECONDS, self._waited)
        if self.transport.get_write_buffer_size() > 4 * SLICE_BYTES:  # a WebSocket: its messages are whole
            self._make_room()

    def resume_writing(self) -> None:
        """It takes something."""
        self._wait_no_more()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait_no_more(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None

    def _waited(self) -> None:
        log.warning(
            "%s is cut off: it has taken nothing for %g s", _named(client_of(self.transport)), STALL_SECONDS
        )
        self.transport.abort()

    def _make_room(self) -> None:
        full = [(one._cutting.when(), one.transport) for one in self.connections if one._cutting is not None]
        if sum(transport.get_write_buffer_size() for _, transport in full) > MAX_WAITING_BYTES:
            _, slowest = min(full, key=lambda one: one[0])
            log.warning(_TOO_MUCH, _named(client_of(slowest)))
            slowest.abort()


def client_of(transport: asyncio.Transport) -> Client:
    """Who is at the other end."""
    host, port = (transport.get_extra_info("peername") or ("a client that is gone", 0))[:2]
    return host, port


def _named(client: Client) -> str:
    return f"{client[0]}:{client[1]}"
