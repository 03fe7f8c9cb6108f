"""Blobs of whole nodes: what documents and distributions keep, and what goes; on a virtual clock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mesh import InvalidNode, LinkedFileChanged, Node
from mesh.core.retention import CACHE_BYTES, GRACE_SECONDS
from mesh.core.tokens import BlobToken
from mesh.node.blob_references import cache_limit
from mesh.storage.data_dir import DataDir
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World


def simulated(seed: int, root: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World(seed, root, delay=0.005)
        await test(world)
        await world.close()

    run_virtual(main())


async def until_gone() -> None:
    gc.collect()
    await asyncio.sleep(GRACE_SECONDS + 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_document_keeps_a_blob_for_as_long_as_it_refers_to_it(tmp_path: Path, seed: int) -> None:
    async def test(world: World) -> None:
        node = await world.start("a")
        cars = node.collection("cars")
        token = await node.attachments.add(b"photo", name="photo")
        other = await node.attachments.add(b"other")
        await cars.insert({"_id": "1", "photos": [{"of": "front", "blob": token.to_dict()}]})
        await asyncio.sleep(3 * GRACE_SECONDS)
        assert await node.attachments.tokens() == [token]
        assert not await node.attachments.exists(other.hash)
        await world.stop("a")
        node = await world.restart("a")
        await asyncio.sleep(3 * GRACE_SECONDS)
        assert await node.attachments.exists(token.hash)
        await node.collection("vans").insert({"_id": "1", "photo": token.to_dict()})
        await node.collection("cars").unset("1", "photos")
        await until_gone()
        assert await node.attachments.exists(token.hash)
        await node.collection("vans").remove("1")
        await asyncio.sleep(GRACE_SECONDS - 5)
        assert await node.attachments.exists(token.hash)
        await asyncio.sleep(10)
        assert not await node.attachments.exists(token.hash)

    simulated(seed, tmp_path, test)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_document_from_a_peer_keeps_a_blob_too(tmp_path: Path, seed: int) -> None:
    async def test(world: World) -> None:
        a = await world.start("a")
        b = await world.start("b", ["a"])
        await b.collection("cars").subscribe()
        token = await a.attachments.add(b"photo")
        await a.collection("cars").insert({"_id": "1", "photo": token.to_dict()})
        await b.settled(10)
        await b.attachments.fetch(token)
        await until_gone()
        assert await b.attachments.exists(token.hash)
        await a.collection("cars").remove("1")
        await b.settled(10)
        await until_gone()
        assert not await a.attachments.exists(token.hash)
        assert not await b.attachments.exists(token.hash)

    simulated(seed, tmp_path, test)


@pytest.mark.parametrize("end", ["cancel", "expire", "supersede"])
def test_a_distribution_keeps_its_blob_until_it_is_over(tmp_path: Path, end: str) -> None:
    async def test(world: World) -> None:
        a = await world.start("a")
        b = await world.start("b", ["a"])
        await asyncio.sleep(1)
        token = await a.attachments.add(b"map")
        expires_in = 5 * GRACE_SECONDS if end == "expire" else None
        handle = await a.distributions.distribute(token, expires_in=expires_in)
        await a.distributions.wait_for_completion(handle, 10)
        await asyncio.sleep(4 * GRACE_SECONDS)
        await held(token, a, b)
        if end == "cancel":
            await a.distributions.cancel(handle)
        elif end == "supersede":
            newer = await a.attachments.add(b"newer map")
            await a.distributions.distribute(newer, supersedes=handle)
        else:
            await asyncio.sleep(GRACE_SECONDS - 20)
            await held(token, a, b)
        await asyncio.sleep(GRACE_SECONDS - 10)
        await held(token, a, b)
        await asyncio.sleep(40)
        for node in (a, b):
            assert not await node.attachments.exists(token.hash)

    async def held(token: BlobToken, *nodes: Node) -> None:
        for node in nodes:
            assert await node.attachments.exists(token.hash)

    simulated(0, tmp_path, test)


def test_a_linked_file_and_a_pinned_blob_outlive_a_restart(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        file = tmp_path / "film"
        file.write_bytes(b"film" * 1000)
        node = await world.start("a")
        linked = await node.attachments.add(file, link=True)
        await node.attachments.pin(linked.hash)
        await world.stop("a")
        node = await world.restart("a")
        await asyncio.sleep(3 * GRACE_SECONDS)
        b = await world.start("b", ["a"])
        assert await (await b.attachments.fetch(linked)).read() == b"film" * 1000
        file.write_bytes(b"else")
        with pytest.raises(LinkedFileChanged):
            await node.attachments.read(linked.hash)
        c = await world.start("c", ["a"])
        assert await (await c.attachments.fetch(linked)).read() == b"film" * 1000  # b's, by way of a
        assert node.attachments.path(linked.hash) != file

    simulated(0, tmp_path, test)


def test_how_much_is_kept_for_others(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    assert 0 < cache_limit(None, directory) <= CACHE_BYTES
    assert cache_limit(7, directory) == 7
    assert cache_limit(0, None) == 0
    for wrong in (-1, 1.5, True, "10 GB"):
        with pytest.raises(InvalidNode, match="cache_bytes"):
            Node(tmp_path, cache_bytes=wrong)  # type: ignore[arg-type]
