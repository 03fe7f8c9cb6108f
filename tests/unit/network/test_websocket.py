"""What only the WebSocket transport does: real addresses, strangers, browsers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mesh.errors import InvalidAddress, LinkClosed, PeerUnreachable, PlaintextRefused
from mesh.network.addresses import is_loopback, parse_listen
from mesh.network.tls import Tls, make_certificate
from mesh.network.transport import Connection
from mesh.network.websocket import WebSocketConnection, WebSocketListener, WebSocketTransport


async def echo(connection: Connection) -> None:
    try:
        while True:
            await connection.send(await connection.receive())
    except LinkClosed:
        pass


async def listening(address: str = "127.0.0.1:0") -> tuple[WebSocketTransport, WebSocketListener]:
    transport = WebSocketTransport()
    return transport, await transport.listen(address, echo)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_loopback_addresses(address: str) -> None:
    transport, listener = await listening(address)
    connection = await transport.dial(listener.address)
    await connection.send(b"hello")
    assert await connection.receive() == b"hello"
    assert connection.remote == listener.address.removeprefix("ws://")
    await connection.close()
    await listener.close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("::ffff:192.168.1.2", False),
        ("fe80::1%eth0", False),
        ("127.0.0.1.example.org", False),
        ("example.org", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
async def test_an_open_mesh_does_not_listen_off_loopback(address: str) -> None:
    with pytest.raises(PlaintextRefused) as raised:
        await WebSocketTransport().listen(address, echo)
    assert raised.value.address == address


async def test_an_open_mesh_does_not_dial_off_loopback() -> None:
    with pytest.raises(PlaintextRefused):
        await WebSocketTransport().dial("ws://192.0.2.1:7700")


async def test_off_loopback_with_tls(tmp_path: Path) -> None:
    certificate = tmp_path / "tls.pem"
    certificate.write_bytes(make_certificate())
    transport = WebSocketTransport(Tls(certificate))
    listener = await transport.listen("0.0.0.0:0", echo)
    assert "0.0.0.0" not in listener.address  # announced is what can be dialled, or nothing
    connection = await transport.dial(f"wss://127.0.0.1:{listener.port}")
    assert connection.binding == listener.binding == Tls(certificate).fingerprint
    await connection.close()
    await listener.close()
    with pytest.raises(InvalidAddress, match="TLS only"):
        await transport.dial("ws://127.0.0.1:7700")
    with pytest.raises(InvalidAddress, match="does not have that address"):
        await transport.listen("192.0.2.1:0", echo)


async def test_a_name_without_an_address() -> None:
    with pytest.raises(PeerUnreachable, match="no address"):
        await WebSocketTransport().dial("ws://nowhere.invalid:7700")
    with pytest.raises(InvalidAddress, match="no address"):
        await WebSocketTransport().listen("nowhere.invalid:0", echo)


async def test_wss_says_what_it_lacks() -> None:
    with pytest.raises(InvalidAddress, match="credentials"):
        await WebSocketTransport().dial("wss://127.0.0.1:7700")


def test_ipv6_addresses_stand_in_brackets() -> None:
    assert parse_listen("[::1]:7700") == ("::1", 7700, "/", False)
    assert parse_listen("[::1]:7700").url == "ws://[::1]:7700"


async def test_a_web_page_is_refused() -> None:
    _, listener = await listening()
    with pytest.raises(InvalidStatus) as raised:
        await connect(listener.address, origin="http://127.0.0.1", proxy=None)  # type: ignore[arg-type]
    assert raised.value.response.status_code == 403
    await listener.close()


async def test_other_paths_are_not_found() -> None:
    _, listener = await listening()
    with pytest.raises(InvalidStatus) as raised:
        await connect(f"{listener.address}/else", proxy=None)
    assert raised.value.response.status_code == 404
    await listener.close()


@pytest.mark.parametrize(
    "rubbish",
    [
        *(b"", b"\x00\xff" * 500, b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-scan\r\n", b"GET /" + b"x" * 100_000),
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_strangers_make_one_line_of_log_and_no_noise(
    rubbish: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    _, listener = await listening()
    port = int(listener.address.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(rubbish)
    writer.write_eof()
    try:
        await reader.read()
    except ConnectionResetError:
        pass
    writer.close()
    await listener.close()
    lines = [r for r in caplog.records if r.name != "asyncio"]
    assert [r.getMessage().startswith("refused 127.0.0.1:") for r in lines] == [True]
    assert not any(r.exc_info for r in caplog.records)
    assert capfd.readouterr().err == ""


async def test_closing_does_not_wait_for_who_never_says_anything(tmp_path: Path) -> None:
    certificate = tmp_path / "tls.pem"
    certificate.write_bytes(make_certificate())
    for tls in (None, Tls(certificate)):
        listener = await WebSocketTransport(tls).listen("127.0.0.1:0", echo)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            await listener.close()
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
        writer.close()


async def test_whoever_speaks_no_tls_makes_one_line_of_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    certificate = tmp_path / "tls.pem"
    certificate.write_bytes(make_certificate())
    listener = await WebSocketTransport(Tls(certificate)).listen("127.0.0.1:0", echo)
    for rubbish in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(500)):
        caplog.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(rubbish)
        writer.write_eof()
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        writer.close()
        assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["refused 127.0.0.1"]
    await listener.close()


async def test_a_server_that_is_no_mesh_node() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: ws://192.0.2.1:7700/\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for behaviour, reason in ((answer, "HTTP 302"), (hang_up, "not a mesh node")):
        server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(PeerUnreachable, match=reason):
            await WebSocketTransport().dial(url)
        server.close()
        await server.wait_closed()


async def test_a_broken_connection_says_so() -> None:
    accepted: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    release = asyncio.Event()

    async def accept(connection: Connection) -> None:
        accepted.set_result(connection)
        await release.wait()

    transport = WebSocketTransport()
    listener = await transport.listen("127.0.0.1:0", accept)
    dialled = await transport.dial(listener.address)
    other = await accepted
    assert isinstance(dialled, WebSocketConnection)
    dialled._socket.transport.abort()
    with pytest.raises(LinkClosed, match="broke"):
        await other.receive()
    release.set()
    await listener.close()
