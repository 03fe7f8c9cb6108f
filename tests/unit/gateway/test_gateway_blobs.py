"""Uploads, downloads and fetches over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from blake3 import blake3

from mesh import Node
from mesh.gateway import Gateway
from tests.unit.gateway.sse import events
from tests.unit.gateway.test_gateway_api import error_of

DATA = bytes(range(256)) * 4096
HASH = blake3(DATA).hexdigest()


async def test_a_blob_goes_in_and_out(client: httpx.AsyncClient, node: Node) -> None:
    added = await client.put(
        "/blobs", params={"name": "ü.bin"}, content=DATA, headers={"content-type": "image/png"}
    )
    assert added.status_code == 201
    token = added.json()
    assert (token["hash"], token["size_bytes"]) == (HASH, len(DATA))
    assert token["metadata"] == {"name": "ü.bin", "content_type": "image/png", "custom": {}}
    assert added.headers["location"] == f"/blobs/{HASH}"
    assert await node.attachments.exists(HASH)
    got = await client.get(added.headers["location"])
    assert (got.status_code, got.content) == (200, DATA)
    assert got.headers["content-type"] == "image/png"
    assert got.headers["content-length"] == str(len(DATA))
    assert got.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%BC.bin"
    assert got.headers["etag"] == f'"{HASH}"'
    head = await client.head(f"/blobs/{HASH}")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(DATA)))
    same = await client.get(f"/blobs/{HASH}", headers={"if-none-match": f'W/"x", "{HASH}"'})
    assert (same.status_code, same.content) == (304, b"")


async def test_a_blob_is_uploaded_under_its_hash(client: httpx.AsyncClient) -> None:
    assert (await client.put(f"/blobs/{HASH}", content=DATA)).status_code == 201
    assert (await client.put(f"/blobs/{HASH}", content=b"")).json()["size_bytes"] == len(DATA)
    wrong = await client.put(f"/blobs/{'0' * 64}", content=b"x")
    assert error_of(wrong) == (
        422,
        "HashMismatch",
        {"hash": "0" * 64, "uploaded": blake3(b"x").hexdigest()},
    )
    assert (await client.put("/blobs", content=b"")).json()["size_bytes"] == 0
    empty = await client.get(f"/blobs/{blake3(b'').hexdigest()}", headers={"range": "bytes=0-0"})
    assert empty.status_code == 416


@pytest.mark.parametrize(
    "asked, start, stop",
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000000-", 1_000_000, len(DATA)),
        ("bytes=-5", len(DATA) - 5, len(DATA)),
        (f"bytes=5-{10**15}", 5, len(DATA)),
        (f"bytes=-{10**15}", 0, len(DATA)),
        ("bytes=9-3", 0, len(DATA)),
        ("bytes=-", 0, len(DATA)),
        ("bytes=0-1,5-6", 0, len(DATA)),
        ("lines=0-1", 0, len(DATA)),
    ],
)
async def test_ranges(client: httpx.AsyncClient, asked: str, start: int, stop: int) -> None:
    await client.put("/blobs", content=DATA)
    got = await client.get(f"/blobs/{HASH}", headers={"range": asked})
    assert got.content == DATA[start:stop]
    if stop - start == len(DATA):
        assert got.status_code == 200
    else:
        assert got.status_code == 206
        assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


async def test_ranges_that_are_not_there(client: httpx.AsyncClient) -> None:
    await client.put("/blobs", content=DATA)
    for asked in (f"bytes={len(DATA)}-", "bytes=-0"):
        got = await client.get(f"/blobs/{HASH}", headers={"range": asked})
        assert got.status_code == 416
        assert got.headers["content-range"] == f"bytes */{len(DATA)}"
    for tag, status in ((f'"{HASH}"', 206), ('"other"', 200)):
        got = await client.get(f"/blobs/{HASH}", headers={"range": "bytes=1-2", "if-range": tag})
        assert got.status_code == status


async def test_what_is_not_here(client: httpx.AsyncClient) -> None:
    assert error_of(await client.get(f"/blobs/{HASH}"))[:2] == (404, "BlobNotFound")
    assert error_of(await client.get(f"/blobs/{HASH}/progress"))[:2] == (400, "BadRequest")
    token = {"hash": HASH, "size_bytes": 2 << 20, "chunks_hash": "0" * 64}
    for query, status in (
        ({"token": json.dumps(token), "timeout": "0.01"}, 504),
        ({"token": json.dumps({**token, "hash": "1" * 64})}, 400),
        ({"token": json.dumps({**token, "size_bytes": -1})}, 400),
        ({"token": "{"}, 400),
    ):
        assert (await client.get(f"/blobs/{HASH}", params=query)).status_code == status
    for hash in ("..%2Fstore.db", HASH.upper()):
        assert (await client.get(f"/blobs/{hash}")).status_code in (400, 404)


async def test_a_blob_is_fetched_by_its_token(client: httpx.AsyncClient, node: Node) -> None:
    async with Node(name="van", peers=[str(node.address)]) as van:
        await van.settled(10)
        token = await van.attachments.add(DATA)
        got = await client.get(f"/blobs/{HASH}", params={"token": json.dumps(token.to_dict())})
        assert got.content == DATA
        assert await node.attachments.exists(HASH)


async def test_the_progress_of_a_fetch(client: httpx.AsyncClient, node: Node) -> None:
    async with Node(name="van", peers=[str(node.address)]) as van:
        await van.settled(10)
        token = await van.attachments.add(DATA)
        query = {"token": json.dumps(token.to_dict())}
        async with events(client, f"/blobs/{HASH}/progress", query) as found:
            told = [data async for name, data in found if name == "progress"]
        assert told[-1]["state"] == "completed"
        assert told[-1]["downloaded_bytes"] == len(DATA)
        token = await van.attachments.add(b"soon gone")
        await van.attachments.delete(token.hash)
        query = {"token": json.dumps(token.to_dict())}
        async with events(client, f"/blobs/{token.hash}/progress", query) as found:
            async for _, data in found:
                assert data["state"] == "waiting"
                if data["reason"]:
                    break
        await van.attachments.add(b"soon gone")
        async with events(client, f"/blobs/{token.hash}/progress", query) as found:
            assert [data["state"] async for _, data in found][-1] == "completed"


async def test_an_upload_that_is_cut_short(
    gateway: Gateway, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    writer.write(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\npart")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await gateway.close()  # waits for what is under way
    assert await node.attachments.tokens() == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_large_blobs_take_little_memory(tmp_path: Path) -> None:
    """96 MiB go in and out of a gateway that is in this process."""
    piece = os.urandom(1 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(96):
            yield piece

    async with (
        Node(tmp_path / "n", listen=None) as node,
        Gateway(node) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
    ):
        await client.put("/blobs", content=piece * 8)  # what is allocated once has been allocated
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        token = (await client.put("/blobs", content=pieces())).json()
        assert token["size_bytes"] == 96 << 20
        size = 0
        async with client.stream("GET", f"/blobs/{token['hash']}") as response:
            async for part in response.aiter_raw():
                size += len(part)
        assert size == 96 << 20
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < (40 << 20 if sys.platform == "darwin" else 40 << 10)
