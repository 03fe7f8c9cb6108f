"""What every transport must do, for the one of production and the one of simulations alike."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from mesh.errors import AddressInUse, InvalidAddress, LinkClosed, PeerUnreachable
from mesh.network.memory import MemoryNetwork
from mesh.network.tls import Tls, make_certificate
from mesh.network.transport import (
    BULK_PATH,
    HEADROOM_BYTES,
    MAX_BULK_MESSAGE_BYTES,
    MAX_STRANGER_BYTES,
    Accept,
    Connection,
    Listener,
    Transport,
)
from mesh.network.websocket import WebSocketTransport


def make_memory() -> Transport:
    return MemoryNetwork(random.Random(1)).transport("here")


class BulkTransport(WebSocketTransport):
    """Dials nothing but bulk connections."""

    async def dial(self, url: str) -> Connection:
        return await super().dial(url.removesuffix(BULK_PATH) + BULK_PATH)


def make_secure() -> Transport:
    with tempfile.NamedTemporaryFile() as certificate:
        certificate.write(make_certificate())
        certificate.flush()
        return WebSocketTransport(Tls(Path(certificate.name)))


@pytest.fixture(
    params=[WebSocketTransport, make_secure, make_memory, BulkTransport],
    ids=["websocket", "tls", "memory", "bulk"],
)
def transport(request: pytest.FixtureRequest) -> Transport:
    return cast(Callable[[], Transport], request.param)()


async def echo(connection: Connection) -> None:
    connection.trust()
    try:
        while True:
            await connection.send(await connection.receive())
    except LinkClosed:
        pass


class Collector:
    """Accepts connections and keeps them until their other end closes."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Connection] = asyncio.Queue()
        self.release = asyncio.Event()
        self.ended = 0

    async def __call__(self, connection: Connection) -> None:
        self.accepted.put_nowait(connection)
        await self.release.wait()
        self.ended += 1


async def pair(transport: Transport, path: str = "") -> tuple[Connection, Connection, Listener, Collector]:
    collector = Collector()
    listener = await transport.listen("127.0.0.1:0", collector)
    dialled = await transport.dial(listener.address + path)
    return dialled, await collector.accepted.get(), listener, collector


async def done(listener: Listener, collector: Collector, *connections: Connection) -> None:
    collector.release.set()
    for connection in connections:
        await connection.close()
    await listener.close()


async def test_messages_arrive_whole_and_in_order(transport: Transport) -> None:
    listener = await transport.listen("127.0.0.1:0", echo)
    connection = await transport.dial(listener.address)
    sent = [bytes([n % 256]) * (n * 37 % 5000 + 1) for n in range(200)]
    received = []
    for message in sent:
        await connection.send(message)
        received.append(await connection.receive())
    assert received == sent
    await connection.close()
    await listener.close()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_sent_buffer_may_be_used_again(transport: Transport, kind: type) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    source = bytearray(b"before")
    await dialled.send(kind(source))
    source[:] = b"after!"
    received = await accepted.receive()
    assert received == b"before"
    assert type(received) is bytes
    await done(listener, collector, dialled)


async def test_both_ends_can_send_at_any_time(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    await asyncio.gather(*(end.send(b"%d" % n) for n in range(20) for end in (dialled, accepted)))
    assert [await dialled.receive() for _ in range(20)] == [b"%d" % n for n in range(20)]
    assert [await accepted.receive() for _ in range(20)] == [b"%d" % n for n in range(20)]
    await done(listener, collector, dialled)


async def test_what_was_sent_before_a_close_arrives(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    for n in range(5):
        await accepted.send(b"%d" % n)
    closing = asyncio.create_task(accepted.close("that was all"))
    assert [await dialled.receive() for _ in range(5)] == [b"%d" % n for n in range(5)]
    with pytest.raises(LinkClosed) as raised:
        await dialled.receive()
    assert raised.value.reason == "that was all"
    await closing
    await done(listener, collector, dialled)


async def test_a_closed_connection_says_so_to_its_own_side(transport: Transport) -> None:
    dialled, _, listener, collector = await pair(transport)
    await dialled.close("enough")
    await dialled.close("again")
    with pytest.raises(LinkClosed, match="enough"):
        await dialled.send(b"x")
    with pytest.raises(LinkClosed, match="enough"):
        await dialled.receive()
    await done(listener, collector)


async def test_a_long_reason_is_no_error(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    await dialled.close("ü" * 500)
    with pytest.raises(LinkClosed) as raised:
        await accepted.receive()
    assert raised.value.reason.startswith("üüü")
    await done(listener, collector)


async def test_a_receiver_waiting_wakes_up_when_its_side_closes(transport: Transport) -> None:
    dialled, _, listener, collector = await pair(transport)
    receiving = asyncio.ensure_future(dialled.receive())
    await asyncio.sleep(0)
    await dialled.close()
    with pytest.raises(LinkClosed):
        await receiving
    await done(listener, collector)


async def test_a_cancelled_receive_loses_nothing(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    receiving = asyncio.ensure_future(accepted.receive())
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])
    await dialled.send(b"still here")
    assert await accepted.receive() == b"still here"
    await done(listener, collector, dialled)


async def test_a_sender_waits_for_a_slow_receiver(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    dialled.trust()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(2000):
            await accepted.send(bytes(60_000))
            sent += 1

    flooding = asyncio.create_task(flood())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.shield(flooding)
    before = sent
    assert before < 400  # buffers of this process and of the kernel, not 120 MB
    for _ in range(before + 10):
        await dialled.receive()
    assert sent > before
    flooding.cancel()
    await asyncio.wait([flooding])
    await done(listener, collector, dialled)


async def test_closing_does_not_wait_for_a_peer_that_takes_nothing(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)

    async def flood() -> None:
        while True:
            await dialled.send(bytes(60_000))

    flooding = asyncio.create_task(flood())
    await asyncio.wait([flooding], timeout=0.2)
    async with asyncio.timeout(10):
        await dialled.close()
    with pytest.raises(LinkClosed):
        await flooding
    await done(listener, collector, accepted)


async def test_a_stranger_may_not_send_much(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport)
    await dialled.send(bytes(MAX_STRANGER_BYTES))
    assert len(await accepted.receive()) == MAX_STRANGER_BYTES
    await dialled.send(bytes(MAX_STRANGER_BYTES + 1))
    with pytest.raises(LinkClosed):
        await accepted.receive()
    await done(listener, collector, dialled)


async def test_a_trusted_bulk_connection_carries_chunks(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport, BULK_PATH)
    accepted.trust()
    chunk = random.Random(1).randbytes(MAX_BULK_MESSAGE_BYTES)
    sending = asyncio.ensure_future(dialled.send(chunk))
    assert await accepted.receive() == chunk
    await sending
    await done(listener, collector, dialled)


@pytest.mark.parametrize("by_dialler", [True, False], ids=["dialler", "listener"])
async def test_messages_are_sent_in_place_among_others(transport: Transport, by_dialler: bool) -> None:
    dialled, accepted, listener, collector = await pair(transport, BULK_PATH)
    dialled.trust()
    accepted.trust()
    sender, receiver = (dialled, accepted) if by_dialler else (accepted, dialled)
    sizes = [1, 125, 126, 65535 - HEADROOM_BYTES, 65535, 65536, 65537, 300_000, MAX_BULK_MESSAGE_BYTES]
    messages = [random.Random(size).randbytes(size) for size in sizes]

    async def send() -> None:
        for message in messages:
            await sender.send(b"small")
            await sender.send_in_place(bytearray(HEADROOM_BYTES) + message)

    sending = asyncio.ensure_future(send())
    for message in messages:
        assert await receiver.receive() == b"small"
        assert await receiver.receive() == message
    await sending
    await done(listener, collector, dialled)


async def test_a_closed_connection_sends_nothing_in_place(transport: Transport) -> None:
    dialled, accepted, listener, collector = await pair(transport, BULK_PATH)
    accepted.trust()
    await accepted.close()
    with pytest.raises(LinkClosed):
        await accepted.send_in_place(bytearray(HEADROOM_BYTES + 100_000))
    await done(listener, collector, dialled)


async def test_a_listener_that_closes_ends_its_connections_and_waits_for_their_handlers(
    transport: Transport,
) -> None:
    ended = []

    async def accept(connection: Connection) -> None:
        try:
            await connection.receive()
        except LinkClosed:
            await asyncio.sleep(0.01)
            ended.append(connection.remote)

    listener = await transport.listen("127.0.0.1:0", accept)
    dialled = [await transport.dial(listener.address) for _ in range(3)]
    await listener.close()
    assert len(ended) == 3
    for connection in dialled:
        with pytest.raises(LinkClosed):
            await connection.receive()
    with pytest.raises(PeerUnreachable):
        await transport.dial(listener.address)


async def test_a_connection_ends_with_its_handler(transport: Transport) -> None:
    async def accept(connection: Connection) -> None:
        await connection.receive()

    listener = await transport.listen("127.0.0.1:0", accept)
    connection = await transport.dial(listener.address)
    await connection.send(b"go")
    with pytest.raises(LinkClosed):
        await connection.receive()
    await listener.close()


async def test_a_handler_that_fails_costs_its_connection_and_is_logged(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    async def accept(connection: Connection) -> None:
        raise ZeroDivisionError

    listener = await transport.listen("127.0.0.1:0", accept)
    connection = await transport.dial(listener.address)
    with pytest.raises(LinkClosed):
        await connection.receive()
    await listener.close()
    assert [r.levelno for r in caplog.records if "ZeroDivisionError" in (r.exc_text or "")] == [logging.ERROR]


async def nobody(connection: Connection) -> None: ...


async def test_a_port_in_use(transport: Transport) -> None:
    listener = await transport.listen("127.0.0.1:0", nobody)
    port = listener.address.rpartition(":")[2]
    with pytest.raises(AddressInUse) as raised:
        await transport.listen(f"127.0.0.1:{port}", nobody)
    assert raised.value.address == f"127.0.0.1:{port}"
    await listener.close()
    again = await transport.listen(f"127.0.0.1:{port}", nobody)
    assert again.address == listener.address
    await again.close()


async def test_port_0_is_another_free_port_each_time(transport: Transport) -> None:
    listeners = [await transport.listen("127.0.0.1:0", nobody) for _ in range(3)]
    assert len({listener.address for listener in listeners}) == 3
    for listener in listeners:
        await listener.close()
        await listener.close()


@pytest.mark.parametrize("address", ["", "7700", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999"])
async def test_addresses_that_cannot_be_listened_on(transport: Transport, address: str) -> None:
    with pytest.raises(InvalidAddress):
        await transport.listen(address, nobody)


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:7700", "http://127.0.0.1:7700", "ws://", "ws://127.0.0.1", "ws://127.0.0.1:x"),
        *("ws://127.0.0.1:70000", "ws://me@127.0.0.1:7700", "ws://127.0.0.1:7700/else"),
        *("ws://127.0.0.1:7700?q", "wsx://127.0.0.1:7700"),
    ],
)
async def test_urls_that_cannot_be_dialled(transport: Transport, url: str) -> None:
    with pytest.raises(InvalidAddress):
        await transport.dial(url)


async def test_nobody_there(transport: Transport) -> None:
    listener: Listener = await transport.listen("127.0.0.1:0", cast(Accept, nobody))
    await listener.close()
    with pytest.raises(PeerUnreachable, match="nothing listens there") as raised:
        await transport.dial(listener.address)
    assert raised.value.url.removesuffix(BULK_PATH) == listener.address
