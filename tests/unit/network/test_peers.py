"""Peers: links come up, one per peer, and services use them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mesh.core.certificates import grant_of, issue
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.wire import Ack, Barrier
from mesh.errors import (
    HandshakeFailed,
    InvalidAddress,
    LinkClosed,
    PeerUnreachable,
    ProtocolViolation,
)
from mesh.network.link import Link
from mesh.network.memory import Path
from mesh.network.peers import MAX_BULK_PER_PEER, TOGETHER_SECONDS
from mesh.network.transport import Connection
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.unit.network.peers_world import URL, World, take_all

# --- linking --------------------------------------------------------------------------------------


@virtual
async def test_two_nodes_link_and_talk() -> None:
    world = World()
    a, b = await world.started("a", "b")
    assert await a.connect(URL.format("b")) == b.node_id
    await b.until_linked(a)
    to_b, to_a = a.links[b.node_id], b.links[a.node_id]
    assert (to_b.name, to_b.url, to_b.listen, to_b.since) == ("b", "ws://b:7700", "ws://b:7700", 1000.0)
    assert (to_a.name, to_a.url, to_a.listen) == ("a", None, "ws://a:7700")
    to_b.send(Ack(1))
    to_a.send(Ack(2))
    to_b.send(Barrier(1))  # nobody handles those: skipped
    to_b.send(Ack(3))
    await asyncio.sleep(1)
    assert (a.received, b.received) == ([Ack(2)], [Ack(1), Ack(3)])
    await world.close()
    assert a.events == [("up", "b"), ("down", "b")]
    assert b.events == [("up", "a"), ("down", "a")]


@pytest.mark.parametrize("seed", range(25))
def test_simultaneous_dials_leave_one_link_and_both_sides_keep_the_same(seed: int) -> None:
    async def main() -> None:
        world = World(seed, Path(0.01, jitter=0.3))
        nodes = await world.started("a", "b", "c")
        for node in nodes:
            for other in nodes:
                if node is not other:
                    node.dialer.add(URL.format(other.name))
        await asyncio.sleep(30)
        for node in nodes:
            assert len(node.links) == 2
            for link in node.links.values():
                link.send(Ack(7))
        await asyncio.sleep(5)
        for node in nodes:
            assert node.received == [Ack(7)] * 2
            for other in nodes:
                if other is not node:
                    # Exactly one of the two dialled it: it is one and the same connection.
                    mine, theirs = node.links[other.node_id], other.links[node.node_id]
                    assert (mine.url is None) != (theirs.url is None)
        before = [list(node.events) for node in nodes]
        await asyncio.sleep(3600)
        assert [node.events for node in nodes] == before
        await world.close()

    run_virtual(main())


@virtual
async def test_two_addresses_of_one_peer_make_one_link() -> None:
    world = World()
    a, b = await world.started("a", "b")
    extra = await world.network.transport("b").listen("127.0.0.1:7701", b._accept)
    a.dialer.add(URL.format("b"))
    a.dialer.add("ws://b:7701")
    await asyncio.sleep(600)
    assert a.events == [("up", "b")]
    assert [t.state for t in a.dialer.targets] == ["connected"] * 2
    await extra.close()
    await world.close()


@virtual
async def test_an_address_whose_node_has_dialled_here_is_connected_and_left_alone() -> None:
    world = World()
    a, b = world.node("a"), world.node("b")
    reached: list[bool] = []
    a.dialer.on_reached(lambda: reached.append(True))
    target = a.dialer.add(URL.format("b"))
    await a.start("127.0.0.1:7700")
    await asyncio.sleep(3600)  # by now it is dialled seldom
    assert (target.state, reached) == ("waiting", [])
    b.dialer.add(URL.format("a"))
    await b.start("127.0.0.1:7700")
    await asyncio.sleep(1)
    assert (target.state, target.node_id, reached) == ("connected", b.node_id, [True])
    await asyncio.sleep(3600)
    assert (target.state, reached) == ("connected", [True])
    assert (a.events, b.events) == ([("up", "b")], [("up", "a")])
    await world.close()


@virtual
async def test_a_peer_that_restarted_replaces_its_dead_link() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await b.connect(URL.format("a"))
    await asyncio.sleep(TOGETHER_SECONDS + 1)
    # b loses power; nobody tells a. Its new self has the same key and dials again.
    world.network.partition([["b"]])
    await b.close()
    reborn = world.node("b2", identity=b.identity)
    await reborn.start(None)
    await reborn.connect(URL.format("a"))
    await asyncio.sleep(1)
    assert a.links[b.node_id].name == "b2"
    assert a.events == [("up", "b"), ("down", "b"), ("up", "b2")]
    world.network.heal()
    await asyncio.sleep(60)
    assert a.links[b.node_id].name == "b2"
    await world.close()


@virtual
async def test_connect_to_oneself_to_nobody_and_to_nonsense() -> None:
    world = World()
    a, b = await world.started("a", "b")
    with pytest.raises(HandshakeFailed, match="reached itself"):
        await a.connect(URL.format("a"))
    with pytest.raises(PeerUnreachable, match="nothing listens"):
        await a.connect("ws://b:7999")
    with pytest.raises(InvalidAddress):
        await a.connect("b:7700")
    assert a.dialer.targets == []
    assert not b.links
    await world.close()


@virtual
async def test_meshes_do_not_mix_and_both_sides_learn_why() -> None:
    world = World()
    for name, root in (("a", b"red"), ("b", b"blue")):
        identity = Identity(name.encode() * 32)
        chain = issue(Identity(root.ljust(32)), [], identity.public_key, grant_of("member"), 1000.0)
        await world.started(name, identity=identity, membership=Membership(chain))
    a, b = world.nodes
    (c,) = await world.started("c")
    for node, url in ((a, "b"), (b, "a"), (a, "c"), (c, "a")):
        with pytest.raises(HandshakeFailed, match=r"other-mesh|closed-mesh|no-credentials"):
            await node.connect(URL.format(url))
    await world.close()


# --- what services do -----------------------------------------------------------------------------


def test_a_handler_that_objects_or_fails_costs_one_link(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        a, b, c = await world.started("a", "b", "c")

        async def handle(link: Link, message: Barrier) -> None:
            raise ProtocolViolation("no") if message.number == 1 else ZeroDivisionError

        a.handle(Barrier, handle)
        for number, node in ((1, b), (2, c)):
            await a.connect(URL.format(node.name))
            await node.until_linked(a)
            node.links[a.node_id].send(Barrier(number))
            await node.until_alone()
        await asyncio.sleep(30)
        assert len(a.links) == 2  # redialled
        await world.close()

    run_virtual(main())
    assert [(r.levelno, bool(r.exc_info)) for r in caplog.records] == [
        (logging.WARNING, False),
        (logging.ERROR, True),
    ]


def test_a_callback_that_fails_costs_the_link(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        a, b = await world.started("a", "b")

        def fail(link: Link) -> None:
            raise ZeroDivisionError

        a.on_up(fail)
        await b.connect(URL.format("a"))
        await asyncio.sleep(0.5)
        assert not a.links
        await world.close()

    run_virtual(main())
    assert {r.levelno for r in caplog.records} == {logging.ERROR}


@virtual
async def test_bulk_connections_go_both_ways_round() -> None:
    world = World()
    a, b = await world.started("a", "b")
    peers: list[str] = []

    async def serve(node_id: str, connection: Connection) -> None:
        peers.append(node_id)
        await connection.send(bytes(await connection.receive()) * 1000)

    a.on_bulk(serve)
    b.on_bulk(serve)
    await a.connect(URL.format("b"))
    await b.until_linked(a)
    for node, other in ((a, b), (b, a)):
        connection = await node.dial_bulk(node.links[other.node_id])
        await connection.send(b"x" * 1000)
        assert len(await connection.receive()) == 1_000_000
        with pytest.raises(LinkClosed):
            await connection.receive()
    assert peers == [a.node_id, b.node_id]
    assert a.events == [("up", "b")]
    await world.close()


@virtual
async def test_a_bulk_connection_to_somebody_else_is_refused() -> None:
    world = World()
    a, b, c = await world.started("a", "b", "c")
    b.on_bulk(take_all)
    with pytest.raises(HandshakeFailed, match="was expected"):
        await a.dial_bulk_at(URL.format("b"), c.node_id)
    with pytest.raises(PeerUnreachable):
        await a.dial_bulk_at("ws://c:1", c.node_id)
    await world.close()


@virtual
async def test_a_peer_that_accepts_nothing_cannot_be_dialled_for_bulk() -> None:
    world = World()
    (a,) = await world.started("a")
    b = world.node("b")
    await b.start(None)
    await b.connect(URL.format("a"))
    await a.until_linked(b)
    with pytest.raises(PeerUnreachable, match="accepts no connections"):
        await a.dial_bulk(a.links[b.node_id])
    await world.close()


@pytest.mark.limit("network.peers.MAX_BULK_PER_PEER")
@virtual
async def test_bulk_connections_are_few_and_end_with_disconnect() -> None:
    world = World()
    a, b = await world.started("a", "b")
    b.on_bulk(take_all)
    await a.connect(URL.format("b"))
    link = a.links[b.node_id]
    bulk = [await a.dial_bulk(link) for _ in range(MAX_BULK_PER_PEER + 1)]
    with pytest.raises(LinkClosed, match="no more"):
        await bulk[-1].receive()
    await b.disconnect(a.node_id)
    for connection in bulk[:-1]:
        with pytest.raises(LinkClosed):
            await connection.receive()
    with pytest.raises(HandshakeFailed):
        await a.dial_bulk(link)
    await world.close()
