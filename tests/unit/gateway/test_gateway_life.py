"""Starting and closing."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings

import httpx
import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from mesh import AddressInUse, InvalidAddress, Node, NotStarted
from mesh.gateway import Gateway
from tests.unit.gateway.sse import live


async def test_closing_leaves_nothing(node: Node) -> None:
    """Whatever is open: a live stream, a fetch for which there is no source, a Yjs client."""
    await node.collection("cars").insert({"_id": "c", "ballast": "x" * 1_000_000})
    before = asyncio.all_tasks()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        async with Gateway(node) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
            yjs = await websockets.connect(f"{gateway.url.replace('http', 'ws')}/yjs/notes/n1")
            assert len(asyncio.all_tasks()) > len(before)
            _, idle = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
            for _ in range(20):  # it asks for 20 MB, and reads nothing of that
                idle.write(b"GET /api/collections/cars/documents HTTP/1.1\r\nHost: localhost\r\n\r\n")
            token = json.dumps({"hash": "0" * 64, "size_bytes": 2 << 20, "chunks_hash": "0" * 64})
            fetching = asyncio.create_task(client.get(f"/blobs/{'0' * 64}", params={"token": token}))
            async with live(client, {"kind": "presence"}) as found:
                await anext(found)
                closing = asyncio.create_task(gateway.close())
                assert [event async for event in found] == [("bye", {})]
            with pytest.raises(ConnectionClosed) as closed:
                await yjs.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            await closing
            with pytest.raises(httpx.TransportError):
                await fetching
        await yjs.wait_closed()
        idle.transport.abort()
        gc.collect()
    assert asyncio.all_tasks() == before
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(gateway.url)
    await gateway.close()


async def test_it_starts_again(node: Node) -> None:
    gateway = Gateway(node)
    for _ in range(2):
        await gateway.start()
        await gateway.start()
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            assert (await client.get("/healthz")).status_code == 200
        await gateway.close()


async def test_where_it_cannot_listen(node: Node, gateway: Gateway) -> None:
    taken = Gateway(node, gateway.url.removeprefix("http://"))
    with pytest.raises(AddressInUse):
        await taken.start()
    with pytest.raises(InvalidAddress):
        Gateway(node, "nonsense")
    with pytest.raises(InvalidAddress):
        await Gateway(node, "192.0.2.1:0", "x" * 16).start()
    with pytest.raises(NotStarted):
        await Gateway(Node()).start()


async def test_ipv6(node: Node) -> None:
    async with Gateway(node, "[::1]:0") as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        assert gateway.url.startswith("http://[::1]:")
        assert (await client.get("/api/node")).status_code == 200
