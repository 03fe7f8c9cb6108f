"""kill -9 of the receiver or the sender at random points of a transfer: no copy is corrupt, all are complete.

``MESH_TEST_THOROUGH=25`` kills each of them a hundred times during transfers of 500 MB.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from blake3 import blake3

from tests.processes.mesh_process import MeshProcess
from tests.processes.test_crashes import free_port

pytestmark = pytest.mark.processes

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))
KILLS = 5
"""Of one transfer."""

FILES = min(20, THOROUGH)
MEGABYTES = min(500, 20 * THOROUGH)
COMPLETE_SECONDS = 60.0 + MEGABYTES / 5


def write(path: Path, rng: random.Random) -> str:
    """Write a file of ``MEGABYTES``; its hash."""
    hash = blake3()
    with path.open("wb") as file:
        for _ in range(MEGABYTES):
            block = rng.randbytes(1_000_000)
            file.write(block)
            hash.update(block)
    return hash.hexdigest()


def wait_for(pattern: str, receiver: MeshProcess) -> Path:
    """The file in the receiver's home that matches, once there is one."""
    deadline = time.monotonic() + COMPLETE_SECONDS
    while not (found := list(receiver.home.glob(pattern))):
        assert time.monotonic() < deadline, f"no {pattern}; the log of the receiver:\n{receiver.stderr}"
        time.sleep(0.002)
    return found[0]


def killed_transfer(home: Path, file: Path, victim: str, rng: random.Random) -> tuple[str, int]:
    """(the hash of the copy after a transfer of which ``victim`` was killed so often, how many kills found
    the copy begun and not complete)."""
    address = f"127.0.0.1:{free_port()}"
    sender = MeshProcess(home / "sender", "--name", "sender", "--listen", address)
    receiver = MeshProcess(home / "receiver", "--listen", "none", "--peer", f"ws://{address}")
    dying = receiver if victim == "receiver" else sender
    hits = 0
    try:
        sender.start()
        sender.mesh("distribute", str(file))
        receiver.start()
        wait_for("blobs/partial/*.data", receiver)
        for number in range(KILLS):
            # Not to wait for something: the moment is what is varied. The first one is early.
            time.sleep(rng.uniform(0, MEGABYTES / 100) if number else 0)
            dying.kill()
            hits += any(receiver.home.glob("blobs/partial/*.data"))
            dying.start()
        copy = wait_for(f"inbox/{file.name}", receiver)
        with copy.open("rb") as data:
            found = blake3()
            while block := data.read(1_000_000):
                found.update(block)
        return found.hexdigest(), hits
    finally:
        sender.kill()
        receiver.kill()


@pytest.mark.timeout(FILES * 2 * COMPLETE_SECONDS)
@pytest.mark.parametrize("victim", ["receiver", "sender"])
def test_no_copy_is_corrupt_and_all_are_complete(tmp_path: Path, victim: str) -> None:
    rng = random.Random(victim)
    hits = 0
    for number in range(FILES):
        home = tmp_path / str(number)
        home.mkdir()
        file = home / "map.mbtiles"
        hash = write(file, rng)
        copy, found_under_way = killed_transfer(home, file, victim, rng)
        assert copy == hash
        hits += found_under_way
        shutil.rmtree(home)
    assert hits >= FILES  # at the least the early ones
