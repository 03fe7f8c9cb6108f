"""Connections of whoever is not, or not yet, a peer."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.errors import (
    HandshakeFailed,
    LinkClosed,
    PeerUnreachable,
)
from mesh.network.introductions import HANDSHAKE_SECONDS, MAX_STRANGERS
from mesh.network.transport import Connection
from mesh.network.websocket import WebSocketTransport
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.unit.network.peers_world import URL, Node, World, now


async def _dialled(world: World, to: str, source: str = "stranger") -> Connection:
    return await world.network.transport(source).dial(URL.format(to))


@pytest.mark.limit("network.introductions.HANDSHAKE_SECONDS")
@virtual
async def test_connections_that_say_nothing_are_dropped() -> None:
    world = World()
    (a,) = await world.started("a")
    silent = await asyncio.gather(*(_dialled(world, "a") for _ in range(200)))
    started = now()
    for connection in silent:
        with pytest.raises(LinkClosed, match="takes too long"):
            await connection.receive()
    assert now() - started <= HANDSHAKE_SECONDS + 0.1
    assert not a.links
    await world.close()


async def test_200_real_connections_that_say_nothing_keep_nobody_out() -> None:
    transport = WebSocketTransport()
    a, b = Node("a", transport), Node("b", transport)
    await a.start("127.0.0.1:0")
    await b.start(None)
    assert a.address is not None
    address = a.address
    silent = await asyncio.gather(*(transport.dial(address) for _ in range(200)))
    assert await b.connect(address) == a.node_id
    await b.close()
    await a.close()
    for connection in silent:
        with pytest.raises(LinkClosed):
            await connection.receive()


@pytest.mark.limit("network.introductions.MAX_STRANGERS")
@virtual
async def test_there_may_be_only_so_many_strangers_at_once() -> None:
    world = World()
    (a,) = await world.started("a")
    crowd = await asyncio.gather(*(_dialled(world, "a") for _ in range(MAX_STRANGERS + 5)))
    await asyncio.sleep(1)
    assert len(world.network.host("a").connections) == MAX_STRANGERS
    ends = await asyncio.gather(*(c.receive() for c in crowd), return_exceptions=True)
    assert sum("too many" in str(end) for end in ends) == 5
    (b,) = await world.started("b")
    assert await b.connect(URL.format("a")) == a.node_id
    await world.close()


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"x", b"\x00" * 1000, b"\x02" + bytes(9), b"\x01zip", bytes(MAX_HANDSHAKE_BYTES)]
    + [b"\x00" + bytes([n]) * 100 for n in range(0, 256, 17)],
)
def test_a_stranger_that_speaks_rubbish(rubbish: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        (a,) = await world.started("a")
        stranger = await _dialled(world, "a")
        await stranger.send(rubbish)
        with pytest.raises(LinkClosed):
            await stranger.receive()
        assert not a.links
        await world.close()

    caplog.set_level(logging.INFO)
    run_virtual(main())
    assert [(r.levelno, r.exc_info) for r in caplog.records] == [(logging.INFO, None)]


@virtual
async def test_dialling_somebody_who_says_nothing_or_rubbish() -> None:
    world = World()
    (a,) = await world.started("a")

    async def say_nothing(connection: Connection) -> None:
        await asyncio.Event().wait()

    async def say_rubbish(connection: Connection) -> None:
        await connection.send(b"\x00rubbish")
        await asyncio.Event().wait()

    transport = world.network.transport("s")
    await transport.listen("127.0.0.1:1", say_nothing)
    await transport.listen("127.0.0.1:2", say_rubbish)
    with pytest.raises(PeerUnreachable, match="does not complete"):
        await a.connect("ws://s:1")
    assert now() == pytest.approx(HANDSHAKE_SECONDS, abs=0.1)
    with pytest.raises(HandshakeFailed, match="something else"):
        await a.connect("ws://s:2")
    assert not world.network.host("a").connections
    await a.close()
