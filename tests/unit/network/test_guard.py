"""Who breaks the protocol again and again is turned away for a while: by address before it has proven its
key, by node id after that."""

from __future__ import annotations

import asyncio

import pytest

from mesh.core import limits
from mesh.core.frames import frames_of
from mesh.core.limits import FIRST_BAN_SECONDS, STRIKES
from mesh.core.wire import Ack
from mesh.errors import HandshakeFailed, LinkClosed, ProtocolViolation
from mesh.network import guard
from mesh.network.introductions import MAX_STRANGERS
from mesh.network.link import Link
from mesh.network.memory import Path
from mesh.network.transport import Connection
from tests.simulation.virtual_clock import virtual
from tests.unit.network.peers_world import URL, Node, World, now


async def _dialled(world: World, to: str, source: str = "stranger") -> Connection:
    return await world.network.transport(source).dial(URL.format(to))


async def _end_of(connection: Connection) -> str:
    while True:
        try:
            await connection.receive()
        except LinkClosed as error:
            return error.reason


@pytest.mark.limit("core.limits.STRIKES", "core.limits.FIRST_BAN_SECONDS")
@virtual
async def test_an_address_that_speaks_rubbish_is_turned_away_for_a_while() -> None:
    world = World()
    a, b = await world.started("a", "b")
    for _ in range(STRIKES):
        stranger = await _dialled(world, "a")
        await stranger.send(b"rubbish")
        assert "something else than a handshake" in await _end_of(stranger)
    assert (await _end_of(await _dialled(world, "a"))).startswith("banned: ")
    assert await b.connect(URL.format("a")) == a.node_id, "others are not concerned"
    await asyncio.sleep(FIRST_BAN_SECONDS)
    stranger = await _dialled(world, "a")
    await stranger.send(b"rubbish")
    assert "something else than a handshake" in await _end_of(stranger)
    await world.close()


def _objecting(node: Node) -> None:
    def object_to(link: Link, message: Ack) -> None:
        raise ProtocolViolation("no such thing")

    node._handlers[Ack] = object_to


@virtual
async def test_a_peer_that_breaks_the_protocol_is_turned_away_whichever_side_dials() -> None:
    world = World()
    a, b = await world.started("a", "b")
    _objecting(a)
    for _ in range(STRIKES):
        await b._dial(URL.format("a"), refuse=())
        a_link = b.links[a.node_id]
        a_link.send(Ack(1))
        assert (await a_link.ended()).endswith("protocol violation: no such thing")
        await a.until_alone()
        await b.until_alone()
    with pytest.raises(HandshakeFailed, match="is banned: it broke"):
        await a.connect(URL.format("b"))
    await b._dial(URL.format("a"), refuse=())
    assert (await b.links[a.node_id].ended()).startswith("banned: ")
    with pytest.raises(HandshakeFailed, match="banned"):
        await a._dial(URL.format("b"), refuse=())
    await asyncio.sleep(FIRST_BAN_SECONDS)
    assert await a.connect(URL.format("b")) == b.node_id
    await world.close()


@virtual
async def test_who_fills_the_room_for_strangers_keeps_nobody_else_out() -> None:
    world = World()
    a, b = await world.started("a", "b")
    first = await _dialled(world, "a", "honest but slow")
    crowd = await asyncio.gather(*(_dialled(world, "a") for _ in range(2 * MAX_STRANGERS)))
    started = now()
    assert await b.connect(URL.format("a")) == a.node_id
    assert now() - started < 1
    ends = [asyncio.create_task(_end_of(connection)) for connection in crowd]
    await asyncio.sleep(1)
    assert sum(end.done() for end in ends) >= MAX_STRANGERS
    assert all("too many" in end.result() for end in ends if end.done())
    assert "takes too long" in await _end_of(first)
    await asyncio.wait(ends)
    await world.close()


@pytest.fixture
def few_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_LINKS", 3)
    monkeypatch.setattr(guard, "MAX_LINKS_PER_ADDRESS", 2)


@pytest.mark.limit("core.limits.MAX_LINKS", "core.limits.MAX_LINKS_PER_ADDRESS")
@pytest.mark.usefixtures("few_links")
@virtual
async def test_links_come_in_up_to_a_number_in_all_and_from_one_address() -> None:
    world = World()
    (a,) = await world.started("a")
    nodes = [world.node(name) for name in "bcdefg"]
    for node, host in zip(nodes, ["x", "x", "x", "y", "y", "z"], strict=True):
        node._introductions._transport = world.network.transport(host)
        await node.start(None)

    async def dialled(node: Node) -> bool:
        await node._dial(URL.format("a"), refuse=())
        await asyncio.sleep(1)
        return bool(node.links)

    assert [await dialled(node) for node in nodes] == [True, True, False, True, False, False]
    await nodes[0].disconnect(a.node_id)
    await asyncio.sleep(1)
    assert await dialled(nodes[4])
    await world.close()


@pytest.mark.limit("core.limits.MESSAGES_PER_SECOND", "core.limits.MESSAGES_AT_ONCE")
@virtual
async def test_more_messages_than_so_many_wait_where_they_are() -> None:
    world = World(path=Path(0.0))
    a, b = await world.started("a", "b")
    await b.connect(URL.format("a"))
    await a.until_linked(b)
    many = 6 * limits.MESSAGES_AT_ONCE
    started = now()
    connection = b.links[a.node_id]._connection
    (frame,) = frames_of(Ack(1), 0)
    for _ in range(many):
        await connection.send(frame)
    while len(a.received) < many:
        a.changed.clear()
        await a.changed.wait()
    waiting = many - limits.MESSAGES_AT_ONCE
    assert now() - started == pytest.approx(waiting / limits.MESSAGES_PER_SECOND, rel=0.1)
    assert b.node_id in a.links
    await world.close()
