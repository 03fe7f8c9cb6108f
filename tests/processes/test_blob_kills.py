"""kill -9 of the receiver or the sender at random points of a transfer: no copy is corrupt, all are complete.

``MESH_TEST_THOROUGH=20`` kills each of them a hundred times while 500 MB are received.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3

from tests.processes.mesh_process import MeshProcess
from tests.processes.test_crashes import free_port

pytestmark = pytest.mark.processes

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))
KILLS = 5 * THOROUGH
KILLS_PER_TRANSFER = 10
MEGABYTES = min(500, 25 * THOROUGH)
COMPLETE_SECONDS = 60.0 + MEGABYTES / 5
START_SECONDS = 30.0 + 5 * THOROUGH
"""Thorough runs go beside others, with little of the machine."""


def write(path: Path, rng: random.Random) -> str:
    """Write a file of ``MEGABYTES``; its hash."""
    hash = blake3()
    with path.open("wb") as file:
        for _ in range(MEGABYTES):
            block = rng.randbytes(1_000_000)
            file.write(block)
            hash.update(block)
    return hash.hexdigest()


def received(receiver: MeshProcess) -> int | None:
    """The bytes that are on the disk of a copy that has begun and is not whole."""
    for file in receiver.home.glob("blobs/partial/*.data"):
        with suppress(FileNotFoundError):
            return file.stat().st_blocks * 512
    return None


def has_come(receiver: MeshProcess, copy: Path, point: int) -> bool:
    """Whether so much has come of a copy."""
    return copy.exists() or (received(receiver) or 0) >= point


def wait_for(there: Callable[[], bool], receiver: MeshProcess) -> None:
    """Look until something is there."""
    deadline = time.monotonic() + COMPLETE_SECONDS
    while not there():
        assert time.monotonic() < deadline, f"nothing came; the log of the receiver:\n{receiver.stderr}"
        time.sleep(0.001)


def killed_transfer(home: Path, file: Path, victim: str, rng: random.Random, kills: int) -> tuple[str, int]:
    """(the hash of the copy after a transfer of which ``victim`` was killed up to so often, how many kills
    found the copy begun and not whole)."""
    address = f"127.0.0.1:{free_port()}"
    sender = MeshProcess(home / "sender", "--name", "sender", "--listen", address)
    receiver = MeshProcess(home / "receiver", "--listen", "none", "--peer", f"ws://{address}")
    dying = receiver if victim == "receiver" else sender
    copy = receiver.home / "inbox" / file.name
    hits = 0
    try:
        sender.start(timeout=START_SECONDS)
        sender.mesh("distribute", str(file), timeout=COMPLETE_SECONDS)
        receiver.start(timeout=START_SECONDS)
        for point in sorted(rng.randrange(1, MEGABYTES * 1_000_000) for _ in range(kills)):
            wait_for(partial(has_come, receiver, copy, point), receiver)
            if copy.exists():
                break
            dying.kill()
            hits += received(receiver) is not None and not copy.exists()
            dying.start(timeout=START_SECONDS)
        wait_for(copy.exists, receiver)
        with copy.open("rb") as data:
            found = blake3()
            while block := data.read(1_000_000):
                found.update(block)
        return found.hexdigest(), hits
    finally:
        sender.kill()
        receiver.kill()


@pytest.mark.timeout(KILLS * COMPLETE_SECONDS)
@pytest.mark.parametrize("victim", ["receiver", "sender"])
def test_no_copy_is_corrupt_and_all_are_complete(tmp_path: Path, victim: str) -> None:
    rng = random.Random(victim)
    file = tmp_path / "map.mbtiles"
    hash = write(file, rng)
    hits = 0
    while hits < KILLS:
        home = tmp_path / str(hits)
        home.mkdir()
        copy, found_under_way = killed_transfer(
            home, file, victim, rng, min(KILLS_PER_TRANSFER, KILLS - hits)
        )
        assert copy == hash
        hits += found_under_way
        print(f"{hits} of {KILLS} kills of the {victim}")
        shutil.rmtree(home)
