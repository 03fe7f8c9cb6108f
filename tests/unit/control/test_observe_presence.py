"""``node.observe_presence``: links as they come and go, and their figures in between."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from mesh import Node
from mesh.control.methods import METHODS
from mesh.control.registry import Served
from mesh.node.presence import Presence


def observed(node: Node, **params: Any) -> Any:
    return METHODS["node.observe_presence"].bind(Served(node, lambda: None), params)


async def test_links_are_told_as_they_come_and_go() -> None:
    async with Node(name="a") as a, aclosing(observed(a)) as items:
        first: Presence = await anext(items)
        assert (first.node_id, first.peers) == (a.node_id, [])
        assert a.address is not None
        async with Node(name="b", peers=[a.address]) as b:
            linked = await anext(items)
            assert [peer.node_id for peer in linked.peers] == [b.node_id]
        assert (await anext(items)).peers == []


async def test_round_trip_times_are_told_although_no_link_changes() -> None:
    async with Node(name="a") as a, aclosing(observed(a, every=0.1)) as items:
        assert a.address is not None
        async with Node(name="b", peers=[a.address]), asyncio.timeout(10):
            async for item in items:
                if item.peers and item.peers[0].rtt is not None:
                    break


async def test_it_ends_with_the_node() -> None:
    async with Node() as node:
        items = observed(node, every=0.1)
        await anext(items)
    async with asyncio.timeout(10):
        assert [item async for item in items] == []
