"""What only the folder does: durability, crashes, healing, a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mesh.core.tokens import CHUNK_BYTES, BlobMetadata
from mesh.errors import BlobCorrupt, BlobNotFound, DataDirUnusable, StorageFull
from mesh.storage import write_back
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_sources import WRITE_BACK_BYTES
from mesh.storage.worker import InlineWorker, ThreadWorker
from tests.unit.storage.test_blob_store_contract import content, describe


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Callable[[], FolderBlobs]]:
    stores: list[FolderBlobs] = []

    def make() -> FolderBlobs:
        stores.append(FolderBlobs(tmp_path / "data", InlineWorker()))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_everything_is_private_and_lies_where_it_says(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token = await store.add(content(2 * CHUNK_BYTES), BlobMetadata("n"))
    place = f"blobs/{token.hash[:2]}/{token.hash}"
    assert files(tmp_path / "data") == {place, f"{place}.chunks", f"{place}.token"}
    for path in (tmp_path / "data").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


async def test_a_restart_finds_everything_and_removes_what_is_left_over(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token = await store.add(content(2 * CHUNK_BYTES), BlobMetadata("n", custom={"a": "b"}))
    (tmp_path / "data/temp/1-1").write_bytes(b"half a copy")
    orphan = tmp_path / f"data/blobs/{token.hash[:2]}/{'f' * 64}.chunks"
    orphan.write_bytes(b"x")
    again = opened()
    await again.open()
    assert again.hashes() == [token.hash]
    assert again.storage_bytes() == 2 * CHUNK_BYTES
    assert await again.info(token.hash) == token
    assert not orphan.exists()
    assert not list((tmp_path / "data/temp").iterdir())


async def test_lost_or_damaged_side_files_are_made_again(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    data = content(2 * CHUNK_BYTES + 1)
    token, hashes, _ = describe(data)
    await store.add(data, BlobMetadata("its name"))
    place = store.path(token.hash)
    for damage in (b"", b"garbage", None):
        for suffix in (".token", ".chunks"):
            side = place.with_suffix(suffix)
            side.unlink() if damage is None else side.write_bytes(damage)
        assert await store.info(token.hash) == token  # without the name, which was lost
        assert await store.chunk_list(token.hash) == hashes


async def test_a_token_with_a_flipped_bit_is_made_again(
    opened: Callable[[], FolderBlobs],
) -> None:
    store = opened()
    await store.open()
    token = await store.add(content(10), BlobMetadata())
    side = store.path(token.hash).with_suffix(".token")
    written = side.read_bytes()
    for position in range(len(written)):
        side.write_bytes(written[:position] + bytes([written[position] ^ 1]) + written[position + 1 :])
        assert await store.info(token.hash) == token


async def test_lost_side_files_keep_nothing_from_being_read_while_the_disk_is_full(
    opened: Callable[[], FolderBlobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    data = content(2 * CHUNK_BYTES + 1)
    token, hashes, _ = describe(data)
    await store.add(data, BlobMetadata())
    for suffix in (".token", ".chunks"):
        store.path(token.hash).with_suffix(suffix).unlink()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("mesh.storage.blob_sides.write_all", full)
    assert await store.chunk_list(token.hash) == hashes
    assert await store.info(token.hash) == token
    assert await store.verify(token.hash) == []


async def test_content_that_rotted_is_noticed_when_it_is_hashed_again(
    opened: Callable[[], FolderBlobs],
) -> None:
    store = opened()
    await store.open()
    token = await store.add(bytes(CHUNK_BYTES + 1), BlobMetadata())
    store.path(token.hash).write_bytes(b"x" * (CHUNK_BYTES + 1))
    store.path(token.hash).with_suffix(".token").unlink()
    assert await store.info(token.hash) is None
    assert not store.exists(token.hash)


async def test_a_file_removed_behind_our_back_is_not_found(opened: Callable[[], FolderBlobs]) -> None:
    store = opened()
    await store.open()
    token = await store.add(b"good", BlobMetadata())
    store.path(token.hash).unlink()
    with pytest.raises(BlobNotFound):
        await store.read_chunk(token.hash, 0)
    assert not store.exists(token.hash)


async def test_what_a_crash_left_half_written_is_not_trusted(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(4 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    for index in (0, 1, 3):
        await partial.write(index, chunks[index])
    await partial.close()
    file = tmp_path / f"data/partial/{token.hash}.data"
    with file.open("r+b") as damaged:
        damaged.seek(CHUNK_BYTES + 7)
        damaged.write(bytes(4096))
    again = opened()
    await again.open()
    partial = await again.begin(token, cached=False)
    assert list(partial.held) == [0, 1, 3]  # nothing was read yet
    with pytest.raises(BlobNotFound):
        await again.read_chunk(token.hash, 1)
    assert list(partial.held) == [0, 3]
    assert await again.read_chunk(token.hash, 3) == chunks[3]
    await partial.close()
    file.with_suffix(".chunks").write_bytes(b"damaged too")
    partial = await again.begin(token, cached=False)
    assert partial.hashes is None
    assert not partial.held
    await partial.set_hashes(hashes)  # fetched again
    await partial.write(2, chunks[2])
    assert partial.held.complete
    assert await partial.finish() == [1]
    assert not again.exists(token.hash)
    await partial.write(1, chunks[1])
    assert await partial.finish() == []
    assert await again.read(token.hash) == b"".join(chunks)


async def test_what_was_found_damaged_on_the_way_and_fetched_again_is_no_ones_fault(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(4 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    for index in (1, 2):
        await partial.write(index, chunks[index])
    await partial.close()
    with (tmp_path / f"data/partial/{token.hash}.data").open("r+b") as damaged:
        damaged.seek(CHUNK_BYTES + 7)
        damaged.write(bytes(4096))
    partial = await store.begin(token, cached=False)
    await partial.write(0, chunks[0])
    await partial.write(3, chunks[3])  # by now the damaged one is hashed
    with pytest.raises(BlobNotFound):
        await store.read_chunk(token.hash, 1)
    await partial.write(1, chunks[1])
    assert await partial.finish() == []
    assert await store.read(token.hash) == b"".join(chunks)


async def test_a_chunk_with_a_hole_is_not_held(opened: Callable[[], FolderBlobs], tmp_path: Path) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(3 * CHUNK_BYTES + 7))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    await partial.write(3, chunks[3])
    await partial.close()
    with (tmp_path / f"data/partial/{token.hash}.data").open("r+b") as interrupted:
        interrupted.seek(CHUNK_BYTES)
        interrupted.write(chunks[1][: CHUNK_BYTES // 2])
    partial = await store.begin(token, cached=False)
    assert list(partial.held) == [0, 3]


async def test_damage_found_at_the_end_costs_the_damaged_chunk(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(3 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    for index in (2, 1):
        await partial.write(index, chunks[index])
    with (tmp_path / f"data/partial/{token.hash}.data").open("r+b") as damaged:
        damaged.seek(CHUNK_BYTES + 7)
        damaged.write(bytes(4096))
    await partial.write(0, chunks[0])  # the whole is hashed over what is in the file
    assert await partial.finish() == [1]
    assert not store.exists(token.hash)
    await partial.write(1, chunks[1])
    assert await partial.finish() == []
    assert await store.read(token.hash) == b"".join(chunks)


async def test_a_full_disk_leaves_nothing_of_an_add_and_what_arrived_of_a_fetch(
    opened: Callable[[], FolderBlobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    data = content(3 * CHUNK_BYTES)
    token, hashes, chunks = describe(data)
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    pwrite = os.pwrite
    room = [1]

    def full(fd: int, data: memoryview, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFull) as raised:
        await store.add(data, BlobMetadata())
    assert raised.value.needed > 0
    assert not list((tmp_path / "data/temp").iterdir())
    assert store.hashes() == []
    with pytest.raises(StorageFull):
        await partial.write(1, chunks[1])
    assert list(partial.held) == [0]
    room[0] = 100
    for index in (1, 2):
        await partial.write(index, chunks[index])
    assert await partial.finish() == []


async def test_a_disk_that_breaks_its_promise_at_the_end_costs_the_fetch(
    opened: Callable[[], FolderBlobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(2 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    for index in (0, 1):
        await partial.write(index, chunks[index])

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(StorageFull):
            await partial.finish()
    assert not partial.held  # which of it is on the disk, nobody can tell
    assert (tmp_path / f"data/partial/{token.hash}.data").stat().st_blocks == 0
    for index in (0, 1):
        await partial.write(index, chunks[index])
    assert await partial.finish() == []


async def test_a_disk_that_breaks_its_promise_on_the_way_costs_what_had_come(
    opened: Callable[[], FolderBlobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(6 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write_back, "wait", full)
        for index in range(4):
            await partial.write(index, chunks[index])
        assert len(partial.held) == 4
        with pytest.raises(StorageFull):
            await partial.write(4, chunks[4])
    assert not partial.held
    for index, chunk in enumerate(chunks):
        await partial.write(index, chunk)
    assert await partial.finish() == []


@pytest.mark.parametrize("coming", ["added", "fetched"])
async def test_no_more_than_a_little_is_ever_unwritten(
    opened: Callable[[], FolderBlobs], monkeypatch: pytest.MonkeyPatch, coming: str
) -> None:
    store = opened()
    await store.open()
    data = content(20 * CHUNK_BYTES + 1)
    started: list[tuple[int, int]] = []
    under_way: list[int] = []

    def start(fd: int, offset: int, length: int) -> None:
        started.append((offset, length))
        under_way.append(sum(length for _, length in started))
        real_start(fd, offset, length)

    def wait(fd: int, offset: int, length: int) -> None:
        started.remove((offset, length))
        real_wait(fd, offset, length)

    real_start, real_wait = write_back.start, write_back.wait
    monkeypatch.setattr(write_back, "start", start)
    monkeypatch.setattr(write_back, "wait", wait)
    if coming == "added":
        await store.add(data, BlobMetadata())
    else:
        token, hashes, chunks = describe(data)
        partial = await store.begin(token, cached=False)
        await partial.set_hashes(hashes)
        for index, chunk in enumerate(chunks):
            await partial.write(index, chunk)
        assert await partial.finish() == []
    assert len(under_way) == 21
    assert max(under_way) <= WRITE_BACK_BYTES + CHUNK_BYTES


async def test_the_worker_of_a_store_gives_way(tmp_path: Path) -> None:
    worker = ThreadWorker("blobs")
    store = FolderBlobs(tmp_path, worker)
    await store.open()
    nice = await worker.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert nice > os.getpriority(os.PRIO_PROCESS, os.getpid()) or sys.platform != "linux"
    await store.close()


async def test_export_to_a_full_disk_leaves_nothing(
    opened: Callable[[], FolderBlobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    token = await store.add(b"data", BlobMetadata())

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(StorageFull):
        await store.export(token.hash, tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*"))


class Disk:
    """What ``statvfs`` tells of a disk."""

    f_frsize = 1

    def __init__(self, size: int, free: int) -> None:
        self.f_blocks, self.f_bavail = size, free


async def test_a_blob_that_does_not_fit_is_refused_at_its_start(
    opened: Callable[[], FolderBlobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(3 * CHUNK_BYTES))
    disk = Disk(1000 * CHUNK_BYTES, 52 * CHUNK_BYTES)  # of which 50 stay free
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with pytest.raises(StorageFull) as raised:
        await store.begin(token, cached=False)
    assert (raised.value.needed, raised.value.free) == (53 * CHUNK_BYTES, 52 * CHUNK_BYTES)
    assert not files(tmp_path / "data")
    disk.f_bavail = 53 * CHUNK_BYTES
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(0, chunks[0])
    await partial.close()
    disk.f_bavail = 52 * CHUNK_BYTES  # what is here of it already needs no room
    partial = await store.begin(token, cached=False)
    assert list(partial.held) == [0]
    disk.f_bavail = 50 * CHUNK_BYTES  # somebody else took the room
    with pytest.raises(StorageFull):
        await partial.write(1, chunks[1])
    assert list(partial.held) == [0]
    with pytest.raises(StorageFull):
        await store.add(b"small", BlobMetadata())


async def test_a_source_that_cannot_fit_is_refused_before_it_is_copied(
    opened: Callable[[], FolderBlobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    source = tmp_path / "source"
    source.write_bytes(content(3 * CHUNK_BYTES))
    disk = Disk(1 << 40, (1 << 30) + 2 * CHUNK_BYTES)  # of a large one 1 GiB stays free
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    for given in (source, source.read_bytes()):
        with pytest.raises(StorageFull, match="stay free for documents") as raised:
            await store.add(given, BlobMetadata())
        assert raised.value.missing == CHUNK_BYTES
    disk.f_bavail += CHUNK_BYTES
    assert (await store.add(source, BlobMetadata())).size_bytes == 3 * CHUNK_BYTES


@pytest.mark.parametrize("size", [2 * CHUNK_BYTES + 3, 3 * CHUNK_BYTES])
async def test_holes_stay_holes(opened: Callable[[], FolderBlobs], tmp_path: Path, size: int) -> None:
    store = opened()
    await store.open()
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(CHUNK_BYTES)
        file.write(b"in the middle")
        file.truncate(size)
    token = await store.add(source, BlobMetadata())
    assert token.hash == describe(source.read_bytes())[0].hash
    held = store.path(token.hash)
    assert held.stat().st_size == size
    assert held.stat().st_blocks * 512 <= CHUNK_BYTES + 65536
    assert await store.read(token.hash) == source.read_bytes()
    assert await store.verify(token.hash) == []


def rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_what_rotted_is_neither_exported_nor_read_and_its_good_chunks_stay(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    lost: list[str] = []
    store.on_lost(lambda error, token: lost.append(error.hash))
    for use in (lambda hash: store.export(hash, tmp_path / "out"), store.read):
        token = await store.add(content(2 * CHUNK_BYTES), BlobMetadata())
        rot(store.path(token.hash))
        with pytest.raises(BlobCorrupt):
            await use(token.hash)
        assert not store.exists(token.hash)
        assert lost.pop() == token.hash
        assert store.partials() == [token.hash]
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        partial = await store.begin(token, cached=False)
        assert await partial.finish() == [1]
        await partial.close()
        await store.delete(token.hash)
        assert not files(tmp_path / "data")


async def test_adding_heals_what_rotted(opened: Callable[[], FolderBlobs]) -> None:
    store = opened()
    await store.open()
    token = await store.add(content(2 * CHUNK_BYTES), BlobMetadata("first"))
    rot(store.path(token.hash))
    assert await store.add(content(2 * CHUNK_BYTES), BlobMetadata("second")) == token
    assert await store.read(token.hash) == content(2 * CHUNK_BYTES)


async def test_folders_that_were_removed_are_made_again(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token, hashes, chunks = describe(content(2 * CHUNK_BYTES))
    shutil.rmtree(tmp_path / "data")
    await store.add(b"one", BlobMetadata())
    shutil.rmtree(tmp_path / "data")
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    for index, chunk in enumerate(chunks):
        await partial.write(index, chunk)
    assert await partial.finish() == []
    assert await store.read(token.hash) == b"".join(chunks)


async def test_a_folder_that_cannot_be_written_to_is_named(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    token, _, _ = describe(content(2 * CHUNK_BYTES))
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_bytes(b"")  # as a read-only disk, for root too
    with pytest.raises(DataDirUnusable, match="data"):
        await store.add(b"one", BlobMetadata())
    with pytest.raises(DataDirUnusable, match="data"):
        await store.begin(token, cached=False)


async def test_export_without_copy_file_range(
    opened: Callable[[], FolderBlobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    await store.open()
    data = content(2 * CHUNK_BYTES + 3)
    token = await store.add(data, BlobMetadata())

    def unsupported(*_: object) -> int:
        raise OSError(errno.EXDEV, "not here")

    monkeypatch.setattr(os, "copy_file_range", unsupported)
    await store.export(token.hash, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


async def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirUnusable):
        await FolderBlobs(tmp_path / "file" / "data", InlineWorker()).open()


async def test_opening_ten_thousand_blobs_is_quick(opened: Callable[[], FolderBlobs], tmp_path: Path) -> None:
    for number in range(10_000):
        name = f"{number:064x}"[::-1]
        folder = tmp_path / "data/blobs" / name[:2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    store = opened()
    before = time.process_time()
    await store.open()
    assert len(store.hashes()) == 10_000
    assert time.process_time() - before < 1.0


ADDER = """
import asyncio, resource, sys
from mesh.core.tokens import BlobMetadata
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import ThreadWorker
async def main():
    store = FolderBlobs(sys.argv[1], ThreadWorker("blobs"))
    await store.open()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    token = await store.add(sys.argv[2], BlobMetadata())
    assert await store.verify(token.hash) == []
    await store.export(token.hash, sys.argv[3])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, token.size_bytes)
    await store.close()
asyncio.run(main())
"""


@pytest.mark.processes
def test_a_large_sparse_file_takes_neither_memory_nor_disk(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(100 * CHUNK_BYTES + 17)
        file.write(b"something")
        file.truncate(256 * CHUNK_BYTES + 1)
    ran = subprocess.run(
        [sys.executable, "-c", ADDER, str(tmp_path / "data"), str(source), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        check=True,
    )
    grown_kib, size = map(int, ran.stdout.split())
    assert size == 256 * CHUNK_BYTES + 1
    assert grown_kib < 32 * 1024
    taken = sum(path.stat().st_blocks * 512 for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert taken < 4 * CHUNK_BYTES


RECEIVER = """
import asyncio, sys
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import ThreadWorker
from tests.unit.storage.test_blob_store_contract import content, describe
async def main():
    store = FolderBlobs(sys.argv[1], ThreadWorker("blobs"))
    await store.open()
    token, hashes, chunks = describe(content(24 << 20))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    print(len(partial.held), flush=True)
    for index, chunk in enumerate(chunks):
        await partial.write(index, chunk)
        print("wrote", index, flush=True)
    await partial.finish()
    print("whole", flush=True)
asyncio.run(main())
"""


def receive_until_killed(folder: Path, chunks: int) -> None:
    """A process that receives a blob, killed once it has written ``chunks``."""
    with subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:
        assert process.stdout is not None
        for _ in range(chunks + 1):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)


@pytest.mark.processes
@pytest.mark.parametrize("kill_after", [1, 9, 24])
async def test_kill_minus_nine_while_receiving_loses_nothing_that_was_written(
    opened: Callable[[], FolderBlobs], tmp_path: Path, kill_after: int
) -> None:
    receive_until_killed(tmp_path / "data", kill_after)
    store = opened()
    await store.open()
    token, _, chunks = describe(content(24 << 20))
    if not store.exists(token.hash):  # it may have finished before the signal arrived
        partial = await store.begin(token, cached=False)
        assert len(partial.held) >= kill_after
        for index in partial.held.missing():
            await partial.write(index, chunks[index])
        assert await partial.finish() == []
    assert await store.read(token.hash) == b"".join(chunks)


async def test_a_chunk_list_that_comes_while_its_blob_is_closed_does_no_harm(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path / "data", ThreadWorker("blobs"))
    await store.open()
    token, hashes, chunks = describe(content(2 * CHUNK_BYTES))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(1, chunks[1])
    coming = asyncio.create_task(partial.set_hashes(hashes))
    await asyncio.sleep(0)
    await partial.close()
    await coming
    partial = await store.begin(token, cached=False)
    assert list(partial.held) == [1]
    await store.close()


async def test_who_gives_up_at_any_moment_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(10))
    store = FolderBlobs(tmp_path / "data", ThreadWorker("blobs"))
    await store.open()
    before = len(os.listdir("/dev/fd"))
    for source in (b"1234", tmp_path / "source"):
        for passes in range(30):
            adding = asyncio.ensure_future(store.add(source, BlobMetadata()))
            for _ in range(passes):
                await asyncio.sleep(0)
            await store._worker.run(time.sleep, 0.001)  # so that what it asks for next has to wait
            adding.cancel()
            await asyncio.wait({adding})
    await store._worker.run(lambda: None)
    assert len(os.listdir("/dev/fd")) == before
    assert not list((tmp_path / "data/temp").iterdir())
    await store.close()


async def test_nothing_stays_of_a_partial_blob_that_is_added_or_deleted_meanwhile(
    opened: Callable[[], FolderBlobs], tmp_path: Path
) -> None:
    store = opened()
    await store.open()
    data = content(2 * CHUNK_BYTES)
    token, hashes, _ = describe(data)
    await store.add(data, BlobMetadata())
    partial = await store.begin(token, cached=False)  # asked for before that was known
    await partial.close()
    assert not files(tmp_path / "data/partial")
    await store.delete(token.hash)
    partial = await store.begin(token, cached=False)
    await store.delete(token.hash)
    await partial.set_hashes(hashes)
    assert not files(tmp_path / "data/partial")
    (tmp_path / f"data/partial/{token.hash}.chunks").write_bytes(hashes)  # a crash while it was deleted
    again = opened()
    await again.open()
    assert not files(tmp_path / "data/partial")
