"""Files that appear in the inbox."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from mesh.core.status import DistributionHandle, TransferState
from mesh.errors import BlobCorrupt, BlobNotFound, InvalidNode
from tests.unit.distributions.fakes import FakeBlobs, export_for_ever
from tests.unit.distributions.world import NORTH, FakePeer, World, in_a_world, later, no_overwrites


async def _start(world: World, inbox: Path) -> tuple[FakePeer, FakePeer]:
    return await world.start("hq"), await world.start("van", ["north"], inbox=inbox)


async def _deliver(hq: FakePeer, content: bytes, name: str | None = "map.bin") -> DistributionHandle:
    handle = await hq.service.distribute(hq.blobs.add(content, name), NORTH)
    await hq.service.wait_for_completion(handle, 60)
    return handle


def _files(inbox: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in inbox.iterdir()}


def test_given_an_inbox_when_delivered_then_the_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        hq, _ = await _start(world, tmp_path / "in" / "box")
        await _deliver(hq, b"map")
        assert _files(tmp_path / "in" / "box") == {"map.bin": b"map"}

    in_a_world(run)


def test_given_hostile_names_when_delivered_then_they_stay_inside(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        inbox = tmp_path / "inbox"
        hq, _ = await _start(world, inbox)
        await _deliver(hq, b"1", "../../etc/passwd")
        await _deliver(hq, b"2", "/absolute")
        await _deliver(hq, b"3", "..")
        await _deliver(hq, b"4", "C:\\Windows\\con.txt")
        unnamed = await _deliver(hq, b"5", None)
        assert {p.name for p in tmp_path.iterdir()} == {"inbox"}
        files = _files(inbox)
        assert sorted(files.values()) == [b"1", b"2", b"3", b"4", b"5"]
        assert files["passwd"] == b"1"
        assert files["absolute"] == b"2"
        assert files["_con.txt"] == b"4"
        assert files[unnamed.blob_hash] == b"5"

    in_a_world(run)


def test_given_the_same_name_and_size_when_the_content_differs_then_both_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(world: World) -> None:
        hq, _ = await _start(world, tmp_path)
        await _deliver(hq, b"one")
        second = await _deliver(hq, b"two")
        other = f"map-{second.distribution_id}.bin"
        assert _files(tmp_path) == {"map.bin": b"one", other: b"two"}
        assert f"distribution {second.distribution_id} is in the inbox: {tmp_path / other}" in caplog.messages

    with caplog.at_level("INFO", "mesh.distributions"):
        in_a_world(run)


def test_given_symbolic_links_in_the_way_when_delivered_then_nothing_is_written_through(
    tmp_path: Path,
) -> None:
    async def run(world: World) -> None:
        inbox, secret, content = tmp_path / "inbox", tmp_path / "secret", b"nine byte"
        inbox.mkdir()
        secret.write_bytes(content)  # even with the very content of the blob, and a link of its size
        (inbox / "map.bin").symlink_to("../secret")
        (inbox / "dangling").symlink_to(tmp_path / "nowhere")
        hq, _ = await _start(world, inbox)
        with no_overwrites(secret):
            first = await _deliver(hq, content)
            second = await _deliver(hq, b"two", "dangling")
        assert (inbox / f"map-{first.distribution_id}.bin").read_bytes() == content
        assert (inbox / f"dangling-{second.distribution_id}").read_bytes() == b"two"
        assert (inbox / "map.bin").is_symlink()
        assert not (tmp_path / "nowhere").exists()

    in_a_world(run)


def test_given_both_names_are_taken_when_delivered_then_the_receipt_says_so_and_retry_heals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), world.add("van", ["north"], inbox=tmp_path)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        taken = (tmp_path / "map.bin", tmp_path / f"map-{handle.distribution_id}.bin")
        for path in taken:
            path.write_bytes(b"mine")
        await van.up()
        world.reconnect(van)
        status = await hq.service.wait_for_completion(handle, 60)
        assert "move them away and retry" in (status.node_statuses["van"].error or "")
        assert f"distribution {handle.distribution_id} has failed here: " in caplog.text
        assert _files(tmp_path) == {path.name: b"mine" for path in taken}
        taken[0].unlink()
        await hq.service.retry(handle)
        assert (await hq.service.wait_for_completion(handle, 60)).is_success
        assert (tmp_path / "map.bin").read_bytes() == b"map"

    in_a_world(run)


def test_given_a_crash_after_the_file_appeared_when_restarted_then_only_the_receipt_is_written(
    tmp_path: Path,
) -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", ["north"], inbox=tmp_path)
        van.blobs.seconds = 100
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(10)
        await van.service.close()
        van.blobs.add(b"map")
        (tmp_path / "map.bin").write_bytes(b"map")
        (tmp_path / ".incoming-van-crashed").mkdir()
        (tmp_path / ".incoming-van-crashed" / "blob").write_bytes(b"ma")
        await van.restart()
        assert (await hq.service.wait_for_completion(handle, 60)).is_success
        assert _files(tmp_path) == {"map.bin": b"map"}
        assert van.blobs.exported == 0
        assert len(van.blobs.fetched) == 1

    in_a_world(run)


def test_given_a_file_that_is_being_copied_when_cancelled_then_it_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBlobs, "export", export_for_ever)

    async def run(world: World) -> None:
        hq, van = await _start(world, tmp_path)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        await later(10)
        assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == []
        await hq.service.cancel(handle)
        await later(1)
        assert os.listdir(tmp_path) == []
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.CANCELLED

    in_a_world(run)


def test_given_a_file_that_has_appeared_when_cancelled_then_the_receipt_says_completed(
    tmp_path: Path,
) -> None:
    async def run(world: World) -> None:
        hq, van = await _start(world, tmp_path)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        van.documents.commit_seconds = 100
        await later(110)
        assert _files(tmp_path) == {"map.bin": b"map"}
        await hq.service.cancel(handle)
        await later(1000)
        receipt = van.receipt(handle.distribution_id)
        assert receipt is not None
        assert receipt.status is TransferState.COMPLETED
        status = await hq.service.status(handle)
        assert (status.is_cancelled, status.completed) == (True, 1)

    in_a_world(run)


def test_given_an_inbox_that_was_removed_when_delivered_then_it_is_made_again(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        inbox = tmp_path / "deep" / "inbox"
        hq, _ = await _start(world, inbox)
        shutil.rmtree(tmp_path / "deep")
        await _deliver(hq, b"map")
        assert _files(inbox) == {"map.bin": b"map"}

    in_a_world(run)


def test_given_a_path_that_can_be_no_inbox_when_started_then_the_error_names_it(tmp_path: Path) -> None:
    async def run(world: World) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"mine")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
        for inbox in (file, file / "inbox", tmp_path / "dangling"):
            van = world.add(f"van-{inbox.name}", inbox=inbox)
            with pytest.raises(InvalidNode, match=f"{inbox} cannot be used.*name a directory"):
                await van.up()

    in_a_world(run)


def test_given_three_distributions_of_one_file_when_delivered_at_once_then_there_is_one_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = FakeBlobs.export

    async def slow_export(self: FakeBlobs, hash: str, destination: Path) -> None:
        await asyncio.sleep(1)
        await export(self, hash, destination)

    monkeypatch.setattr(FakeBlobs, "export", slow_export)

    async def run(world: World) -> None:
        hq, van = await _start(world, tmp_path)
        token = hq.blobs.add(b"map")
        handles = [await hq.service.distribute(token, NORTH) for _ in range(3)]
        for handle in handles:
            assert (await hq.service.wait_for_completion(handle, 60)).is_success
        assert van.blobs.exported == 3
        assert _files(tmp_path) == {"map.bin": b"map"}

    in_a_world(run)


def test_given_a_blob_that_is_rotten_when_delivered_then_it_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, rotten = FakeBlobs.export, [BlobNotFound, BlobCorrupt]

    async def export_rotten(self: FakeBlobs, hash: str, destination: Path) -> None:
        if rotten:
            del self.held[hash]
            raise rotten.pop()(hash)
        await export(self, hash, destination)

    monkeypatch.setattr(FakeBlobs, "export", export_rotten)

    async def run(world: World) -> None:
        hq, van = await _start(world, tmp_path)
        await _deliver(hq, b"map")
        assert len(van.blobs.fetched) == 3
        assert _files(tmp_path) == {"map.bin": b"map"}

    in_a_world(run)


def test_given_an_inbox_that_cannot_be_written_then_the_receipt_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: FakeBlobs, hash: str, destination: Path) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(FakeBlobs, "export", refuse)

    async def run(world: World) -> None:
        hq, _ = await _start(world, tmp_path)
        handle = await hq.service.distribute(hq.blobs.add(b"map"), NORTH)
        status = await hq.service.wait_for_completion(handle, 60)
        assert status.failed == 1
        assert "Permission denied" in (status.node_statuses["van"].error or "")
        assert os.listdir(tmp_path) == []

    in_a_world(run)
