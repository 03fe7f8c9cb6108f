"""Live streams over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mesh import Node
from mesh.gateway import Gateway, events
from tests.unit.gateway.sse import Event, live
from tests.unit.gateway.test_gateway_api import error_of


async def test_the_result_of_a_query(client: httpx.AsyncClient, node: Node) -> None:
    cars = node.collection("cars")
    await cars.insert({"_id": "a", "n": 1})
    await cars.insert({"_id": "b", "n": 0})
    asked = {"kind": "documents", "collection": "cars", "selector": {"n": {"$gt": 0}}}
    async with live(client, asked) as found:
        assert await anext(found) == ("snapshot", {"of": 0, "documents": [{"_id": "a", "n": 1}]})
        await cars.update("b", {"n": 2})
        assert await anext(found) == (
            "change",
            {"of": 0, "inserted": [{"_id": "b", "n": 2}], "updated": [], "removed": []},
        )
        await cars.update("a", {"n": 5})
        assert (await anext(found))[1]["updated"] == [{"_id": "a", "n": 5}]
        await cars.remove("b")
        assert (await anext(found))[1]["removed"] == ["b"]


async def test_the_order_is_told_where_there_is_one(client: httpx.AsyncClient, node: Node) -> None:
    cars = node.collection("cars")
    for n in range(3):
        await cars.insert({"_id": f"c{n}", "n": n})
    asked = {"kind": "documents", "collection": "cars", "sort": [{"n": "desc"}], "limit": 2}
    async with live(client, asked) as found:
        assert [d["_id"] for d in (await anext(found))[1]["documents"]] == ["c2", "c1"]
        await cars.update("c0", {"n": 9})
        _, change = await anext(found)
        assert (change["order"], change["removed"]) == (["c0", "c2"], ["c1"])


async def test_the_links_of_neighbours(client: httpx.AsyncClient, node: Node) -> None:
    async with live(client, {"kind": "neighbours"}) as found:
        assert await anext(found) == ("snapshot", {"of": 0, "neighbours": {}})
        async with Node(name="van", peers=[str(node.address)]) as van:
            _, change = await anext(found)
            [link] = change["neighbours"][van.node_id]
            assert link["node_id"] == node.node_id


async def test_several_at_once(client: httpx.AsyncClient, node: Node) -> None:
    token = await node.attachments.add(b"map")
    kinds: list[dict[str, Any]] = [
        {"kind": "presence"},
        {"kind": "stats", "every": 0.1},
        {"kind": "distributions"},
    ]
    async with live(client, *kinds) as found:
        first = {data["of"]: data async for data in snapshots(found, 3)}
        assert first[0]["presence"]["peers"] == []
        assert first[1]["stats"]["links"] == 0
        assert first[2]["distributions"] == []
        async with Node(name="van", peers=[str(node.address)]) as van:
            handle = await node.distributions.distribute(token)
            seen: set[int] = set()
            async for name, data in found:
                assert name == "change"
                if data["of"] == 0 and data["presence"]["peers"]:
                    assert data["presence"]["peers"][0]["node_id"] == van.node_id
                    seen.add(0)
                if data["of"] == 1 and data["stats"]["links"]:
                    seen.add(1)
                if data["of"] == 2 and data["changed"][0]["status"]["completed"]:
                    assert data["changed"][0]["status"]["handle"]["distribution_id"] == handle.distribution_id
                    assert data["removed"] == []
                    seen.add(2)
                if seen == {0, 1, 2}:
                    break


async def snapshots(found: AsyncIterator[Event], count: int) -> AsyncIterator[dict[str, Any]]:
    for _ in range(count):
        name, data = await anext(found)
        assert name == "snapshot"
        yield data


async def test_one_distribution_until_its_end(client: httpx.AsyncClient, node: Node) -> None:
    token = await node.attachments.add(b"map")
    handle = await node.distributions.distribute(token)
    async with live(client, {"kind": "distribution", "id": handle.distribution_id}) as found:
        assert (await anext(found))[1]["status"]["total_targets"] == 0
        await node.distributions.cancel(handle)
        rest = [event async for event in found]
        assert rest[-2][1]["status"]["is_cancelled"]
        assert rest[-1] == ("end", {"of": 0})


async def test_what_cannot_be_followed(client: httpx.AsyncClient) -> None:
    async with live(
        client,
        {"kind": "distribution", "id": "nowhere"},
        {"kind": "documents", "collection": "cars", "selector": {"$no": 1}},
    ) as found:
        ended = {data["of"]: (name, data["error"]["type"]) async for name, data in found}
        assert ended == {0: ("error", "UnknownDistribution"), 1: ("error", "InvalidSelector")}
    for query in (
        {},
        {"subscribe": "{"},
        {"subscribe": json.dumps({"kind": "all"})},
        {"subscribe": ["{}"] * 33},
        {"subscribe": '{"kind": "documents", "collection": "c", "selector": ' + '{"a":' * 3000},
    ):
        assert error_of(await client.get("/api/live", params=query))[:2] == (400, "BadRequest")


async def test_silence_is_broken(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_SECONDS", 0.01)
    asked = {"subscribe": json.dumps({"kind": "documents", "collection": "cars"})}
    async with client.stream("GET", "/api/live", params=asked) as response:
        async for line in response.aiter_lines():
            if line == ": still here":
                break


async def test_a_slow_reader_is_told_less_often(client: httpx.AsyncClient, node: Node) -> None:
    """Far more is written than what is on its way can hold; it ends where the documents do."""
    cars = node.collection("cars")
    await cars.insert({"_id": "c", "n": -1, "ballast": "x" * 100_000})
    async with live(client, {"kind": "documents", "collection": "cars"}) as found:
        assert (await anext(found))[0] == "snapshot"
        for n in range(300):
            await cars.update("c", {"n": n})
        told = 0
        async for _, change in found:
            told += 1
            [document] = change["updated"]
            if document["n"] == 299:
                break
        assert told < 250


async def test_a_reader_that_leaves_is_forgotten(
    client: httpx.AsyncClient, gateway: Gateway, node: Node
) -> None:
    async with live(client, {"kind": "stats", "every": 0.1}) as found:
        await anext(found)
        metrics = (await client.get("/metrics")).text
        assert 'mesh_gateway_clients{kind="events"} 1.0' in metrics
    async with live(client, {"kind": "stats", "every": 0.1}) as found:
        async for _ in found:
            metrics = (await client.get("/metrics")).text
            if 'mesh_gateway_clients{kind="events"} 1.0' in metrics:
                break
            await node.collection("cars").insert({})
