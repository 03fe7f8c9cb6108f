"""Rotten chunks on the disk of a node: all are found, and repaired by a peer."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from mesh import BlobHandle, Node, VerifyReport
from mesh.attachments.repairing import REPAIR_SECONDS
from mesh.core.retention import GRACE_SECONDS
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.errors import BlobCorrupt
from tests.simulation.virtual_clock import virtual
from tests.simulation.world import World, pair

BLOBS, CHUNKS = 10, 12


def flip(path: Path, position: int, bit: int = 3) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


@virtual
async def test_bits_flipped_in_a_hundred_chunks_are_all_found_and_repaired(tmp_path: Path) -> None:
    rng = random.Random(11)
    world, a, b = await pair(0, tmp_path)
    tokens = []
    for _ in range(BLOBS):
        token = await a.attachments.add(rng.randbytes(CHUNKS * CHUNK_BYTES - 7))
        await b.attachments.fetch(token)
        tokens.append(token)
    places = [(token, chunk) for token in tokens for chunk in range(CHUNKS)]
    for token, chunk in rng.sample(places, 100):
        position = chunk * CHUNK_BYTES + rng.randrange(CHUNK_BYTES - 7)
        flip(b.attachments.path(token.hash), position, rng.randrange(8))
    received = b.attachments.received_bytes
    report = await b.attachments.verify()
    assert (report.checked, report.damaged_chunks, report.lost) == (BLOBS, 100, [])
    assert 99 * CHUNK_BYTES < b.attachments.received_bytes - received < 101 * CHUNK_BYTES
    for token in tokens:
        assert await b.attachments.read(token.hash) == await a.attachments.read(token.hash)
    assert (await b.attachments.verify()).damaged_chunks == 0
    await world.close()


@virtual
async def test_who_is_linked_with_nobody_waits_for_nobody(tmp_path: Path) -> None:
    world = World(0, tmp_path, delay=0.001)
    b = await world.start("b", ["a"])
    token = await b.attachments.add(b"x" * 3 * CHUNK_BYTES)
    flip(b.attachments.path(token.hash), 5)
    began = asyncio.get_running_loop().time()
    report = await b.attachments.verify()
    assert (report.lost, report.alone) == ([token.hash], True)
    assert asyncio.get_running_loop().time() - began < 1
    a = await world.start("a")
    await a.attachments.add(b"x" * 3 * CHUNK_BYTES)
    await asyncio.sleep(60)
    received = b.attachments.received_bytes
    await b.attachments.fetch(token)
    assert b.attachments.received_bytes - received < 2 * CHUNK_BYTES, "what is good of it was kept"
    assert not (await b.attachments.verify()).alone
    await world.close()


@pytest.mark.parametrize("how", ["read", "open", "export", "removed"])
@pytest.mark.parametrize("size", [1000, 5 * CHUNK_BYTES])
@pytest.mark.parametrize("seed", [0, 1])
@virtual
async def test_what_is_found_damaged_when_it_is_used_is_had_again_from_others(
    tmp_path: Path, how: str, size: int, seed: int
) -> None:
    async def use(b: Node, token: BlobToken, handle: BlobHandle) -> None:
        match how:
            case "open":
                with handle.open() as file:
                    file.read()
            case "export":
                await b.attachments.export(token.hash, tmp_path / "copy")
            case _:
                await handle.read()

    world, a, b = await pair(seed, tmp_path)
    data = random.Random(size).randbytes(size)
    token = await a.attachments.add(data, name="map")
    handle = await b.attachments.fetch(token)
    received = b.attachments.received_bytes
    handle.path.unlink() if how == "removed" else flip(handle.path, size // 2)
    with pytest.raises(BlobCorrupt):
        await use(b, token, handle)
    await asyncio.sleep(1)
    assert await b.attachments.exists(token.hash)
    await use(b, token, handle)
    assert await handle.read() == data
    assert await b.attachments.info(token.hash) == token
    fetched = b.attachments.received_bytes - received
    needed = size if how == "removed" else min(size, CHUNK_BYTES)
    assert needed <= fetched < needed + 1000
    await world.close()


@pytest.mark.parametrize("seed", [0, 1])
@virtual
async def test_the_inbox_gets_what_is_whole_though_the_disk_has_damaged_the_blob(
    tmp_path: Path, seed: int
) -> None:
    world, a, b = await pair(seed, tmp_path, inbox=True)
    data = random.Random(seed).randbytes(2 * CHUNK_BYTES)
    token = await a.attachments.add(data, name="map")
    handle = await b.attachments.fetch(token)
    flip(handle.path, 5)
    distribution = await a.distributions.distribute(token)
    assert (await a.distributions.wait_for_completion(distribution, 60)).is_success
    assert (tmp_path / "b" / "inbox" / "map").read_bytes() == data
    await world.close()


@pytest.mark.parametrize("seed", [0, 1])
@virtual
async def test_a_holder_finds_out_that_what_it_serves_is_damaged(tmp_path: Path, seed: int) -> None:
    world, a, b = await pair(seed, tmp_path)
    data = random.Random(seed).randbytes(4 * CHUNK_BYTES)
    token = await b.attachments.add(data)
    await b.attachments.pin(token.hash)
    flip(b.attachments.path(token.hash), CHUNK_BYTES + 5)
    fetching = asyncio.create_task(a.attachments.fetch(token))
    await asyncio.sleep(30)
    assert not fetching.done()
    assert not await b.attachments.exists(token.hash)
    c = await world.start("c", ["a", "b"])
    await c.attachments.add(data)
    assert await (await asyncio.wait_for(fetching, 60)).read() == data
    await asyncio.sleep(1)
    assert await b.attachments.read(token.hash) == data
    await world.close()


@virtual
async def test_a_repair_goes_on_for_as_long_as_something_comes(tmp_path: Path) -> None:
    world, a, b = await pair(0, tmp_path)
    token = await a.attachments.add(random.Random(1).randbytes(4 * CHUNK_BYTES))
    await b.attachments.fetch(token)
    b.set_limits(download=20_000)
    b.attachments.path(token.hash).unlink()
    began = asyncio.get_running_loop().time()
    report = await b.attachments.verify()
    assert (report.repaired, report.lost, report.unrepaired) == ([token.hash], [], {})
    assert asyncio.get_running_loop().time() - began > 2 * REPAIR_SECONDS
    await world.close()


@pytest.mark.parametrize("restart", [False, True])
@virtual
async def test_what_was_repaired_in_part_is_found_again_and_goes_on(tmp_path: Path, restart: bool) -> None:
    world, a, b = await pair(0, tmp_path)
    token = await a.attachments.add(random.Random(1).randbytes(8 * CHUNK_BYTES), name="map")
    await a.attachments.pin(token.hash)
    await b.attachments.fetch(token)
    await b.attachments.pin(token.hash)
    b.set_limits(download=100_000)
    b.attachments.path(token.hash).unlink()
    verifying = asyncio.create_task(b.attachments.verify())
    await asyncio.sleep(45)
    await world.stop("a")
    report = await verifying
    assert (report.repaired, report.lost, report.alone) == ([], [token.hash], True)
    why = report.unrepaired[token.hash]
    assert why.nobody
    assert 3 * CHUNK_BYTES < why.here_bytes < why.size_bytes == 8 * CHUNK_BYTES
    assert VerifyReport.from_dict(report.to_dict()) == report
    if restart:
        await world.stop("b")
        b = await world.start("b", ["a"])
    await asyncio.sleep(2 * GRACE_SECONDS)
    assert (await b.attachments.verify()).lost == [token.hash]
    await world.start("a")
    await asyncio.sleep(60)
    received = b.attachments.received_bytes
    report = await b.attachments.verify()
    assert (report.repaired, report.lost) == ([token.hash], [])
    assert b.attachments.received_bytes - received < 5 * CHUNK_BYTES
    assert await b.attachments.info(token.hash) == token
    assert (await b.attachments.verify()).repaired == []
    await world.close()


@pytest.mark.parametrize("restart", [False, True])
@virtual
async def test_a_file_that_has_grown_is_damaged_and_needs_nothing_of_others(
    tmp_path: Path, restart: bool
) -> None:
    world = World(0, tmp_path, delay=0.001)
    b = await world.start("b")
    data = random.Random(1).randbytes(3 * CHUNK_BYTES + 5)
    token = await b.attachments.add(data, name="map")
    await b.attachments.pin(token.hash)
    with b.attachments.path(token.hash).open("ab") as file:
        file.write(b"more")
    if restart:
        await world.stop("b")
        b = await world.start("b")
    report = await b.attachments.verify()
    assert (report.checked, report.repaired, report.lost) == (1, [token.hash], [])
    assert await b.attachments.read(token.hash) == data
    assert await b.attachments.info(token.hash) == token
    await world.close()
