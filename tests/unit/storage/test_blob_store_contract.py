"""What every blob store must do, run against each of them."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3

from mesh.core.chunks import HASH_BYTES
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import (
    BlobNotFound,
    InvalidToken,
    SourceChanged,
    SourceNotAFile,
    SourceNotFound,
    SourceUnreadable,
)
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_memory import MemoryBlobs
from mesh.storage.blobs import BlobStore, CorruptChunk
from mesh.storage.worker import ThreadWorker

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def describe(data: bytes) -> tuple[BlobToken, bytes, list[bytes]]:
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    hashes = b"".join(blake3(chunk).digest() for chunk in chunks)
    return BlobToken(blake3(data).hexdigest(), len(data), blake3(hashes).hexdigest()), hashes, chunks


@pytest.fixture(params=["folder", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    worker = ThreadWorker("blobs")
    made: BlobStore = (
        FolderBlobs(tmp_path / "data", worker) if request.param == "folder" else MemoryBlobs(worker)
    )
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_added_is_there_under_its_hash(store: BlobStore, size: int, tmp_path: Path) -> None:
    data = content(size)
    source = tmp_path / "source"
    source.write_bytes(data)

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, size, 70_001):
            yield data[at : at + 70_001]

    metadata = BlobMetadata("a name", "text/plain", {"k": "v"})
    expected, hashes, chunks = describe(data)
    for given in (data, source, stream(), str(source), memoryview(data)):
        token = await store.add(given, metadata)
        assert (token.hash, token.size_bytes, token.chunks_hash) == (
            expected.hash,
            size,
            expected.chunks_hash,
        )
        assert token.metadata == metadata
    assert store.exists(token.hash)
    assert await store.info(token.hash) == token
    assert store.hashes() == [token.hash]
    assert store.storage_bytes() == size
    assert await store.read(token.hash) == data
    assert store.path(token.hash).read_bytes() == data
    with store.open_file(token.hash) as file:
        assert file.read() == data
    assert await store.chunk_list(token.hash) == hashes
    for index, chunk in enumerate(chunks):
        assert await store.read_chunk(token.hash, index, 16) == bytes(16) + chunk
    with pytest.raises(BlobNotFound):
        await store.read_chunk(token.hash, len(chunks))


@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_arrives_in_any_order_and_is_visible_only_when_whole(
    store: BlobStore, size: int
) -> None:
    data = content(size)
    token, hashes, chunks = describe(data)
    partial = await store.begin(token, cached=True)
    assert (partial.hashes is None) == (len(chunks) > 1)
    if partial.hashes is None:
        await partial.set_hashes(hashes)
    order = list(range(len(chunks)))
    random.Random(1).shuffle(order)
    for index in order:
        assert not store.exists(token.hash)
        await partial.write(index, chunks[index])
        await partial.write(index, chunks[index])
        assert await store.read_chunk(token.hash, index) == chunks[index]
    assert partial.held.complete
    assert await partial.finish() == []
    await partial.close()
    assert await store.read(token.hash) == data
    assert await store.cached(token.hash)
    await store.keep(token.hash)
    assert not await store.cached(token.hash)
    assert await store.chunk_list(token.hash) == hashes


async def test_what_arrived_is_found_again(store: BlobStore) -> None:
    token, hashes, chunks = describe(content(3 * CHUNK_BYTES + 7))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    for index in (0, 2):
        await partial.write(index, chunks[index])
    await partial.close()
    again = await store.begin(token, cached=False)
    assert again.hashes == hashes
    assert list(again.held) == [0, 2]
    assert await store.chunk_list(token.hash) == hashes
    for index in (1, 3):
        await again.write(index, chunks[index])
    assert await again.finish() == []
    assert await store.info(token.hash) == token


async def test_corrupt_chunks_and_lists_are_refused_and_nothing_is_kept_of_them(store: BlobStore) -> None:
    token, hashes, chunks = describe(content(CHUNK_BYTES + 5))
    partial = await store.begin(token, cached=False)
    for wrong in (hashes[:-1], hashes + bytes(HASH_BYTES), hashes[:-1] + b"x"):
        with pytest.raises(CorruptChunk):
            await partial.set_hashes(wrong)
    with pytest.raises(CorruptChunk):
        await partial.write(0, chunks[0])  # nothing can be verified before the list is known
    await partial.set_hashes(hashes)
    for index, data in ((0, chunks[1]), (1, chunks[0]), (1, chunks[1][:-1]), (2, b"x"), (0, b"")):
        with pytest.raises(CorruptChunk):
            await partial.write(index, data)
    assert len(partial.held) == 0
    with pytest.raises(BlobNotFound):
        await store.read_chunk(token.hash, 0)
    await partial.close()


async def test_a_token_whose_chunks_are_not_those_of_its_whole_never_becomes_visible(
    store: BlobStore,
) -> None:
    token, hashes, chunks = describe(content(CHUNK_BYTES + 5))
    lie = BlobToken("0" * 64, token.size_bytes, token.chunks_hash)
    partial = await store.begin(lie, cached=False)
    await partial.set_hashes(hashes)
    for index, chunk in enumerate(chunks):
        await partial.write(index, chunk)
    with pytest.raises(InvalidToken):
        await partial.finish()
    await partial.close()
    assert not store.exists(lie.hash)
    with pytest.raises(BlobNotFound):
        await store.delete(lie.hash)


async def test_tokens_that_cannot_be_true_are_refused(store: BlobStore) -> None:
    token, _, _ = describe(b"small")
    for wrong in (
        BlobToken("../../etc/passwd", 5, token.chunks_hash),
        BlobToken(token.hash, -1, token.chunks_hash),
        BlobToken(token.hash, 5, token.hash),
        BlobToken(token.hash, 0, token.chunks_hash),
    ):
        with pytest.raises(InvalidToken):
            await store.begin(wrong, cached=False)


async def test_delete_removes_whole_and_partial_blobs(store: BlobStore) -> None:
    token = await store.add(b"one", BlobMetadata())
    other = await store.add(b"two", BlobMetadata())
    await store.delete(token.hash)
    assert not store.exists(token.hash)
    assert store.hashes() == [other.hash]
    assert await store.info(token.hash) is None
    for gone in (store.delete, store.read, store.chunk_list, store.keep):
        with pytest.raises(BlobNotFound):
            await gone(token.hash)
    for sync in (store.path, store.open_file):
        with pytest.raises(BlobNotFound):
            sync(token.hash)
    large, hashes, chunks = describe(content(CHUNK_BYTES + 5))
    partial = await store.begin(large, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    await partial.close()
    await store.delete(large.hash)
    partial = await store.begin(large, cached=False)
    assert partial.hashes is None
    await partial.close()


@pytest.mark.parametrize("size", SIZES)
async def test_export_is_whole_or_not_at_all(store: BlobStore, size: int, tmp_path: Path) -> None:
    data = content(size)
    token = await store.add(data, BlobMetadata())
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    target = tmp_path / "elsewhere"
    target.write_bytes(b"not to be touched")
    (inbox / "file").symlink_to(target)
    await store.export(token.hash, inbox / "file")
    assert (inbox / "file").read_bytes() == data
    assert not (inbox / "file").is_symlink()
    assert target.read_bytes() == b"not to be touched"
    assert [path.name for path in inbox.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError, match=r"no such directory.*nowhere'"):
        await store.export(token.hash, tmp_path / "nowhere" / "file")
    with pytest.raises(IsADirectoryError, match=r"name a file in it.*inbox'"):
        await store.export(token.hash, inbox)
    with pytest.raises(BlobNotFound):
        await store.export("0" * 64, inbox / "other")
    assert [path.name for path in inbox.iterdir()] == ["file"]


async def test_sources_that_are_no_readable_files_are_refused_without_blocking(
    store: BlobStore, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "socket", Path("/dev/zero")):
        with pytest.raises(SourceNotAFile):
            await store.add(path, BlobMetadata())
    for name in ("absent", "fifo/below", "nul\0"):
        with pytest.raises(SourceNotFound):
            await store.add(tmp_path / name, BlobMetadata())
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SourceUnreadable):
        await store.add(tmp_path / "loop", BlobMetadata())
    with pytest.raises(TypeError):
        await store.add(7, BlobMetadata())  # type: ignore[arg-type]
    assert store.hashes() == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(SourceUnreadable):
        await store.add(tmp_path / "secret", BlobMetadata())


@pytest.mark.parametrize("change", ["grow", "shrink", "vanish", "rewrite"])
async def test_a_file_that_changes_while_it_is_added_is_refused(
    store: BlobStore, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "source"
    path.write_bytes(content(3 * CHUNK_BYTES))
    os.utime(path, ns=(1, 1))
    readv = os.readv
    calls = 0

    def reading(fd: int, buffers: list[memoryview]) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            if change == "vanish":
                path.unlink()
            elif change == "grow":
                path.write_bytes(content(4 * CHUNK_BYTES))
            elif change == "shrink":
                os.truncate(path, CHUNK_BYTES)
            else:
                path.write_bytes(content(3 * CHUNK_BYTES, 1))
        return readv(fd, buffers)

    monkeypatch.setattr(os, "readv", reading)
    with pytest.raises(SourceChanged):
        await store.add(path, BlobMetadata())
    assert store.hashes() == []


async def test_a_stream_that_fails_leaves_nothing(store: BlobStore) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"some"
        raise RuntimeError("the sensor is gone")

    with pytest.raises(RuntimeError, match="sensor"):
        await store.add(stream(), BlobMetadata())

    async def texts() -> AsyncIterator[str]:
        yield "text"

    with pytest.raises(TypeError):
        await store.add(texts(), BlobMetadata())  # type: ignore[arg-type]
    assert store.hashes() == []


async def test_a_cancelled_add_leaves_nothing(store: BlobStore) -> None:
    started = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        yield b"some"
        started.set()
        await asyncio.Event().wait()

    adding = asyncio.create_task(store.add(stream(), BlobMetadata()))
    await started.wait()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert store.hashes() == []


async def test_a_small_blob_is_taken_whole_if_it_is_what_the_token_names(store: BlobStore) -> None:
    data = content(5000)
    token, _, _ = describe(data)
    with pytest.raises(CorruptChunk):
        await store.take(token, data[:-1] + b"?", cached=False)
    with pytest.raises(InvalidToken):
        await store.take(BlobToken(token.hash, token.size_bytes, "00" * 32), data, cached=False)
    assert not store.exists(token.hash)
    await store.take(token, data, cached=True)
    assert await store.read(token.hash) == data
    assert await store.cached(token.hash)
    await store.take(token, data, cached=False)  # it came twice
    assert store.hashes() == [token.hash]
    assert store.storage_bytes() == len(data)
