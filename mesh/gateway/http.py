"""HTTP as uvicorn speaks it, but for what it says of a request that it cannot read, and for how long it waits
for one."""

from __future__ import annotations

import asyncio

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from mesh.control.protocol import ErrorBody
from mesh.gateway import outgoing
from mesh.gateway.answers import HEADERS, JSON, ErrorAnswer
from mesh.gateway.outgoing import Patient

MAX_HEAD_BYTES = 64 * 1024
"""Of a request: its line, which the query is part of, and its headers."""

HEAD_SECONDS = 10.0
"""For which a connection may be without a request, or with the beginning of one."""

MAX_CONNECTIONS = 1024
"""Of one gateway, WebSockets included; a newcomer drives out who has been without a request for longest."""

LINGER_SECONDS = 2.0
"""How long the rest of a request that was refused is taken, so that its sender gets to read why."""

_TEXT = (
    f"this is no HTTP request, or its line and headers are over {MAX_HEAD_BYTES} bytes: a large selector "
    "goes into the body of POST /api/collections/NAME/query"
)


class Http(Patient, H11Protocol):
    """One connection."""

    _refused = False
    _waiting_for: object = None  # whose timer runs: a request, or the rest of one
    _timer: asyncio.TimerHandle | None = None
    _due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._wait_for(None, 0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of what was refused they go nowhere."""
        if not self._refused:
            super().data_received(data)
            self._wait()

    def on_response_complete(self) -> None:
        """The next request may come."""
        super().on_response_complete()
        self._wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """It is none of HTTP any more."""
        self._wait_for(None, 0)
        self._refused = True
        super().handle_websocket_upgrade(event)

    def _wait(self) -> None:
        """Have who is to send something send it."""
        state = self.conn.their_state
        if self._refused or state not in (h11.IDLE, h11.SEND_BODY):
            self._wait_for(None, 0)
        elif state is h11.SEND_BODY or self._waiting_for is not state:
            self._wait_for(state, HEAD_SECONDS if state is h11.IDLE else outgoing.STALL_SECONDS)

    def _wait_for(self, what: object, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._waiting_for, self._due = what, self.loop.time() + seconds
        self._timer = None if what is None else self.loop.call_later(seconds, self._waited_for)

    def _waited_for(self) -> None:
        if self.flow.read_paused:  # it is this side that does not read
            self._wait_for(self._waiting_for, outgoing.STALL_SECONDS)
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        idle = (one for one in self.connections if isinstance(one, Http) and one._waiting_for is h11.IDLE)
        min(idle, key=lambda one: one._due).transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Say why, and close once that has been read: who is still sending would see a reset instead."""
        self._refused = True
        body = msgspec.json.encode(ErrorAnswer(ErrorBody("BadRequest", _TEXT)))
        headers = {**HEADERS, "content-type": JSON, "content-length": str(len(body)), "connection": "close"}
        for event in (
            h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
