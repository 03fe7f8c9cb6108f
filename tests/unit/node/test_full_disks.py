"""Nodes on a disk that fills up while they fetch; on a virtual clock."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from mesh.core.tokens import CHUNK_BYTES, BlobProgress
from mesh.errors import StorageFull
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

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

    def fill_but(self, room: int) -> None:
        self.other = self.f_blocks - self.taken - self.reserve - room


@pytest.mark.parametrize("seed", range(6))
def test_a_fetch_pauses_while_the_disk_is_full_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World(seed, tmp_path, delay=0.005)
        disk = Disk(tmp_path / "b" / "blobs")
        statvfs = os.statvfs
        monkeypatch.setattr(
            os, "statvfs", lambda path: disk if "/b/blobs" in os.fsdecode(path) else statvfs(path)
        )
        a = await world.start("a")
        b = await world.start("b", ["a"])
        await asyncio.sleep(1)
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

    run_virtual(main())
