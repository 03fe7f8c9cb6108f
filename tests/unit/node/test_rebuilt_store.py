"""A node whose store was damaged says so."""

from __future__ import annotations

import random
import time
from pathlib import Path

from mesh import Node


async def test_stats_say_when_the_store_was_rebuilt(tmp_path: Path) -> None:
    home = tmp_path / "van"
    async with Node(home) as node:
        async with node.transaction() as tx:
            for n in range(300):
                await tx.collection("cars").insert({"_id": f"car{n}", "text": "x" * 200})
        assert node.stats().store_rebuilt_at is None
    [path] = home.glob("*.sqlite")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(random.Random(1).randbytes(4096))
    before = time.time()
    async with Node(home) as node:
        rebuilt_at = node.stats().store_rebuilt_at
        assert rebuilt_at is not None
        assert before <= rebuilt_at <= time.time()
