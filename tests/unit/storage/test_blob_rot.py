"""Blobs that the disk, or somebody, has damaged: nobody gets what is not theirs, and nothing is blocked."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import BlobCorrupt, BlobNotFound, LinkedFileChanged
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_reading import verified_file
from mesh.storage.worker import InlineWorker, ThreadWorker
from tests.unit.storage.test_blob_store_contract import content, describe

DATA = content(3 * CHUNK_BYTES + 5)
TOKEN, HASHES, CHUNKS = describe(DATA)


def flip(file: Path, position: int) -> None:
    """Change one bit."""
    with file.open("r+b") as opened:
        opened.seek(position)
        (byte,) = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ 4]))


async def receive(store: FolderBlobs) -> list[int]:
    """Have what is missing of the blob; which chunks that was."""
    missing = []
    partial = await store.begin(TOKEN, cached=False)
    if partial.hashes is None:
        await partial.set_hashes(HASHES)
    while damaged := [*partial.held.missing()] or await partial.finish():
        missing += damaged
        for index in damaged:
            await partial.write(index, CHUNKS[index])
    return missing


# --- reading ------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, len(DATA) + 9), st.one_of(st.none(), st.integers(0, 2 * CHUNK_BYTES))),
        max_size=5,
    )
)
def test_a_verified_file_reads_as_any_other(reads: list[tuple[int, int | None]]) -> None:
    fd = os.memfd_create("blob") if hasattr(os, "memfd_create") else pytest.skip("needs memfd_create")
    os.write(fd, DATA)
    expected = io.BytesIO(DATA)
    with verified_file(fd, TOKEN, HASHES, lambda: BlobCorrupt(TOKEN.hash)) as file:
        for position, size in reads:
            assert file.seek(position) == expected.seek(position)
            assert file.read(size) == expected.read(size)
            assert file.tell() == expected.tell()
        assert file.seek(-7, os.SEEK_END) == len(DATA) - 7
        assert file.read() == DATA[-7:]
    assert file.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_file_that_is_open_gives_what_is_good_and_says_what_is_not(store: FolderBlobs) -> None:
    lost: list[tuple[str, BlobToken | None]] = []
    store.on_lost(lambda error, token: lost.append((error.hash, token)))
    token = await store.add(DATA, BlobMetadata("name"))
    flip(store.path(token.hash), 2 * CHUNK_BYTES + 9)
    with store.open_file(token.hash) as file:
        assert await asyncio.to_thread(file.read, 2 * CHUNK_BYTES) == DATA[: 2 * CHUNK_BYTES]
        for _ in range(2):
            with pytest.raises(BlobCorrupt, match="damaged on this disk"):
                await asyncio.to_thread(file.read, 1)
        file.seek(3 * CHUNK_BYTES)
        assert file.read() == DATA[3 * CHUNK_BYTES :]
        await asyncio.sleep(0.01)
        assert lost == [(token.hash, token)]
        assert not store.exists(token.hash)
        assert await receive(store) == [2]
        file.seek(0)
        assert file.read() == DATA


async def test_a_file_that_is_read_after_the_store_was_closed_still_says_what_is_damaged(
    store: FolderBlobs,
) -> None:
    token = await store.add(DATA, BlobMetadata())
    flip(store.path(token.hash), 0)
    with store.open_file(token.hash) as file:
        await store.close()
        with pytest.raises(BlobCorrupt):
            file.read(1)


async def test_a_linked_file_that_is_open_and_changes_says_so(store: FolderBlobs, tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(DATA)
    token = await store.link(film, BlobMetadata())
    with store.open_file(token.hash) as file:
        assert file.read(1) == DATA[:1]
        flip(film, CHUNK_BYTES + 5)
        with pytest.raises(LinkedFileChanged, match="has other content now"):
            file.read()
    await asyncio.sleep(0.01)
    assert not store.exists(token.hash)


async def test_a_chunk_that_has_to_be_verified_is(store: FolderBlobs) -> None:
    token = await store.add(DATA, BlobMetadata())
    flip(store.path(token.hash), CHUNK_BYTES)
    assert await store.read_chunk(token.hash, 0, verified=True) == CHUNKS[0]
    assert await store.read_chunk(token.hash, 1) != CHUNKS[1]
    with pytest.raises(BlobCorrupt):
        await store.read_chunk(token.hash, 1, verified=True)
    assert await receive(store) == [1]


# --- what is in the place of a file ----------------------------------------------------------------------


async def test_what_several_find_damaged_at_once_is_dropped_once(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path / "data", ThreadWorker("blobs"))
    await store.open()
    await store.add(DATA, BlobMetadata())
    flip(store.path(TOKEN.hash), CHUNK_BYTES)
    found = await asyncio.gather(*(store.verify(TOKEN.hash) for _ in range(3)), return_exceptions=True)
    assert [1] in found
    assert all(isinstance(other, BlobNotFound) for other in found if other != [1])
    assert await receive(store) == [1]
    await store.close()


async def test_what_the_disk_cannot_read_is_damaged(
    store: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, bad = os.preadv, True

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if bad and offset == CHUNK_BYTES:
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, buffers, offset)

    await store.add(DATA, BlobMetadata())
    monkeypatch.setattr(os, "preadv", preadv)
    with store.open_file(TOKEN.hash) as file, pytest.raises(BlobCorrupt):
        file.read()
    assert await store.verify(TOKEN.hash) == [1]
    partial = await store.begin(TOKEN, cached=False)
    await partial.set_hashes(HASHES)
    assert await partial.finish() == [1]
    await partial.write(1, CHUNKS[1])
    bad = False  # a disk has other places for what is written again
    assert await partial.finish() == []
    assert await store.read(TOKEN.hash) == DATA


def symbolic_link(place: Path) -> None:
    target = place.parent / "elsewhere"
    target.write_bytes(b"somebody's")
    place.symlink_to(target)


def dangling_link(place: Path) -> None:
    place.symlink_to(place.parent / "nowhere")


def empty_directory(place: Path) -> None:
    place.mkdir()


def directory(place: Path) -> None:
    place.mkdir()
    (place / "somebody's").write_bytes(b"somebody's")


def a_socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # the name of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


def a_fifo(place: Path) -> None:
    os.mkfifo(place)


STRAYS = [symbolic_link, dangling_link, empty_directory, directory, a_socket, a_fifo]


def kept(folder: Path) -> int:
    """How many of somebody's files are still there."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.read_bytes() == b"somebody's" for path in files)


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("restarted", [False, True])
async def test_nothing_in_the_place_of_a_partial_blob_blocks_it(
    store: FolderBlobs, tmp_path: Path, stray: Callable[[Path], None], restarted: bool
) -> None:
    partial = await store.begin(TOKEN, cached=False)
    await partial.set_hashes(HASHES)
    await partial.write(0, CHUNKS[0])
    await partial.close()
    place = tmp_path / f"data/partial/{TOKEN.hash}.data"
    place.unlink()
    stray(place)
    somebodys = kept(tmp_path)
    if restarted:
        await store.open()
    assert await receive(store) == [0, 1, 2, 3]
    assert await store.read(TOKEN.hash) == DATA
    assert kept(tmp_path) == somebodys
    assert not os.path.lexists(place)


@pytest.mark.parametrize("stray", STRAYS)
async def test_what_is_in_the_place_of_a_partial_blob_goes_with_it(
    store: FolderBlobs, tmp_path: Path, stray: Callable[[Path], None]
) -> None:
    await (await store.begin(TOKEN, cached=False)).close()
    place = tmp_path / f"data/partial/{TOKEN.hash}.data"
    place.unlink()
    stray(place)
    somebodys = kept(tmp_path)
    await store.delete(TOKEN.hash)
    assert not os.path.lexists(place)
    assert not store.partials()
    assert kept(tmp_path) == somebodys


async def use(store: FolderBlobs, hash: str, how: str, tmp_path: Path) -> None:
    match how:
        case "read":
            await store.read(hash)
        case "open":
            store.open_file(hash)
        case "chunk":
            await store.read_chunk(hash, 0)
        case "export":
            await store.export(hash, tmp_path / "copy")
        case "verify":
            await store.verify(hash)


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("size", [10, len(DATA)])
@pytest.mark.parametrize("how", ["read", "open", "chunk", "export", "verify", "add"])
async def test_what_is_in_the_place_of_a_whole_blob_is_not_read(
    store: FolderBlobs, tmp_path: Path, stray: Callable[[Path], None], size: int, how: str
) -> None:
    lost: list[tuple[str, BlobToken | None]] = []
    store.on_lost(lambda error, token: lost.append((error.hash, token)))
    token = await store.add(DATA[:size], BlobMetadata("name"))
    place = store.path(token.hash)
    place.unlink()
    stray(place)
    somebodys = kept(tmp_path)
    if how != "add":
        with pytest.raises(BlobCorrupt):
            await use(store, token.hash, how, tmp_path)
        assert lost == [(token.hash, token)]
        assert not store.exists(token.hash)
    await store.add(DATA[:size], BlobMetadata())
    assert await store.read(token.hash) == DATA[:size]
    assert kept(tmp_path) == somebodys


@pytest.mark.parametrize("stray", STRAYS)
async def test_small_blobs_that_come_together_are_kept_in_the_place_of_anything(
    store: FolderBlobs, tmp_path: Path, stray: Callable[[Path], None]
) -> None:
    tokens = [describe(bytes([n]) * 9)[0] for n in range(3)]
    shelf = tmp_path / "data/blobs" / tokens[0].hash[:2]
    shelf.mkdir()
    stray(shelf / tokens[1].hash)
    await asyncio.gather(*(store.take(t, bytes([n]) * 9, cached=False) for n, t in enumerate(tokens)))
    for n, token in enumerate(tokens):
        assert await store.read(token.hash) == bytes([n]) * 9


@pytest.mark.parametrize("suffix", [".token", ".chunks"])
@pytest.mark.parametrize("stray", STRAYS)
async def test_side_files_are_made_again_in_the_place_of_anything(
    store: FolderBlobs, stray: Callable[[Path], None], suffix: str
) -> None:
    await store.add(DATA, BlobMetadata())
    side = store.path(TOKEN.hash).with_suffix(suffix)
    side.unlink()
    stray(side)
    assert await store.info(TOKEN.hash) == TOKEN
    assert await store.chunk_list(TOKEN.hash) == HASHES
    assert side.is_file()


async def test_strangers_in_its_folders_do_not_keep_a_store_from_opening(
    store: FolderBlobs, tmp_path: Path
) -> None:
    await store.add(DATA, BlobMetadata())
    data = tmp_path / "data"
    (data / "blobs" / ".DS_Store").write_bytes(b"x")
    (data / "blobs" / "ff").write_bytes(b"x")
    (data / "temp" / "folder" / "deep").mkdir(parents=True)
    (data / "temp" / "link").symlink_to(tmp_path)
    (data / "partial" / "readme.txt").write_bytes(b"x")
    again = FolderBlobs(data, InlineWorker())
    await again.open()
    assert await again.read(TOKEN.hash) == DATA
    assert not list((data / "temp").iterdir())
    assert tmp_path.is_dir()
    number = next(n for n in range(10_000) if describe(str(n).encode())[0].hash.startswith("ff"))
    token = await again.add(str(number).encode(), BlobMetadata())
    assert await again.read(token.hash) == str(number).encode()
    await again.close()


@pytest.mark.parametrize("size", [1000, len(DATA)])
@pytest.mark.parametrize("how", ["flipped", "grown", "removed"])
@pytest.mark.parametrize("then", ["added", "deleted"])
async def test_what_was_damaged_is_remembered_until_it_is_whole_again(
    tmp_path: Path, size: int, how: str, then: str
) -> None:
    store = FolderBlobs(tmp_path / "blobs", InlineWorker())
    await store.open()
    token = await store.add(DATA[:size], BlobMetadata("name"))
    other = await store.add(b"other", BlobMetadata())
    assert store.damaged() == {}
    path = store.path(token.hash)
    match how:
        case "flipped":
            flip(path, 5)
        case "grown":
            path.write_bytes(DATA[:size] + b"more")
        case _:
            path.unlink()
    if how == "flipped":
        assert await store.verify(token.hash) == [0]
    else:
        with pytest.raises(BlobCorrupt):
            await store.verify(token.hash)
    for _ in range(2):
        assert store.damaged() == {token.hash: token}
        await store.close()
        store = FolderBlobs(tmp_path / "blobs", InlineWorker())
        await store.open()
    if then == "added":
        await store.add(DATA[:size], BlobMetadata())
    else:
        await store.delete(token.hash)
    assert store.damaged() == {}
    assert not store.partials()
    assert list((tmp_path / "blobs" / "partial").iterdir()) == []
    assert await store.verify(other.hash) == []
    await store.close()
