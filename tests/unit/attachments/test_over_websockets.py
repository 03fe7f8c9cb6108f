"""Attachments over real sockets, with folders and worker threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.attachments.memory import tune_allocator
from mesh.attachments.service import Attachments
from mesh.core.identity import Identity
from mesh.core.picking import MAX_WINDOW
from mesh.core.tokens import CHUNK_BYTES, BlobProgress
from mesh.errors import NotStarted
from mesh.network.peers import Peers
from mesh.network.websocket import WebSocketTransport
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import ThreadWorker


@asynccontextmanager
async def node(folder: Path, listen: str | None = "127.0.0.1:0") -> AsyncIterator[tuple[Peers, Attachments]]:
    identity = Identity(folder.name.encode().ljust(32, b"."))
    peers = Peers(identity, WebSocketTransport(), name=folder.name)
    store = FolderBlobs(folder, ThreadWorker(folder.name))
    attachments = Attachments(store, peers, node_id=identity.node_id, random=random.Random(1))
    await attachments.start()
    await peers.start(listen)
    try:
        yield peers, attachments
    finally:
        await attachments.close()
        await peers.close()


async def test_a_blob_through_a_relay_and_nothing_is_left_behind(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(20 * CHUNK_BYTES + 77)
    (tmp_path / "source.bin").write_bytes(data)
    async with (
        node(tmp_path / "a") as (a_peers, a),
        node(tmp_path / "b") as (b_peers, _),
        node(tmp_path / "c", listen=None) as (c_peers, c),
    ):
        token = await c.add(tmp_path / "source.bin")
        assert token.metadata.name == "source.bin"
        await c_peers.connect(str(b_peers.address))
        await b_peers.connect(str(a_peers.address))
        handle = await a.fetch(token, timeout=30)
        assert handle.path.read_bytes() == data
        await a.export(token.hash, tmp_path / "out.bin")
        assert (tmp_path / "out.bin").read_bytes() == data
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not list((tmp_path / "a" / "partial").iterdir())
    assert not list((tmp_path / "a" / "temp").iterdir())


async def test_after_a_restart_at_half_only_the_rest_is_fetched(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(64 * CHUNK_BYTES)
    async with node(tmp_path / "a") as (a_peers, a):
        token = await a.add(data)
        async with node(tmp_path / "b") as (b_peers, b):
            await b_peers.connect(str(a_peers.address))
            half = asyncio.Event()
            progress: list[BlobProgress] = []

            def watch(now: BlobProgress) -> None:
                progress.append(now)
                if now.downloaded_bytes >= len(data) // 2:
                    half.set()

            fetching = asyncio.create_task(b.fetch(token, on_progress=watch))
            await half.wait()
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            before = progress[-1].downloaded_bytes
            lost = b.received_bytes - before
        progress.clear()
        async with node(tmp_path / "b") as (b_peers, b):
            await b_peers.connect(str(a_peers.address))
            handle = await b.fetch(token, timeout=30, on_progress=progress.append)
            assert await handle.read() == data
            assert lost <= MAX_WINDOW
            transferring = [one.downloaded_bytes for one in progress if one.state == "transferring"]
            assert transferring[0] >= before - CHUNK_BYTES  # nothing that was told to be here is gone
            assert b.received_bytes <= len(data) - transferring[0] + 64 * 64  # and the heads of chunks


def test_the_allocator_can_be_tuned_or_says_that_it_cannot() -> None:
    assert tune_allocator() in (True, False)


async def test_what_is_asked_while_it_closes_says_so(tmp_path: Path) -> None:
    async with node(tmp_path / "a", listen=None) as (_, a):
        for number in range(50):
            await a.add(b"%d" % number)
        asking = asyncio.ensure_future(a.tokens())
        await asyncio.sleep(0)
        await a.close()
        with pytest.raises(NotStarted, match="closed"):
            await asking
