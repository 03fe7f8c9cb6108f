"""What a listener, and who dials, keep for the other end of a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.core.limits import greediest
from mesh.network import sockets
from mesh.network.sockets import Incoming
from mesh.network.tls import Tls, make_certificate
from mesh.network.transport import Connection
from mesh.network.websocket import WebSocketConnection, WebSocketListener, WebSocketTransport

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TINY = Frame(Opcode.BINARY, b"x").serialize(mask=True)
PING = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
MANY = 40_000
PINGED_BYTES = 4_000_000

Stranger = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Listening:
    """A listener that takes nothing from anybody, and what has come in there."""

    def __init__(self, tls: Tls | None) -> None:
        self.transport = WebSocketTransport(tls)
        self._tls = tls
        self.came: asyncio.Queue[WebSocketConnection] = asyncio.Queue()
        self._over = asyncio.Event()

    async def accept(self, connection: Connection) -> None:
        assert isinstance(connection, WebSocketConnection)
        self.came.put_nowait(connection)
        await self._over.wait()

    async def __aenter__(self) -> Listening:
        self.listener: WebSocketListener = await self.transport.listen("127.0.0.1:0", self.accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in list(self.listener._entrance.sockets):
            socket.transport.abort()
        self._over.set()
        await self.listener.close()

    async def stranger(self) -> tuple[Stranger, Incoming]:
        """A raw connection, and this end of it."""
        client = self._tls.client if self._tls else None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port, ssl=client)
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        socket = (await self.came.get())._socket
        assert isinstance(socket, Incoming)
        return (reader, writer), socket


@pytest.fixture(params=["plain", "tls"])
async def listening(request: Any, tmp_path: Path) -> AsyncIterator[Listening]:
    certificate = tmp_path / "tls.pem"
    certificate.write_bytes(make_certificate())
    async with Listening(Tls(certificate) if request.param == "tls" else None) as made:
        yield made


async def until_stuck(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send until the other end takes nothing more."""
    try:
        async with asyncio.timeout(0.3):
            while True:
                writer.write(data)
                await writer.drain()
    except (TimeoutError, ConnectionError):
        pass


async def test_a_stranger_who_sends_fills_little(listening: Listening) -> None:
    (_, writer), socket = await listening.stranger()
    await until_stuck(writer, TINY * MANY)
    assert len(socket.recv_messages.frames) <= 1000
    assert socket._fed <= MAX_HANDSHAKE_BYTES * 2
    assert len(socket._held) <= 256 * 1024, "what asyncio reads at once where there is TLS"
    writer.transport.abort()


async def test_what_a_stranger_has_sent_arrives_when_it_is_trusted(listening: Listening) -> None:
    (_, writer), socket = await listening.stranger()
    writer.write(TINY * MANY)
    assert await socket.recv(decode=False) == b"x"
    socket.trust(1 << 20)
    for _ in range(MANY - 1):
        assert await socket.recv(decode=False) == b"x"
    writer.transport.abort()


@pytest.mark.limit("network.sockets.MAX_ENTRANCE_BYTES")
async def test_strangers_together_have_a_bound(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_ENTRANCE_BYTES", 60 * 1024)
    (_, quiet), kept = await listening.stranger()
    greedy = [await listening.stranger() for _ in range(5)]
    for (_, writer), _ in greedy:
        await until_stuck(writer, TINY * 10_000)
    assert not kept.transport.is_closing()
    assert listening.listener._entrance._total <= 60 * 1024
    assert any(socket.transport.is_closing() for _, socket in greedy)
    for writer in [quiet, *(writer for (_, writer), _ in greedy)]:
        writer.transport.abort()


@pytest.mark.limit("network.sockets.MAX_REQUEST_BYTES")
async def test_a_request_that_is_large_is_none(listening: Listening) -> None:
    client = listening._tls.client if listening._tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.listener.port, ssl=client)
    writer.write(REQUEST[:-2] + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 4000) for n in range(8)))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


def narrow(transport: asyncio.BaseTransport) -> None:
    """The kernel keeps little for this end."""
    for option in (SO_RCVBUF, SO_SNDBUF):
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, option, 64 * 1024)


@pytest.mark.parametrize("trusted", [True, False])
async def test_answers_to_pings_do_not_pile_up(listening: Listening, trusted: bool) -> None:
    (_, writer), socket = await listening.stranger()
    if trusted:
        socket.trust(1 << 20)
    assert isinstance(writer.transport, asyncio.Transport)
    writer.transport.pause_reading()
    for transport in (writer.transport, socket.transport):
        narrow(transport)
    if trusted:
        for _ in range(PINGED_BYTES // len(PING * 100)):
            writer.write(PING * 100)
            await writer.drain()
    else:
        await until_stuck(writer, PING * 100)
    assert socket.transport.get_write_buffer_size() < PINGED_BYTES / 4
    writer.transport.abort()


@asynccontextmanager
async def server_of_pings() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Pings and never reads."""
    done = asyncio.Event()

    async def ping(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        narrow(socket.transport)
        for _ in range(PINGED_BYTES // len(PING * 100)):
            socket.transport.write(Frame(Opcode.PING, b"x" * 125).serialize(mask=False) * 100)
            await socket.drain()
        done.set()
        await socket.wait_closed()

    async with serve(ping, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", done


async def test_answers_to_the_pings_of_who_was_dialled_do_not_pile_up() -> None:
    async with server_of_pings() as (url, done), asyncio.timeout(30):
        connection = await WebSocketTransport().dial(url)
        assert isinstance(connection, WebSocketConnection)
        narrow(connection._socket.transport)
        await done.wait()
        assert connection._socket.transport.get_write_buffer_size() < PINGED_BYTES / 4
        connection._socket.transport.abort()


def test_who_is_greedy_goes_first() -> None:
    assert greediest({"a": ("x", 10), "b": ("y", 6), "c": ("y", 5), "d": ("z", 1)}) == "b"
