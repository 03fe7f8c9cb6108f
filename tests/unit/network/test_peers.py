"""Peers: links come up, stay one per peer, come back, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from typing import Any

import pytest

from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.core.identity import Identity
from mesh.core.wire import Ack, Barrier
from mesh.errors import (
    AddressInUse,
    HandshakeFailed,
    InvalidAddress,
    LinkClosed,
    PeerUnreachable,
    ProtocolViolation,
)
from mesh.network.introductions import HANDSHAKE_SECONDS, MAX_STRANGERS
from mesh.network.link import Link
from mesh.network.memory import MemoryNetwork, Path
from mesh.network.peers import MAX_BULK_PER_PEER, TOGETHER_SECONDS, Peers
from mesh.network.transport import Connection, Transport
from mesh.network.websocket import WebSocketTransport
from tests.simulation.virtual_clock import run_virtual, virtual


class World:
    """A network in memory and the nodes on it. Every node is on a host of its own name."""

    def __init__(self, seed: int = 1, path: Path = Path(0.02)) -> None:  # noqa: B008
        self.rng = random.Random(seed)
        self.network = MemoryNetwork(self.rng, path=path)
        self.nodes: list[Node] = []

    def node(self, name: str, **kwargs: Any) -> Node:
        node = Node(name, self.network.transport(name), rng=self.rng, **kwargs)
        self.nodes.append(node)
        return node

    async def started(self, *names: str, **kwargs: Any) -> list[Node]:
        nodes = [self.node(name, **kwargs) for name in names]
        for node in nodes:
            await node.start("127.0.0.1:7700")
        return nodes

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self.nodes))
        await asyncio.sleep(1)  # for what the other ends still have to notice
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not any(self.network.host(node.name).connections for node in self.nodes)


class Node(Peers):
    """Peers that note what happens to them."""

    def __init__(self, name: str, transport: Transport, **kwargs: Any) -> None:
        self.identity = kwargs.pop("identity", None) or Identity(name.encode().ljust(32, b"-"))
        super().__init__(self.identity, transport, name=name, clock=lambda: 1000.0, **kwargs)
        self.name = name
        self.node_id = self.identity.node_id
        self.events: list[tuple[str, str]] = []
        self.received: list[Any] = []
        self.changed = asyncio.Event()
        self.on_up(lambda link: self._note("up", link.name))
        self.on_down(lambda link, reason: self._note("down", link.name))
        self.handle(Ack, lambda link, message: self._receive(message))

    def _note(self, what: str, name: str) -> None:
        self.events.append((what, name))
        self.changed.set()

    def _receive(self, message: Any) -> None:
        self.received.append(message)
        self.changed.set()

    async def until_linked(self, *others: Node) -> None:
        while not all(other.node_id in self.links for other in others):
            self.changed.clear()
            await self.changed.wait()

    async def until_alone(self) -> None:
        while self.links:
            self.changed.clear()
            await self.changed.wait()


def now() -> float:
    return asyncio.get_running_loop().time()


URL = "ws://{}:7700"


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
    (a,) = await world.started("a", mesh_id="red")
    (b,) = await world.started("b", mesh_id="blue")
    (c,) = await world.started("c")
    for node, url in ((a, "b"), (b, "a"), (a, "c"), (c, "a")):
        with pytest.raises(HandshakeFailed, match="another mesh|closed mesh|credentials"):
            await node.connect(URL.format(url))
    await world.close()


# --- coming back ----------------------------------------------------------------------------------


@virtual
async def test_a_lost_link_comes_back() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await a.connect(URL.format("b"))
    await asyncio.sleep(60)
    world.network.drop("a", "b")
    await a.until_alone()
    lost_at = now()
    await a.until_linked(b)
    assert now() - lost_at < 2
    await world.close()


@virtual
async def test_a_peer_that_is_away_for_a_day_is_found_within_a_minute_of_its_return() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await a.connect(URL.format("b"))
    await b.pause()
    await a.until_alone()
    (target,) = a.dialer.targets
    await asyncio.sleep(86_400)
    assert target.state == "waiting"
    assert isinstance(target.error, PeerUnreachable)
    await b.resume()
    returned = now()
    await a.until_linked(b)
    assert now() - returned <= 61
    assert target.state == "connected"
    assert target.error is None
    await world.close()


@virtual
async def test_attempts_grow_rare_and_a_kick_tries_at_once() -> None:
    world = World()
    (a,) = await world.started("a")
    attempts: list[float] = []
    dial = a.dialer._dial

    async def counted(url: str) -> str:
        attempts.append(now())
        return await dial(url)

    a.dialer._dial = counted
    target = a.dialer.add(URL.format("nobody"))
    await target.attempted.wait()
    await asyncio.sleep(3600)
    gaps = [y - x for x, y in zip(attempts, attempts[1:], strict=False)]
    assert max(gaps) <= 60.1
    assert 60 <= len(attempts) <= 250
    assert len({round(gap, 3) for gap in gaps[10:]}) > 20  # jitter is real
    count, kicked = len(attempts), now()
    a.dialer.kick()
    await asyncio.sleep(0.001)
    assert attempts[count:] == [kicked]
    await world.close()


@virtual
async def test_a_silent_partition_heals() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await a.connect(URL.format("b"))
    await asyncio.sleep(60)
    world.network.partition([["a"], ["b"]])
    cut_at = now()
    await a.until_alone()
    await b.until_alone()
    assert now() - cut_at <= 26
    await asyncio.sleep(600)
    world.network.heal()
    healed_at = now()
    await a.until_linked(b)
    await b.until_linked(a)
    assert now() - healed_at < 75
    await world.close()


@virtual
async def test_a_link_the_other_way_round_is_enough() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await a.connect(URL.format("b"))
    await asyncio.sleep(60)
    world.network.drop("a", "b")
    await a.until_alone()
    await b.connect(URL.format("a"))
    await asyncio.sleep(600)
    assert a.links[b.node_id].url is None
    assert [t.state for t in a.dialer.targets] == ["connected"]
    assert a.events == [("up", "b"), ("down", "b"), ("up", "b")]
    await world.close()


# --- leaving --------------------------------------------------------------------------------------


@virtual
async def test_disconnect_stays_disconnected_until_connect() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await a.connect(URL.format("b"))
    await b.until_linked(a)
    b.dialer.add(URL.format("a"), a.node_id)
    await a.disconnect(b.node_id)
    assert not a.links
    await asyncio.sleep(3600)
    assert not a.links
    assert not b.links
    assert a.dialer.targets == []
    with pytest.raises(HandshakeFailed, match="refused until connect"):
        await b.connect(URL.format("a"))
    assert await a.connect(URL.format("b")) == b.node_id
    await asyncio.sleep(10)
    assert b.node_id in a.links
    assert a.node_id in b.links
    await world.close()


@virtual
async def test_pause_and_resume_keep_the_address() -> None:
    world = World()
    a, b = world.node("a"), world.node("b")
    await a.start("127.0.0.1:0")
    await b.start(None)
    address = a.address
    assert address is not None
    assert b.address is None
    await b.connect(address)
    await a.pause()
    assert (a.address, dict(a.links)) == (None, {})
    with pytest.raises(PeerUnreachable, match="paused"):
        await a.connect(URL.format("b"))
    await asyncio.sleep(100)
    assert not b.links
    await a.resume()
    assert a.address == address
    await b.until_linked(a)
    await world.close()


@virtual
async def test_a_paused_node_dials_again_at_once_when_it_resumes() -> None:
    world = World()
    a, b = await world.started("a", "b")
    await a.connect(URL.format("b"))
    await a.pause()
    await asyncio.sleep(1000)
    await a.resume()
    resumed = now()
    await a.until_linked(b)
    assert now() - resumed < 1
    await world.close()


@virtual
async def test_close_ends_a_dial_that_is_under_way() -> None:
    world = World()
    a, _ = await world.started("a", "b")
    world.network.partition([["a"], ["b"]])
    dialling = asyncio.create_task(a.connect(URL.format("b")))
    await asyncio.sleep(1)
    await a.close()
    with pytest.raises(PeerUnreachable, match="closed"):
        await dialling
    assert now() < 2
    world.network.heal()
    await world.close()


@virtual
async def test_close_may_be_repeated_and_ends_what_it_must() -> None:
    world = World()
    a, b = await world.started("a", "b")
    b.on_bulk(_take_all)
    await a.connect(URL.format("b"))
    bulk = await a.dial_bulk(a.links[b.node_id])
    await a.close()
    await a.close()
    with pytest.raises(LinkClosed):
        await bulk.receive()
    await world.close()


async def test_nothing_is_left_of_real_sockets() -> None:
    a, b = Node("a", WebSocketTransport()), Node("b", WebSocketTransport())
    await a.start("127.0.0.1:0")
    await b.start("127.0.0.1:0")
    assert a.address is not None
    assert b.address is not None
    await b.connect(a.address)
    await a.until_linked(b)
    b.on_bulk(_take_all)
    await a.dial_bulk(a.links[b.node_id])
    async with asyncio.timeout(5):
        await a.close()
        await b.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # an unclosed socket would be a ResourceWarning, and that an error


async def test_a_port_in_use_and_its_release() -> None:
    a, b = Node("a", WebSocketTransport()), Node("b", WebSocketTransport())
    await a.start("127.0.0.1:0")
    assert a.address is not None
    listen = a.address.removeprefix("ws://")
    with pytest.raises(AddressInUse):
        await b.start(listen)
    await b.close()
    await a.close()
    await b.start(listen)
    assert b.address == f"ws://{listen}"
    await b.close()


# --- strangers ------------------------------------------------------------------------------------


async def _dialled(world: World, to: str, source: str = "stranger") -> Connection:
    return await world.network.transport(source).dial(URL.format(to))


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


async def _take_all(node_id: str, connection: Connection) -> None:
    while True:
        await connection.receive()


@virtual
async def test_bulk_connections_go_both_ways_round() -> None:
    world = World()
    a, b = await world.started("a", "b")
    peers: list[str] = []

    async def serve(node_id: str, connection: Connection) -> None:
        peers.append(node_id)
        await connection.send(await connection.receive() * 1000)

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
    b.on_bulk(_take_all)
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


@virtual
async def test_bulk_connections_are_few_and_end_with_disconnect() -> None:
    world = World()
    a, b = await world.started("a", "b")
    b.on_bulk(_take_all)
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
