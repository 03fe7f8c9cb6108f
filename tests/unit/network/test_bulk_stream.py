"""The dialler's end of bulk connections against servers of websockets, over plain sockets and over TLS."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from mesh.errors import LinkClosed
from mesh.network import bulk_stream
from mesh.network.bulk_stream import QUEUED_MESSAGES, BulkConnection, OpeningConnection
from mesh.network.transport import MAX_BULK_MESSAGE_BYTES, MAX_STRANGER_BYTES
from mesh.network.websocket import WebSocketTransport

Serving = Callable[[ServerConnection], Awaitable[None]]
CHUNK = bytes(range(256)) * (MAX_BULK_MESSAGE_BYTES // 256) + bytes(16)


@pytest.fixture(params=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> ssl.SSLContext | None:
    return certified(tmp_path / "server.pem") if request.param == "TLS" else None


def certified(path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "holder")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@asynccontextmanager
async def connected(handle: Serving, tls: ssl.SSLContext | None = None) -> AsyncIterator[BulkConnection]:
    client_tls = None
    if tls is not None:
        client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client_tls.check_hostname, client_tls.verify_mode = False, ssl.CERT_NONE
    async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        opened = await connect(
            f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}",
            compression=None,
            proxy=None,
            ping_interval=None,
            ssl=client_tls,
            create_connection=OpeningConnection,
        )
        assert isinstance(opened, OpeningConnection)
        connection = BulkConnection(opened, "the server", b"")
        try:
            yield connection
        finally:
            await connection.close()


async def test_chunks_both_ways_and_memory_given_back(tls: ssl.SSLContext | None) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with connected(echo, tls) as connection:
        connection.trust()
        buffers = set()
        for number in range(20):
            sent = CHUNK[number:] if number % 2 else CHUNK[: number * 5]
            await connection.send(sent)
            received = await connection.receive()
            assert received == sent
            if len(received) > 1000:
                assert isinstance(received, memoryview)
                buffers.add(id(received.obj))
            connection.reuse(received)
        assert len(buffers) == 1


async def test_what_comes_with_the_response_is_not_lost(tls: ssl.SSLContext | None) -> None:
    async def greet(socket: ServerConnection) -> None:
        await socket.send(b"welcome")
        await socket.send(b"again")
        await socket.wait_closed()

    async with connected(greet, tls) as connection:
        assert [bytes(await connection.receive()) for _ in range(2)] == [b"welcome", b"again"]


async def test_a_ping_is_answered() -> None:
    answered = asyncio.Event()

    async def ping(socket: ServerConnection) -> None:
        await (await socket.ping(b"are you there"))
        answered.set()
        await socket.wait_closed()

    async with connected(ping), asyncio.timeout(5):
        await answered.wait()


async def test_answers_to_pings_do_not_pile_up() -> None:
    answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def ping(socket: ServerConnection) -> None:
        await socket.recv()
        pong = asyncio.ensure_future(await socket.ping())
        await socket.send(b"pinged")
        await socket.recv()
        answered.set_result(pong.done())

    async with connected(ping) as connection, asyncio.timeout(5):
        await connection.send(b"begin")
        connection.pause_writing()
        await connection.receive()
        connection.resume_writing()
        await connection.send(b"now")
        assert not await answered


async def test_closing_by_the_server_says_why_after_what_was_sent(tls: ssl.SSLContext | None) -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.send(b"last")
        await socket.close(reason="enough")
        assert socket.close_code == 1000

    async with connected(close, tls) as connection:
        assert bytes(await connection.receive()) == b"last"
        with pytest.raises(LinkClosed, match="enough"):
            await connection.receive()
        with pytest.raises(LinkClosed, match="enough"):
            await connection.send(b"too late")


async def test_closing_here_is_told_to_the_server_even_while_much_is_unread(
    tls: ssl.SSLContext | None,
) -> None:
    closed: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

    async def flood(socket: ServerConnection) -> None:
        await socket.recv()
        try:
            while True:
                await socket.send(CHUNK)
        except ConnectionClosed as error:
            closed.set_result(error)

    async with connected(flood, tls) as connection, asyncio.timeout(10):
        connection.trust()
        await connection.send(b"go")
        await connection.receive()
        await connection.close("no more")
        with pytest.raises(LinkClosed, match="no more"):
            await connection.receive()
        received = (await closed).rcvd
        assert received is not None
        assert (received.code, received.reason) == (1000, "no more")


async def test_a_server_waits_while_nobody_receives() -> None:
    sent = 0
    full = asyncio.Event()

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        await socket.recv()
        try:
            while True:
                async with asyncio.timeout(0.3):
                    await socket.send(CHUNK)
                sent += 1
        except TimeoutError:
            full.set()
            await socket.wait_closed()

    async with connected(flood) as connection:
        connection.trust()
        await connection.send(b"go")
        async with asyncio.timeout(10):
            await full.wait()
        assert len(connection._messages) == QUEUED_MESSAGES
        assert sent < 40  # what the sockets of this machine hold
        for _ in range(sent):
            connection.reuse(await connection.receive())


@pytest.mark.parametrize("size", [MAX_STRANGER_BYTES + 1, MAX_BULK_MESSAGE_BYTES + 1])
async def test_too_large_a_message_ends_it(size: int) -> None:
    code: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def send(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(bytes(size))
        await socket.wait_closed()
        code.set_result(socket.close_code)

    async with connected(send) as connection:
        if size > MAX_BULK_MESSAGE_BYTES:
            connection.trust()
        await connection.send(b"go")
        with pytest.raises(LinkClosed, match="at most"):
            await connection.receive()
        assert await code == 1009


async def test_fragments_end_it() -> None:
    async def send(socket: ServerConnection) -> None:
        await socket.send([b"in ", b"parts"])
        await socket.wait_closed()

    async with connected(send) as connection:
        with pytest.raises(LinkClosed, match="fragments"):
            await connection.receive()


async def test_a_connection_that_breaks_says_so(tls: ssl.SSLContext | None) -> None:
    async def abort(socket: ServerConnection) -> None:
        await socket.send(b"hello")
        await socket.recv()
        socket.transport.abort()

    async with connected(abort, tls) as connection:
        await connection.receive()
        await connection.send(b"go")
        with pytest.raises(LinkClosed, match="broke"):
            await connection.receive()


async def test_closing_does_not_wait_for_long_for_a_server_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk_stream, "CLOSE_SECONDS", 0.1)
    ending = asyncio.Event()

    async def hang(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await ending.wait()
        socket.transport.abort()

    async with connected(hang) as connection, asyncio.timeout(5):
        await connection.close()
        ending.set()


async def test_a_response_that_says_no_is_read_to_its_end() -> None:
    done = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in (b"HTTP/1.1 403 Forb", b"idden\r\nContent-Length: 4\r\n\r", b"\nno", b"no"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        done.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Exception, match="HTTP 403"):
        await WebSocketTransport().dial(f"ws://127.0.0.1:{port}/bulk")
    await done.wait()
    server.close()
    await server.wait_closed()
