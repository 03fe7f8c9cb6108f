"""Peers: links come back after faults, and leave nothing behind when they must not."""

from __future__ import annotations

import asyncio
import gc
import itertools

import pytest

from mesh.errors import (
    AddressInUse,
    HandshakeFailed,
    LinkClosed,
    PeerUnreachable,
)
from mesh.network.websocket import WebSocketTransport
from tests.simulation.virtual_clock import virtual
from tests.unit.network.peers_world import URL, Node, World, now, take_all

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
    await asyncio.sleep(86_400)
    (target,) = a.dialer.targets
    assert (target.state, type(target.error)) == ("waiting", PeerUnreachable)
    await b.resume()
    returned = now()
    await a.until_linked(b)
    assert now() - returned <= 61
    await asyncio.sleep(0)
    assert (target.state, target.error) == ("connected", None)
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
    gaps = [y - x for x, y in itertools.pairwise(attempts)]
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
    b.on_bulk(take_all)
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
    b.on_bulk(take_all)
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
