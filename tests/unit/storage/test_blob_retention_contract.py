"""What every blob store must do about blobs that stay, go, or rot: run against each of them."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.core.tokens import CHUNK_BYTES, BlobMetadata
from mesh.errors import BlobCorrupt, BlobNotFound, StorageFull
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_memory import MemoryBlobs
from mesh.storage.blobs import BlobStore
from mesh.storage.worker import InlineWorker
from tests.unit.storage.test_blob_store_contract import content, describe


@pytest.fixture(params=["folder", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    made: BlobStore = (
        FolderBlobs(tmp_path / "data", InlineWorker()) if request.param == "folder" else MemoryBlobs()
    )
    await made.open()
    yield made
    await made.close()


async def receive(store: BlobStore, data: bytes, *, cached: bool) -> str:
    token, hashes, chunks = describe(data)
    partial = await store.begin(token, cached=cached)
    if partial.hashes is None:
        await partial.set_hashes(hashes)
    for index, chunk in enumerate(chunks):
        await partial.write(index, chunk)
    assert await partial.finish() == []
    return token.hash


def flip(store: BlobStore, hash: str, position: int) -> None:
    """Flip a bit of a stored blob, as a disk would."""
    if isinstance(store, MemoryBlobs):
        blob = store._blobs[hash]
        blob.content = bytearray(blob.content)
        blob.content[position // 8] ^= 1 << position % 8
        return
    with store.path(hash).open("r+b") as file:
        file.seek(position // 8)
        (byte,) = file.read(1)
        file.seek(position // 8)
        file.write(bytes([byte ^ 1 << position % 8]))


async def test_the_cache_is_listed_least_recently_served_first(store: BlobStore) -> None:
    first, second, third = [await receive(store, bytes([n]) * 10, cached=True) for n in range(3)]
    own = await store.add(b"own", BlobMetadata())
    assert store.cache() == [(first, 10), (second, 10), (third, 10)]
    await store.read_chunk(first, 0)
    await store.read_chunk(own.hash, 0)
    assert [hash for hash, _ in store.cache()] == [second, third, first]
    await store.keep(third)
    await store.delete(second)
    assert store.cache() == [(first, 10)]
    await store.add(bytes(10), BlobMetadata())  # what was cached is this node's own now
    assert store.cache() == []
    assert not await store.cached(first)


async def test_pins_are_remembered_whether_the_blob_is_here_or_not(store: BlobStore) -> None:
    token = await store.add(b"pinned", BlobMetadata())
    assert not store.pinned(token.hash)
    for _ in range(2):
        await store.pin(token.hash, pinned=True)
        assert store.pinned(token.hash)
    await store.delete(token.hash)
    assert store.pinned(token.hash)
    for _ in range(2):
        await store.pin(token.hash, pinned=False)
        assert not store.pinned(token.hash)


async def test_partial_blobs_are_listed(store: BlobStore) -> None:
    token, hashes, chunks = describe(content(2 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    assert store.partials() == [token.hash]
    await partial.close()
    assert store.partials() == [token.hash]
    await store.delete(token.hash)
    assert store.partials() == []
    await receive(store, content(2 * CHUNK_BYTES), cached=False)
    assert store.partials() == []


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7])
async def test_every_flipped_bit_is_found_and_costs_its_chunk(store: BlobStore, size: int) -> None:
    rng = random.Random(size)
    lost: list[str] = []
    store.on_lost(lambda error, token: lost.append(error.hash))
    data = content(size)
    for _ in range(5):
        token = await store.add(data, BlobMetadata())
        assert await store.verify(token.hash) == []
        _, hashes, chunks = describe(data)
        flipped = {rng.randrange(8 * size) for _ in range(2)}
        for position in flipped:
            flip(store, token.hash, position)
        damaged = sorted({position // 8 // CHUNK_BYTES for position in flipped})
        assert await store.verify(token.hash) == damaged
        assert lost.pop() == token.hash
        assert not store.exists(token.hash)
        with pytest.raises(BlobNotFound):
            await store.verify(token.hash)
        partial = await store.begin(token, cached=False)
        assert partial.hashes == hashes
        # Either it is known what is missing, or it is found when the whole is verified.
        assert (list(partial.held.missing()) or await partial.finish()) == damaged
        for index in damaged:
            await partial.write(index, chunks[index])
        assert await partial.finish() == []
        assert await store.read(token.hash) == data
        assert store.storage_bytes() == size


async def test_what_rotted_is_not_read(store: BlobStore, tmp_path: Path) -> None:
    lost: list[str] = []
    store.on_lost(lambda error, token: lost.append(error.hash))
    for use in (store.read, lambda hash: store.export(hash, tmp_path / "out")):
        token = await store.add(b"some bytes", BlobMetadata())
        flip(store, token.hash, 9)
        with pytest.raises(BlobCorrupt):
            await use(token.hash)
        assert lost.pop() == token.hash
        assert not store.exists(token.hash)
        assert not os.path.lexists(tmp_path / "out")


async def test_memory_has_an_end() -> None:
    store = MemoryBlobs(max_bytes=5 * CHUNK_BYTES)
    first = await store.add(content(2 * CHUNK_BYTES), BlobMetadata())
    with pytest.raises(StorageFull) as raised:
        await store.add(content(4 * CHUNK_BYTES), BlobMetadata())
    assert raised.value.missing == CHUNK_BYTES

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(CHUNK_BYTES)

    with pytest.raises(StorageFull):
        await store.add(stream(), BlobMetadata())
    token, hashes, chunks = describe(content(3 * CHUNK_BYTES, 1))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    await partial.write(1, chunks[1])
    await store.add(b"some", BlobMetadata())
    with pytest.raises(StorageFull):
        await partial.write(2, chunks[2])
    await partial.close()
    with pytest.raises(StorageFull):
        await store.begin(token, cached=False)
    await store.delete(first.hash)
    partial = await store.begin(token, cached=False)
    assert list(partial.held) == [0, 1]
    await partial.write(2, chunks[2])
    assert await partial.finish() == []
    await store.add(content(CHUNK_BYTES, 2), BlobMetadata())
    for hash in store.hashes():
        await store.delete(hash)
    await store.add(content(5 * CHUNK_BYTES), BlobMetadata())


async def test_a_restart_remembers_pins_and_who_was_served_last(tmp_path: Path) -> None:
    now = 1e9
    store = FolderBlobs(tmp_path, InlineWorker(), lambda: now)
    await store.open()
    first, second = [await receive(store, bytes([n]) * 10, cached=True) for n in range(2)]
    for hash in (first, second):
        os.utime(store.path(hash).with_suffix(".cached"), (now, now))
        now += 1
    now += 100
    await store.read_chunk(first, 0)
    await store.pin(second, pinned=True)
    token, hashes, chunks = describe(content(2 * CHUNK_BYTES))
    partial = await store.begin(token, cached=True)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    await store.close()
    again = FolderBlobs(tmp_path, InlineWorker())
    await again.open()
    assert again.cache() == [(second, 10), (first, 10)]
    assert again.pinned(second)
    assert not again.pinned(first)
    assert again.partials() == [token.hash]
    await again.close()
