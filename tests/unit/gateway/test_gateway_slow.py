"""Clients that take nothing of what they ask for."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from socket import SO_RCVBUF, SOL_SOCKET, socket
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
import websockets

from mesh import Change, Node, NotStarted
from mesh.gateway import Gateway, events, http, outgoing, shared
from mesh.streams import Stream
from tests.unit.gateway.sse import live
from tests.unit.gateway.test_gateway_api import error_of

DOCUMENTS = 60
RESULT_BYTES = DOCUMENTS * 200_000
"""More than the kernel keeps for one connection."""


@pytest.fixture
async def cars(node: Node) -> None:
    for number in range(DOCUMENTS):
        await node.collection("cars").insert({"_id": f"c{number}", "ballast": "x" * 200_000})


@asynccontextmanager
async def asking(gateway: Gateway, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """Asks, reads where the body begins, and no more."""
    address = urlsplit(gateway.url)
    end = socket()
    end.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=end, limit=1024)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b'"documents":[')
        yield reader
    finally:
        writer.transport.abort()


def following(selector: dict[str, Any]) -> str:
    asked = {"kind": "documents", "collection": "cars", "selector": selector}
    return f"/api/live?subscribe={quote(json.dumps(asked))}"


def finding(number: int) -> str:
    return f"/api/collections/cars/documents?selector={quote(json.dumps({'n': {'$ne': number}}))}"


async def rest(reader: asyncio.StreamReader) -> int:
    """How much still comes, until the connection is lost."""
    size = 0
    try:
        while part := await reader.read(1 << 16):
            size += len(part)
    except ConnectionResetError:
        pass
    return size


@pytest.mark.usefixtures("cars")
async def test_who_asks_the_same_and_takes_nothing_is_sent_the_same_bytes(
    gateway: Gateway, node: Node
) -> None:
    tracemalloc.start()
    try:
        async with AsyncExitStack() as stack:
            for _ in range(12):
                await stack.enter_async_context(asking(gateway, following({})))
            for number in range(5):
                await node.collection("cars").update("c0", {"n": number})
            assert tracemalloc.get_traced_memory()[0] < 4 * RESULT_BYTES
    finally:
        tracemalloc.stop()


async def test_who_comes_later_is_told_the_same(client: httpx.AsyncClient, node: Node) -> None:
    cars = node.collection("cars")
    asked = {"kind": "documents", "collection": "cars", "sort": ["n"]}
    async with live(client, asked) as first:
        assert (await anext(first))[1]["documents"] == []
        await cars.insert({"_id": "a", "n": 1})
        assert (await anext(first))[1]["order"] == ["a"]
        async with live(client, asked, asked) as second:
            snapshot = {"documents": [{"_id": "a", "n": 1}]}
            told = [await anext(second) for _ in range(2)]
            assert told[0][1] | told[1][1] | {"of": 0} == snapshot | {"of": 0}
            assert {data["of"] for _, data in told} == {0, 1}
            await cars.insert({"_id": "b", "n": 0})
            changes = [await anext(found) for found in (first, second, second)]
            assert [data["order"] for _, data in changes] == [["b", "a"]] * 3
            assert sorted(data["of"] for _, data in changes) == [0, 0, 1]
        await cars.remove("a")
        assert (await anext(first))[1]["removed"] == ["a"]


@pytest.mark.limit("gateway.outgoing.STALL_SECONDS")
@pytest.mark.usefixtures("cars")
@pytest.mark.parametrize("path", [following({}), finding(0)])
async def test_who_takes_nothing_for_long_is_cut_off(
    gateway: Gateway, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(outgoing, "STALL_SECONDS", 0.2)
    cut, waited = asyncio.Event(), outgoing.Patient._waited

    def lost(connection: outgoing.Patient) -> None:
        waited(connection)
        cut.set()

    monkeypatch.setattr(outgoing.Patient, "_waited", lost)
    async with asking(gateway, path) as reader:
        await asyncio.wait_for(cut.wait(), 20)
        assert await rest(reader) < RESULT_BYTES
    assert (await client.get(finding(0))).status_code == 200


@pytest.mark.limit("gateway.outgoing.MAX_WAITING_BYTES")
@pytest.mark.usefixtures("cars")
async def test_of_too_many_who_take_nothing_the_slowest_are_cut_off(
    gateway: Gateway, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "MAX_WAITING_BYTES", 2 * RESULT_BYTES)
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(asking(gateway, finding(number))) for number in range(5)]
        honest = await client.get(finding(5))
        assert len(honest.json()["documents"]) == DOCUMENTS
        assert [await rest(reader) > RESULT_BYTES / 2 for reader in slow[:-1]] == [False] * 4


@pytest.mark.limit("gateway.events.MAX_STREAMS")
async def test_so_many_streams_are_open_at_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    asked = {"kind": "presence"}
    async with live(client, asked) as found:
        await anext(found)
        refused = await client.get("/api/live", params={"subscribe": json.dumps(asked)})
        assert error_of(refused)[:2] == (503, "TooMany")


@pytest.mark.limit("gateway.shared.MAX_FOLLOWED_BYTES")
async def test_so_much_is_followed_at_once(
    client: httpx.AsyncClient, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_FOLLOWED_BYTES", 1000)
    for number in range(3):
        await node.collection("cars").insert({"n": number, "ballast": "x" * 400})
    for selector, told in (({}, "error"), ({"n": 0}, "snapshot"), ({}, "error")):
        async with live(client, {"kind": "documents", "collection": "cars", "selector": selector}) as found:
            name, data = await anext(found)
            assert name == told
            assert told == "snapshot" or data["error"]["type"] == "TooMany"


QUERY = b"POST /api/collections/cars/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"


@pytest.mark.limit("gateway.http.HEAD_SECONDS")
@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nX: ", QUERY])
async def test_who_does_not_go_on_with_a_request_is_cut_off(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(outgoing, "STALL_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(gateway.url).port)
    writer.write(begun)
    assert await asyncio.wait_for(rest(reader), 20) == 0
    writer.close()


async def test_a_request_may_take_as_long_as_it_goes_on(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So may what is done about it, and a client may go on with the next one, or by WebSocket."""
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(outgoing, "STALL_SECONDS", 0.5)
    passed = asyncio.Event()
    loop = asyncio.get_running_loop()
    url = f"ws://{urlsplit(gateway.url).netloc}/yjs/cars/1"
    async with websockets.connect(url) as yjs, httpx.AsyncClient(base_url=gateway.url) as client:

        async def slowly() -> AsyncIterator[bytes]:
            for _ in range(5):
                passed.clear()
                loop.call_later(0.2, passed.set)
                await passed.wait()
                yield b"x"

        for _ in range(2):
            assert (await client.put("/blobs", content=slowly())).status_code in (200, 201)
        await (await yjs.ping())


@pytest.mark.limit("gateway.http.MAX_CONNECTIONS")
async def test_who_only_connects_keeps_nobody_out(
    gateway: Gateway, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    async with live(client, {"kind": "presence"}) as found:
        await anext(found)
        idle = [await asyncio.open_connection("127.0.0.1", urlsplit(gateway.url).port) for _ in range(6)]
        async with httpx.AsyncClient(base_url=gateway.url) as honest:
            assert (await honest.get("/api/node")).status_code == 200
        assert [await rest(reader) for reader, _ in idle[:4]] == [0] * 4
        for _, writer in idle:
            writer.close()
        await client.get("/api/node")


async def test_who_comes_after_a_query_has_failed_is_told_why() -> None:
    changes: Stream[Change] = Stream()
    query = shared._Query(changes, in_order=False)
    changes.finish(NotStarted("the node was closed"))
    for _ in range(2):
        client = query.join()
        with pytest.raises(NotStarted):
            await anext(client)
    await query.close()
