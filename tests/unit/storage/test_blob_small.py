"""Small blobs come into a folder many at a time."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from mesh.core.chunks import chunks_hash
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.errors import StorageFull
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_layout import BlobFolder
from mesh.storage.blob_partials import PartialBlobs
from mesh.storage.blob_small import MAX_TOGETHER, SYNCS_AT_ONCE
from mesh.storage.blob_sources import check_room
from mesh.storage.blobs import SMALL_BYTES, PartialBlob
from mesh.storage.folders import sync_folder
from mesh.storage.worker import ThreadWorker


def token_of(data: bytes) -> BlobToken:
    digest = blake3(data)
    return BlobToken(digest.hexdigest(), len(data), chunks_hash(digest.digest()), BlobMetadata("name"))


async def arrive(store: FolderBlobs, data: bytes) -> PartialBlob:
    partial = await store.begin(token_of(data), cached=False)
    await partial.write(0, data)
    return partial


@pytest.fixture
async def store(tmp_path: Path) -> FolderBlobs:
    store = FolderBlobs(tmp_path, ThreadWorker("blobs"))
    await store.open()
    return store


async def test_many_arrive_together_and_are_there_after_a_restart(store: FolderBlobs, tmp_path: Path) -> None:
    contents = [b"%d" % number + bytes(number) for number in range(2 * MAX_TOGETHER)]
    contents.append(os.urandom(SMALL_BYTES))
    partials = [await arrive(store, data) for data in contents]
    assert not store.hashes()
    assert await asyncio.gather(*(partial.finish() for partial in partials)) == [[]] * len(partials)
    await store.close()
    again = FolderBlobs(tmp_path, ThreadWorker("blobs"))
    await again.open()
    for data in contents:
        assert await again.read(token_of(data).hash) == data
        assert await again.info(token_of(data).hash) == token_of(data)
    assert not list((tmp_path / "temp").iterdir())
    await again.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("blobs", "mesh-sync"))]


async def test_one_that_there_is_no_room_for_does_not_fail_the_others(
    store: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(folder: Path, needed: int) -> None:
        if needed >= 1000:
            raise StorageFull(str(folder), needed, 0, 0)
        check_room(folder, needed)

    monkeypatch.setattr("mesh.storage.blob_small.check_room", check)
    contents = [b"a", bytes(1000), b"b"]
    partials = [await arrive(store, data) for data in contents]
    results = await asyncio.gather(*(partial.finish() for partial in partials), return_exceptions=True)
    assert results[0] == results[2] == []
    assert isinstance(results[1], StorageFull)
    assert set(store.hashes()) == {token_of(b"a").hash, token_of(b"b").hash}
    assert not list((tmp_path / "temp").iterdir())
    await store.close()


async def test_a_disk_that_is_full_when_many_are_synced_fails_the_one_that_does_not_fit(
    store: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(fd: int) -> None:
        if os.fstat(fd).st_size == SMALL_BYTES:
            raise OSError(errno.ENOSPC, "no space left")
        os.fsync(fd)

    monkeypatch.setattr("mesh.storage.blob_small.make_durable", sync)
    contents = [bytes(SMALL_BYTES)] + [b"%d" % number for number in range(2 * SYNCS_AT_ONCE)]
    partials = [await arrive(store, data) for data in contents]
    bad, *good = await asyncio.gather(*(partial.finish() for partial in partials), return_exceptions=True)
    assert good == [[]] * len(good)
    assert isinstance(bad, StorageFull)
    await store.close()


async def test_what_was_in_its_place_when_others_failed_is_there_once(
    store: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = sync_folder, 0

    def fail_once(folder: Path | str) -> None:
        nonlocal synced
        synced += 1
        if synced == 1:
            raise OSError(errno.ENOSPC, "no space left")
        sync(folder)

    monkeypatch.setattr("mesh.storage.blob_small.sync_folder", fail_once)
    contents = [b"%d" % number for number in range(5)]
    await asyncio.gather(*(store.take(token_of(data), data, cached=False) for data in contents))
    for data in contents:
        await store.delete(token_of(data).hash)
    assert not list((tmp_path / "blobs").glob("*/*"))  # else it would be back after a restart
    await store.close()


async def test_a_disk_that_fails_afterwards_keeps_nobody_waiting(
    store: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: BlobFolder, hash: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store._folder.partials.here.add(token_of(b"1").hash)
    with monkeypatch.context() as patch:
        patch.setattr(PartialBlobs, "remove", fail)
        async with asyncio.timeout(5):
            with pytest.raises(OSError, match="Input/output"):
                await store.take(token_of(b"1"), b"1", cached=False)
    await store.take(token_of(b"2"), b"2", cached=False)
    await store.close()


async def test_who_gives_up_does_not_stop_the_others_and_close_waits_for_them(store: FolderBlobs) -> None:
    partials = [await arrive(store, b"%d" % number) for number in range(20)]
    finishing = [asyncio.ensure_future(partial.finish()) for partial in partials]
    await asyncio.sleep(0)
    finishing[3].cancel()
    await store.close()
    await asyncio.wait(finishing)
    assert len(store.hashes()) >= 19


async def test_those_that_come_together_lie_together_and_are_found_by_their_names(
    store: FolderBlobs, tmp_path: Path
) -> None:
    contents = [b"%d" % number for number in range(50)]
    await asyncio.gather(*(store.take(token_of(data), data, cached=False) for data in contents))
    (shelf,) = (tmp_path / "blobs").iterdir()
    held = {token_of(data).hash for data in contents}
    assert held <= {path.name for path in shelf.iterdir()}
    first, second = (token_of(data) for data in contents[:2])
    assert store.path(first.hash).parent == shelf
    await store.delete(first.hash)
    assert first.hash not in {path.name for path in shelf.iterdir()}
    await store.add(contents[0], BlobMetadata())
    twin = tmp_path / "blobs" / ("00" if shelf.name != "00" else "01")
    twin.mkdir(exist_ok=True)
    (twin / second.hash).write_bytes(contents[1])  # deleted, but for a power cut, before it came again
    await store.close()
    again = FolderBlobs(tmp_path, ThreadWorker("blobs"))
    await again.open()
    assert set(again.hashes()) == held
    for data in contents:
        assert await again.read(token_of(data).hash) == data
    assert len(list((tmp_path / "blobs").glob(f"*/{second.hash}"))) == 1
    await again.close()
