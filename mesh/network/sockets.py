"""WebSockets that keep little for the other end: of what a stranger sends, and for who does not read."""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.core.limits import crowder, greediest, origin_of, peer_log
from mesh.network.addresses import Endpoint
from mesh.network.bulk_frames import pack_frame_head
from mesh.network.transport import MAX_BULK_MESSAGE_BYTES

OPEN_SECONDS = 10.0

MAX_OPENING = 256
"""Incoming connections that may be no WebSockets yet; one more drives out another (see ``crowder``)."""

MAX_REQUEST_BYTES = 16 * 1024
"""What is taken in before a connection is a WebSocket."""

MAX_ENTRANCE_BYTES = 16 << 20
"""What all incoming connections together may have sent before they are trusted; one more drives out another
(see ``greediest``)."""

QUEUED_MESSAGES = 8
_QUEUED_OF_STRANGER = 1
_TOGETHER_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024
_SLICE_BYTES = 2048  # of what a stranger sends: the frames in it may be tiny, and each takes a hundred bytes
_MAX_FED_BYTES = 2 * MAX_HANDSHAKE_BYTES  # more than it may be, so that it is seen to be too much
_PONG = b"\x8a"

log = peer_log("mesh.network.websocket")


class _Sparing(Connection):
    """Sends in as few calls of the system as it can: one for what is sent at once. And sends no answers to
    the pings of who does not read them: they would pile up."""

    def send_data(self) -> None:
        writes = self.protocol.writes
        if self.paused:
            writes = [data for data in writes if data[:1] != _PONG]
        if len(writes) > 1 and b"" not in writes:  # which ends it
            writes = [b"".join(writes)]
        self.protocol.writes = writes
        super().send_data()


class Dialled(_Sparing, ClientConnection):
    """What this node has dialled for a link."""


class Entrance:
    """All connections that have come in at one place.

    Attributes:
        sockets: those that are, or may become, WebSockets.
        encrypting: those on which TLS is begun.
        opening: those that are no WebSockets yet.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self.sockets: set[Incoming] = set()
        self.encrypting: dict[asyncio.Task[None], asyncio.Transport] = {}
        self.opening: dict[asyncio.BaseProtocol, asyncio.Transport] = {}
        self._taken: dict[Incoming, int] = {}
        self._total = 0

    def came(self, connection: Incoming, transport: asyncio.Transport) -> None:
        """Somebody has connected."""
        self.opening[connection] = transport
        if len(self.opening) > MAX_OPENING:
            leaving = crowder({p: origin_of(address(t)) for p, t in self.opening.items()})
            self.opening.pop(leaving).abort()

    def took(self, connection: Incoming, size: int) -> int:
        """A stranger has sent so many bytes more; how many in all."""
        self._taken[connection] = taken = self._taken.get(connection, 0) + size
        self._total += size
        if self._total > MAX_ENTRANCE_BYTES:
            sizes = {c: (origin_of(address(c.transport)), taken) for c, taken in self._taken.items()}
            leaving = greediest(sizes)
            log.info("closing %s: strangers send too much", address(leaving.transport))
            self.forget(leaving)
            leaving.transport.abort()
        return taken

    def forget(self, connection: Incoming) -> None:
        """It is trusted, or gone."""
        self._total -= self._taken.pop(connection, 0)


class Incoming(_Sparing, ServerConnection):
    """Known from its first byte on: a WebSocket, once it is one, may be closed in good order, and what has
    not become one can be dropped.

    TLS is begun here, as asyncio's own server does not tell of a connection before it is encrypted. Until it
    is trusted, what is sent on it is taken in little by little.
    """

    entrance: Entrance
    """Set by a subclass for each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._held = b""
        self._fed = 0
        self._trusted = False
        self._is_bulk = self._sends_soon = False
        entrance = self.entrance
        entrance.came(self, transport)
        if entrance.tls is None:
            self._begin(transport)
        else:
            task = asyncio.get_running_loop().create_task(self._encrypt(transport, entrance.tls))
            entrance.encrypting[task] = transport
            task.add_done_callback(entrance.encrypting.pop)

    async def _encrypt(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        remote = address(transport)
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=OPEN_SECONDS
            )
        except OSError:
            self.entrance.opening.pop(self, None)
            log.info("refused %s: it speaks no TLS 1.3", remote)
        else:
            if encrypted is not None and not encrypted.is_closing():
                self._begin(encrypted)

    def _begin(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.high, self.recv_messages.low = _QUEUED_OF_STRANGER, 0
        self.recv_messages.resume = self._feed
        read_little(transport)
        self.entrance.sockets.add(self)
        early, self._held = self._held, b""  # it came with the end of the TLS handshake
        self.data_received(early)

    def send_data(self) -> None:
        """On a bulk connection small frames that are sent in one turn of the event loop go together."""
        writes = self.protocol.writes
        ends = b"" in writes
        if not self._is_bulk or self.paused or ends or sum(map(len, writes)) >= _TOGETHER_BYTES:
            super().send_data()
        elif not self._sends_soon:
            self._sends_soon = True
            self.loop.call_soon(self._send_together)

    def _send_together(self) -> None:
        self._sends_soon = False
        super().send_data()

    def send_in_place(self, message: bytearray) -> None:
        """Send a large message, with its head in its first ``HEADROOM_BYTES``, after what was sent before."""
        self._send_together()
        pack_frame_head(message)
        self.transport.write(message)

    def trust(self, max_message_bytes: int) -> None:
        """The other end has proven who it is."""
        self._trusted = True
        self._is_bulk = max_message_bytes == MAX_BULK_MESSAGE_BYTES
        self.entrance.forget(self)
        self.protocol.max_message_size = max_message_bytes
        self.recv_messages.high, self.recv_messages.low = QUEUED_MESSAGES, QUEUED_MESSAGES // 4
        self.recv_messages.resume = self.transport.resume_reading
        held, self._held = self._held, b""
        if held:
            super().data_received(held)
        self.recv_messages.maybe_resume()
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._trusted:
            super().data_received(data)
            return
        self._held += data
        if self not in self.entrance.sockets:
            return
        taken = self.entrance.took(self, len(data))
        if self.state is State.CONNECTING and taken > MAX_REQUEST_BYTES:
            self.transport.abort()
        else:
            self._feed()

    def _feed(self) -> None:
        """Take in what a stranger has sent, as far as there is room."""
        while self._held and not self.recv_messages.paused:
            if self._fed >= _MAX_FED_BYTES and self.state is not State.CLOSING:
                break  # while it is closing, its end has to be seen
            data, self._held = self._held[:_SLICE_BYTES], self._held[_SLICE_BYTES:]
            self._fed += len(data)
            super().data_received(data)
        if self._held:
            self.transport.pause_reading()
        elif not self.recv_messages.paused:
            self.transport.resume_reading()

    def eof_received(self) -> None:
        if self in self.entrance.sockets:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        entrance = self.entrance
        entrance.opening.pop(self, None)
        entrance.forget(self)
        if self not in entrance.sockets:
            return
        super().connection_lost(exc)
        entrance.sockets.discard(self)
        if self.response is None or self.response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            log.info("refused %s: it did not ask for a WebSocket of the mesh", address(self.transport))


def read_little(transport: asyncio.BaseTransport) -> None:
    """Have asyncio hand over little at once: everything else waits until all the frames in it are parsed, and
    they may be tiny."""
    if hasattr(transport, "max_size"):
        transport.max_size = _READ_BYTES


def address(transport: asyncio.BaseTransport) -> str:
    """Where the other end is."""
    peer = transport.get_extra_info("peername")
    return Endpoint(*peer[:2]).url.removeprefix("ws://") if peer else "a closed socket"
