"""Under attack, a node goes on at half its rate at least, never stands still, and takes no more memory than
the table in :mod:`mesh.core.limits` says."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from mesh.node.node import Node
from tests.adversary.flooder import FLOODS

BLOCKED_SECONDS = 0.25
DOCUMENTS = 300
ROUNDS = 3
MOST_ROUNDS = 9
MEMORY_BYTES = 150 << 20


class Pulse:
    """Feels how long the event loop is kept: in CPU time of the process, as the machine may be busy."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._at = time.process_time()
        self._beat()

    def _beat(self) -> None:
        now = time.process_time()
        self.longest = max(self.longest, now - self._at)
        self._at = now
        self._next = self._loop.call_later(0.005, self._beat)

    def stop(self) -> float:
        self._next.cancel()
        return self.longest


def resident_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@asynccontextmanager
async def flooder(way: str, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "tests.adversary.flooder", way, url, "1"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        await heard(process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def heard(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert await process.stdout.readline()


def tell(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def rate(van: Node) -> float:
    """Documents that come from one node to another, one after the other, in a second."""
    cars = van.collection("cars")
    started = time.perf_counter()
    for number in range(DOCUMENTS):
        await cars.upsert({"_id": "it", "n": number})
        await van.settled(60)
    return DOCUMENTS / (time.perf_counter() - started)


@pytest.mark.parametrize("way", FLOODS if os.environ.get("MESH_TEST_THOROUGH") else ["pings", "rubbish"])
async def test_honest_peers_keep_half_their_rate(way: str) -> None:
    async with Node(name="hub") as hub, Node(name="van", peers=[str(hub.address)]) as van:
        for node in (hub, van):
            await node.collection("cars").subscribe({})
        await rate(van)
        quiet: list[float] = []
        attacked: list[float] = []
        async with flooder(way, str(hub.address)) as process:
            before, pulse = resident_bytes(), Pulse()
            # What else the machine does may fall on one side: then there are more rounds.
            while len(quiet) < ROUNDS or (median(attacked) < median(quiet) / 2 and len(quiet) < MOST_ROUNDS):
                quiet.append(await rate(van))
                tell(process)
                attacked.append(await rate(van))
                tell(process)
                await heard(process)
            longest, grown = pulse.stop(), resident_bytes() - before
        assert await hub.collection("cars").get("it") == await van.collection("cars").get("it")
        assert longest < BLOCKED_SECONDS
        assert grown < MEMORY_BYTES
        assert median(attacked) >= median(quiet) / 2, (attacked, quiet)
