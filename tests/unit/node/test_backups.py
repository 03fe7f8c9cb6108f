"""A backup as the README makes one: of a node that runs, and put back into an empty directory."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from mesh import Node


def back_up(home: Path, backup: Path) -> None:
    backup.mkdir()
    with sqlite3.connect(home / "store.sqlite") as connection:
        connection.execute("VACUUM INTO ?", [str(backup / "store.sqlite")])
    connection.close()
    shutil.copy(home / "identity.key", backup)
    shutil.copytree(home / "blobs", backup / "blobs")


async def test_a_backup_of_a_running_node_is_put_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, backup = tmp_path / "van", tmp_path / "backup"
    async with Node(name="hub", hub=True) as hub:
        async with Node(home, listen=None, peers=[hub.address or ""]) as van:
            cars = van.collection("cars")
            await cars.create_index("year")
            await cars.subscribe()
            await cars.insert({"_id": "before", "year": 2001, "trips": 1})
            await cars.increment("before", "trips")
            token = await van.attachments.add(b"a map" * 1000)
            await van.attachments.pin(token.hash)
            back_up(home, backup)
            await cars.increment("before", "trips")
            await cars.insert({"_id": "after", "year": 2002})
            await van.settled(20)
            node_id = van.node_id
        shutil.rmtree(home)
        shutil.copytree(backup, home)
        async with Node(home, listen=None, peers=[hub.address or ""]) as van:
            assert van.node_id == node_id
            assert "is a copy, or was put back" in caplog.text
            await van.collection("cars").increment("before", "trips", 10)
            await van.collection("cars").insert({"_id": "new", "year": 2003})
            await van.settled(20)
            wanted = [
                {"_id": "after", "year": 2002},
                {"_id": "before", "trips": 13, "year": 2001},
                {"_id": "new", "year": 2003},
            ]
            for node in (van, hub):
                assert await node.collection("cars").find(sort=[{"_id": "asc"}]) == wanted
            assert (await van.collection("cars").explain({"year": 2001}))["index"] == 'cars["year"]'
            assert await van.attachments.read(token.hash) == b"a map" * 1000
