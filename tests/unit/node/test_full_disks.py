"""Nodes on a disk that fills up while they fetch; on a virtual clock."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest

from mesh import Formation, Node, Nodes
from mesh.attachments import transfers
from mesh.core.status import TransferState
from mesh.core.tokens import CHUNK_BYTES, BlobProgress
from mesh.errors import StorageFull
from tests.simulation.virtual_clock import virtual
from tests.simulation.world import pair
from tests.unit.small_disks import small_disk

MIB = CHUNK_BYTES


class Disk:
    """A disk of 1 GiB, as ``statvfs`` tells of it: what is in ``folder`` and ``other`` bytes take room."""

    f_frsize = 1
    f_blocks = 1 << 30
    reserve = (1 << 30) // 20

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.other = 0

    @property
    def taken(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self._folder.rglob("*") if path.is_file())

    @property
    def f_bavail(self) -> int:
        return max(0, self.f_blocks - self.taken - self.other)

    f_bfree = f_bavail

    def fill_but(self, room: int) -> None:
        self.other = self.f_blocks - self.taken - self.reserve - room


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk that the node ``b`` has to itself."""
    home, statvfs = tmp_path / "b", os.statvfs
    disk = Disk(home)
    monkeypatch.setattr(
        os, "statvfs", lambda path: disk if os.fsdecode(path).startswith(str(home)) else statvfs(path)
    )
    return disk


@pytest.mark.parametrize("seed", range(6))
@virtual
async def test_a_fetch_pauses_while_the_disk_is_full_and_loses_nothing(
    tmp_path: Path, disk: Disk, seed: int
) -> None:
    rng = random.Random(seed)
    world, a, b = await pair(seed, tmp_path)
    data = rng.randbytes(6 * MIB + 5)
    token = await a.attachments.add(data)
    await a.attachments.pin(token.hash)
    progress: list[BlobProgress] = []
    disk.fill_but(rng.choice([0, 3 * MIB, 7 * MIB]))
    fetching = asyncio.create_task(b.attachments.fetch(token, on_progress=progress.append))
    await asyncio.sleep(rng.uniform(0, 0.02))
    disk.fill_but(0)
    await asyncio.sleep(60)
    if not fetching.done():
        assert progress[-1].state == "stalled"
        assert progress[-1].reason is not None
        assert "no room: needs" in progress[-1].reason
        with pytest.raises(StorageFull):
            await b.attachments.add(b"anything")
    disk.other = 0
    handle = await asyncio.wait_for(fetching, 60)
    assert await handle.read() == data
    assert b.attachments.received_bytes < len(data) + 3 * MIB
    await world.close()


@pytest.mark.parametrize("seed", range(4))
@virtual
async def test_a_distribution_waits_for_room_says_so_and_goes_on_by_itself(
    tmp_path: Path, disk: Disk, seed: int
) -> None:
    world, a, b = await pair(seed, tmp_path, formations=["north"], inbox=True)
    data = random.Random(seed).randbytes(3 * MIB + 5)
    token = await a.attachments.add(data, name="map")
    disk.fill_but(2 * MIB)
    handle = await a.distributions.distribute(token, Formation("north"))
    await asyncio.sleep(60)

    async def waits(at_least: int) -> None:
        status = (await a.distributions.status(handle)).node_statuses[b.node_id]
        assert not status.status.is_terminal
        assert status.progress_bytes >= at_least
        assert "no room" in (status.error or "")
        assert not list((tmp_path / "b" / "inbox").glob("map*"))

    await waits(0)
    await world.stop("b")
    b = await world.restart("b")
    await asyncio.sleep(60)
    await waits(0)
    disk.fill_but(5 * MIB)  # for the blob, and not for the file in the inbox
    await asyncio.sleep(60)
    await waits(len(data))
    assert disk.taken < disk.f_blocks - disk.other - disk.reserve, "the rest is for documents"
    disk.fill_but(5 * MIB)
    status = await a.distributions.wait_for_completion(handle, 60)
    assert status.is_success
    assert (tmp_path / "b" / "inbox" / "map").read_bytes() == data
    await world.close()


@pytest.mark.parametrize("seed", range(2))
@virtual
async def test_what_is_larger_than_the_disk_fails(tmp_path: Path, disk: Disk, seed: int) -> None:
    world, a, b = await pair(seed, tmp_path, formations=["north"])
    token = await a.attachments.add(random.Random(seed).randbytes(3 * MIB))
    disk.f_blocks = 3 * MIB
    with pytest.raises(StorageFull, match="use a larger disk") as raised:
        await b.attachments.fetch(token, timeout=60)
    assert raised.value.is_lasting
    handle = await a.distributions.distribute(token, Formation("north"))
    status = await a.distributions.wait_for_completion(handle, 60)
    assert status.node_statuses[b.node_id].status is TransferState.FAILED
    assert "use a larger disk" in (status.node_statuses[b.node_id].error or "")
    disk.f_blocks = 1 << 30
    await a.distributions.retry(handle)
    assert (await a.distributions.wait_for_completion(handle, 60)).is_success
    await world.close()


@pytest.mark.parametrize("seed", range(2))
@virtual
async def test_what_is_kept_for_others_makes_room_for_a_file_in_the_inbox(
    tmp_path: Path, disk: Disk, seed: int
) -> None:
    world, a, b = await pair(seed, tmp_path, inbox=True)
    c = await world.start("c", ["b"])
    rng = random.Random(seed)
    other, token = [await a.attachments.add(rng.randbytes(3 * MIB)) for _ in range(2)]
    await c.attachments.fetch(other)
    await b.attachments.fetch(token)
    assert await b.attachments.exists(other.hash)
    disk.fill_but(MIB)
    handle = await a.distributions.distribute(token, Nodes([b.node_id]))
    assert (await a.distributions.wait_for_completion(handle, 60)).is_success
    assert not await b.attachments.exists(other.hash)
    await world.close()


@pytest.mark.parametrize("seed", range(2))
@virtual
async def test_what_has_no_place_beside_its_copy_in_the_inbox_fails(
    tmp_path: Path, disk: Disk, seed: int
) -> None:
    world, a, b = await pair(seed, tmp_path, inbox=True)
    token = await a.attachments.add(random.Random(seed).randbytes(3 * MIB))
    disk.f_blocks = disk.taken + 5 * MIB
    disk.reserve = disk.f_blocks // 20
    handle = await a.distributions.distribute(token)
    status = await a.distributions.wait_for_completion(handle, 60)
    assert status.node_statuses[b.node_id].status is TransferState.FAILED
    assert "use a larger disk" in (status.node_statuses[b.node_id].error or "")
    assert await b.attachments.exists(token.hash)
    await world.close()


async def test_a_distribution_goes_on_when_a_real_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "ROOM_SECONDS", 0.2)
    data = random.randbytes(8 * MIB)
    with small_disk(tmp_path / "disk", 32) as disk:
        async with (
            Node(tmp_path / "a") as a,
            Node(disk / "b", listen=None, peers=[a.address or ""], inbox=tmp_path / "inbox") as b,
        ):
            token = await a.attachments.add(data, name="map")
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 9 * MIB))
            handle = await a.distributions.distribute(token)
            async with asyncio.timeout(60), a.distributions.subscribe_progress(handle) as statuses:
                async for status in statuses:
                    target = status.node_statuses.get(b.node_id)
                    if target is not None and "no room" in (target.error or ""):
                        break
            documents = b.collection("documents")
            await documents.insert({"_id": "one", "text": "x" * 100_000})
            ballast.unlink()
            status = await a.distributions.wait_for_completion(handle, 60)
            assert status.is_success
        assert (tmp_path / "inbox" / "map").read_bytes() == data
