"""Who the neighbours are linked with, for who asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.core.wire import MAX_SEEN_LINKS, LinksTold, SeenLink
from mesh.node.neighbourhood import ASK_SECONDS, ASKED_SECONDS, TELL_SECONDS, Neighbour
from mesh.streams import Stream
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

DELAY = 0.02


@asynccontextmanager
async def star() -> AsyncIterator[World]:
    """Nodes a and b, linked with a hub only."""
    world = World(2, delay=DELAY)
    try:
        await world.start("hub")
        for name in ("a", "b"):
            await world.start(name, ["hub"])
        await asyncio.sleep(30)
        yield world
    finally:
        await world.close()


async def until(stream: Stream[list[Neighbour]], peers: dict[str, set[str]]) -> dict[str, list[SeenLink]]:
    """Wait until the neighbours are linked so."""
    async with asyncio.timeout(60):
        async for neighbours in stream:
            if {one.node_id: {link.node_id for link in one.links} for one in neighbours} == peers:
                return {one.node_id: one.links for one in neighbours}
    raise AssertionError("the stream has ended")


def test_who_asks_is_told_the_links_of_its_neighbours_and_how_they_change() -> None:
    async def main() -> None:
        async with star() as world:
            a, b, hub = (world.nodes[name] for name in ("a", "b", "hub"))
            async with a.observe_neighbours() as stream:
                assert await anext(stream) == []
                links = await until(stream, {hub.node_id: {a.node_id, b.node_id}})
                [with_b] = [link for link in links[hub.node_id] if link.node_id == b.node_id]
                assert with_b.rtt == pytest.approx(2 * DELAY, rel=0.1)
                await b.pause()
                await until(stream, {hub.node_id: {a.node_id}})
                await b.resume()
                await until(stream, {hub.node_id: {a.node_id, b.node_id}})
                await hub.pause()
                await until(stream, {})

    run_virtual(main())


def test_who_looks_again_is_told_again() -> None:
    async def main() -> None:
        async with star() as world:
            a, b, hub = (world.nodes[name] for name in ("a", "b", "hub"))
            for _ in range(5):
                async with a.observe_neighbours() as stream, asyncio.timeout(2 * TELL_SECONDS):
                    await until(stream, {hub.node_id: {a.node_id, b.node_id}})
                await asyncio.sleep(ASK_SECONDS)  # it has forgotten; that it has asked is still known

    run_virtual(main())


def test_nothing_is_told_to_who_does_not_ask_any_more() -> None:
    async def main() -> None:
        async with star() as world:
            a, hub = world.nodes["a"], world.nodes["hub"]
            async with a.observe_neighbours() as stream:
                await anext(stream)
            await asyncio.sleep(ASK_SECONDS + ASKED_SECONDS + 5)
            assert hub._parts is not None
            assert hub._parts.neighbourhood._askers == {}
            world.link("hub", "a").send(LinksTold([SeenLink("x", None)]))  # nobody asked
            await asyncio.sleep(1)
            assert await anext(a.observe_neighbours()) == []

    run_virtual(main())


@pytest.mark.limit("core.wire.MAX_SEEN_LINKS")
def test_a_neighbour_with_too_many_links_is_sent_away() -> None:
    async def main() -> None:
        async with star() as world:
            told = LinksTold([SeenLink(f"n{number}", None) for number in range(MAX_SEEN_LINKS + 1)])
            link = world.link("a", "hub")
            world.link("hub", "a").send(told)
            assert "length <= 1024" in await link.ended()

    run_virtual(main())
