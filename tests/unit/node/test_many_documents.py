"""A node with 100,000 documents: they are on the disk, not in memory, and an index finds what is wanted."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

from mesh import Node
from mesh.core.versions import encode_vector
from tests.processes.mesh_process import source_environment

COUNT = 100_000

NODE = """
    import asyncio, json, os, sys, time
    from pathlib import Path
    from mesh import Node

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def main(home):
        async with Node(home, listen=None) as node:
            idle = resident()
            cars = node.collection("cars")
            assert await cars.count() == int(sys.argv[2])
            scanned = await cars.explain({"year": 1950})
            await cars.create_index("year")
            spent = []
            for year in range(1900, 1950):
                began = time.process_time()
                found = await cars.find({"year": year, "color": "red"})
                spent.append(time.process_time() - began)
                assert len(found) == 10, found
            explained = await cars.explain({"year": 1950})
            print(json.dumps([idle, resident(), sorted(spent)[25], scanned, explained]))

    asyncio.run(main(sys.argv[1]))
"""


async def made(home: Path) -> None:
    """A store with many documents that are alike, made faster than by writing them."""
    async with Node(home, listen=None) as node:
        await node.collection("cars").insert({"_id": "car0", "color": "red", "year": 0, "text": "x" * 100})
    with sqlite3.connect(home / "store.sqlite") as file:
        file.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
            "INSERT INTO documents(seq, collection, id, json, rank_major, rank_minor, vector, state, "
            "key_hash, version_hash, changed_at) SELECT 1000 + n, 'cars', 'car' || n, "
            "json_set(json, '$._id', 'car' || n, '$.year', 1000 + n % 1000, "
            "'$.color', CASE (n / 1000) % 10 WHEN 0 THEN 'red' ELSE 'blue' END), "
            "0, 0, ?, state, n, n, changed_at FROM numbers, documents WHERE id = 'car0'",
            (COUNT - 1, encode_vector({b"12345678": 1})),
        )
    file.close()


def test_they_are_not_resident_and_an_index_finds_them(tmp_path: Path) -> None:
    asyncio.run(made(tmp_path / "home"))
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NODE), str(tmp_path / "home"), str(COUNT)],
        env=source_environment(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    idle, after, seconds, scanned, explained = json.loads(said.stdout)
    assert idle < 120e6
    assert after < 120e6
    assert seconds < 0.005
    assert (scanned["index"], scanned["scan"]) == (None, True)
    assert (explained["index"] is not None, explained["fields"], explained["scan"]) == (True, ["year"], False)
