"""Blobs that are files of somebody else's, read where they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.core.tokens import CHUNK_BYTES, BlobMetadata
from mesh.errors import BlobNotFound, LinkedFileChanged, SourceError, SourceNotFound
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_memory import MemoryBlobs
from mesh.storage.worker import InlineWorker
from tests.unit.storage.test_blob_store_contract import content, describe

DATA = content(2 * CHUNK_BYTES + 5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film"
    path.write_bytes(DATA)
    return path


def rewrite(file: Path, position: int) -> None:
    """Change a byte so that nothing but the content tells."""
    before = file.stat()
    with file.open("r+b") as open_file:
        open_file.seek(position)
        open_file.write(bytes([DATA[position] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_linked_file_is_read_where_it_is(store: FolderBlobs, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "a symbolic link"
    link.symlink_to(file)
    token = await store.link(link, BlobMetadata("film"))
    expected, hashes, chunks = describe(DATA)
    assert (token.hash, token.chunks_hash) == (expected.hash, expected.chunks_hash)
    assert await store.info(token.hash) == token
    assert store.storage_bytes() == len(DATA)
    assert not list((tmp_path / "data").rglob(token.hash))
    assert store.path(token.hash) == file
    assert await store.read(token.hash) == DATA
    assert await store.chunk_list(token.hash) == hashes
    for index, chunk in enumerate(chunks):
        assert await store.read_chunk(token.hash, index, 3) == bytes(3) + chunk
    with store.open_file(token.hash) as opened:
        assert opened.read() == DATA
    assert await store.verify(token.hash) == []
    await store.export(token.hash, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA
    await store.close()
    again = FolderBlobs(tmp_path / "data", InlineWorker())
    await again.open()
    assert await again.info(token.hash) == token
    assert await again.read(token.hash) == DATA
    await again.delete(token.hash)
    assert file.read_bytes() == DATA
    assert again.hashes() == []
    await again.close()


async def read(store: FolderBlobs, use: str, hash: str, index: int, out: Path) -> None:
    """Read a blob in one of the ways there are."""
    match use:
        case "open_file":
            store.open_file(hash).close()
        case "read_chunk":
            await store.read_chunk(hash, index)
        case "export":
            await store.export(hash, out)
        case "verify":
            await store.verify(hash)
        case _:
            await store.read(hash)


def grow(file: Path) -> None:
    with file.open("ab") as open_file:
        open_file.write(b"more")


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def replace(file: Path) -> None:
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(DATA)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(file)


CHANGES = [grow, touch, replace, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", ["read", "read_chunk", "export", "open_file", "verify"])
async def test_a_changed_file_is_noticed_by_whoever_reads_and_dropped(
    store: FolderBlobs, file: Path, tmp_path: Path, change: Callable[[Path], None], use: str
) -> None:
    lost: list[str] = []
    store.on_lost(lambda error, token: lost.append(error.hash))
    token = await store.link(file, BlobMetadata())
    change(file)
    with pytest.raises(LinkedFileChanged, match="add the file again"):
        await read(store, use, token.hash, 0, tmp_path / "out")
    assert lost == [token.hash]
    assert not store.exists(token.hash)
    assert store.partials() == []
    assert not os.path.lexists(tmp_path / "out")
    with pytest.raises(BlobNotFound):
        await store.read_chunk(token.hash, 0)


@pytest.mark.parametrize("use", ["read", "read_chunk", "export", "verify"])
async def test_a_change_that_left_no_trace_but_in_the_bytes_is_noticed_too(
    store: FolderBlobs, file: Path, tmp_path: Path, use: str
) -> None:
    token = await store.link(file, BlobMetadata())
    rewrite(file, CHUNK_BYTES + 5)
    if use == "verify":
        assert await store.verify(token.hash) == [1]
    else:
        with pytest.raises(LinkedFileChanged):
            await read(store, use, token.hash, 1, tmp_path / "out")
    assert not store.exists(token.hash)
    assert not os.path.lexists(tmp_path / "out")


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changed_while_nobody_looked_is_dropped_at_the_next_start(
    store: FolderBlobs,
    file: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await store.link(file, BlobMetadata())
    await store.close()
    change(file)
    again = FolderBlobs(tmp_path / "data", InlineWorker())
    with caplog.at_level(logging.WARNING):
        await again.open()
    assert again.hashes() == []
    assert "not what it was" in caplog.text
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    await again.close()


async def test_a_changed_file_is_noticed_by_whoever_asks(store: FolderBlobs, file: Path) -> None:
    lost: list[str] = []
    store.on_lost(lambda error, token: lost.append(error.hash))
    token = await store.link(file, BlobMetadata())
    assert await store.holds(token.hash)
    file.write_bytes(DATA + b"more")
    assert not await store.holds(token.hash)
    assert await store.info(token.hash) is None
    assert (store.hashes(), lost) == ([], [token.hash])
    token = await store.link(file, BlobMetadata())
    file.unlink()
    assert await store.info(token.hash) is None
    assert not store.exists(token.hash)


async def test_a_copy_is_better_than_a_link(store: FolderBlobs, file: Path) -> None:
    linked = await store.link(file, BlobMetadata("first"))
    assert await store.add(file, BlobMetadata("second")) == linked  # its first metadata stay
    assert store.path(linked.hash) != file
    assert await store.link(file, BlobMetadata("third")) == linked
    assert store.path(linked.hash) != file
    file.unlink()
    assert await store.read(linked.hash) == DATA


async def test_a_file_that_moved_is_linked_again(store: FolderBlobs, file: Path) -> None:
    token = await store.link(file, BlobMetadata("film"))
    moved = file.rename(file.with_name("moved"))
    assert await store.link(moved, BlobMetadata()) == token
    assert store.path(token.hash) == moved
    assert await store.read(token.hash) == DATA


async def test_what_cannot_be_linked(store: FolderBlobs, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        await store.link(tmp_path / "absent", BlobMetadata())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError, match="data directory"):
        await MemoryBlobs().link(tmp_path / "file", BlobMetadata())
