"""Two running nodes with one identity: found out, said so, and no harm done. A restart is no clone."""

from __future__ import annotations

import asyncio

import pytest

from mesh.core.identity import Identity
from mesh.errors import HandshakeFailed, IdentityCloned
from mesh.network.dialer import CLONED_SECONDS
from mesh.network.peers import CLONE_SECONDS
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.unit.network.peers_world import URL, World, now

SHARED = Identity(b"shared".ljust(32, b"-"))


def test_two_clones_that_meet_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        one = world.node("one", identity=SHARED)
        other = world.node("other", identity=SHARED)
        for node in (one, other):
            await node.start("127.0.0.1:7700")
        with pytest.raises(IdentityCloned, match="Stop one of the two"):
            await one.connect(URL.format("other"))
        assert not one.links
        assert not other.links
        assert "another running node has the same identity" in caplog.text
        with pytest.raises(HandshakeFailed, match="reached itself"):
            await one.connect(URL.format("one"))
        await world.close()

    run_virtual(main())


def test_a_dialler_says_it_once_and_leaves_the_address_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        one = world.node("one", identity=SHARED)
        other = world.node("other", identity=SHARED)
        await other.start("127.0.0.1:7700")
        one.keep(URL.format("other"))
        await one.start(None)
        await asyncio.sleep(CLONED_SECONDS - 10)
        assert len([r for r in caplog.records if r.name == "mesh.network.dialer"]) == 1
        [target] = one.dialer.targets
        assert isinstance(target.error, IdentityCloned)
        await other.close()
        await asyncio.sleep(20)
        assert "cannot reach" in str(target.error), "it is tried again"
        await world.close()

    run_virtual(main())


@virtual
async def test_the_one_who_is_there_stays_and_the_clone_is_told() -> None:
    world = World()
    [hub] = await world.started("hub")
    one = world.node("one", identity=SHARED)
    await one.start(None)
    await one.connect(URL.format("hub"))
    await hub.until_linked(one)
    clone = world.node("clone", identity=SHARED)
    await clone.start(None)
    await asyncio.sleep(60)
    for _ in range(3):
        with pytest.raises(IdentityCloned, match="Stop one of the two"):
            await clone.connect(URL.format("hub"))
    assert hub.events == [("up", "one")]
    assert clone.events == []
    await one.close()
    await hub.until_alone()
    await clone.connect(URL.format("hub"))
    await hub.until_linked(clone)
    assert hub.links[clone.node_id].name == "clone"
    await world.close()


@virtual
async def test_a_restart_replaces_what_does_not_answer_any_more() -> None:
    world = World()
    [hub] = await world.started("hub")
    one = world.node("one", identity=SHARED)
    await one.start(None)
    await one.connect(URL.format("hub"))
    await hub.until_linked(one)
    world.network.partition([["one"]], silent=True)
    reborn = world.node("reborn", identity=SHARED)
    await reborn.start(None)
    started = now()
    await reborn.connect(URL.format("hub"))
    assert CLONE_SECONDS <= now() - started < CLONE_SECONDS + 1
    await asyncio.sleep(1)
    assert hub.links[reborn.node_id].name == "reborn"
    assert hub.events == [("up", "one"), ("down", "one"), ("up", "reborn")]
    await world.close()


@virtual
async def test_the_same_run_replaces_its_own_link_at_once() -> None:
    world = World()
    hub, one = await world.started("hub", "one")
    await one.connect(URL.format("hub"))
    await hub.until_linked(one)
    await asyncio.sleep(60)
    one.links[hub.node_id].close("for the test")  # the hub does not hear of it
    started = now()
    await one.connect(URL.format("hub"))
    assert now() - started < 1
    await hub.until_linked(one)
    await world.close()
