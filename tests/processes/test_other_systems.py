"""A system has what Python has there: the calls of Linux alone are used, but never needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import asyncio, os, sys, sysconfig
sysconfig.get_config_vars()
sys.platform = "other"
for name in ("fdatasync", "copy_file_range", "posix_fadvise", "sendfile", "eventfd", "setpriority"):
    if hasattr(os, name):
        delattr(os, name)

from mesh import AllNodes, Node

async def main(folder):
    async with Node(f"{folder}/hq", listen="127.0.0.1:0") as hq:
        async with Node(f"{folder}/van", peers=[hq.address], inbox=f"{folder}/inbox") as van:
            await van.collection("notes").subscribe()
            await hq.collection("notes").insert({"_id": "1", "n": 1})
            for size in (3, 3_000_000):
                token = await hq.attachments.add(bytes(size), name=f"{size}.bin")
                handle = await hq.distributions.distribute(token, AllNodes())
                assert (await hq.distributions.wait_for_completion(handle, timeout=30)).is_success
            await van.settled(10)
            assert await van.collection("notes").get("1") == {"_id": "1", "n": 1}

asyncio.run(main(sys.argv[1]))
"""


def test_nodes_work_without_the_calls_of_linux(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    assert {file.name: file.stat().st_size for file in (tmp_path / "inbox").iterdir()} == {
        "3.bin": 3,
        "3000000.bin": 3_000_000,
    }
