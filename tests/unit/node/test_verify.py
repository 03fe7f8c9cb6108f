"""Rotten chunks on the disk of a node: all are found, and repaired by a peer."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from mesh.core.tokens import CHUNK_BYTES
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

BLOBS, CHUNKS = 10, 12


def test_bits_flipped_in_a_hundred_chunks_are_all_found_and_repaired(tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(11)
        world = World(0, tmp_path, delay=0.001)
        a = await world.start("a")
        b = await world.start("b", ["a"])
        await asyncio.sleep(1)
        tokens = []
        for _ in range(BLOBS):
            token = await a.attachments.add(rng.randbytes(CHUNKS * CHUNK_BYTES - 7))
            await b.attachments.fetch(token)
            tokens.append(token)
        places = [(token, chunk) for token in tokens for chunk in range(CHUNKS)]
        for token, chunk in rng.sample(places, 100):
            with b.attachments.path(token.hash).open("r+b") as file:
                position = chunk * CHUNK_BYTES + rng.randrange(CHUNK_BYTES - 7)
                file.seek(position)
                (byte,) = file.read(1)
                file.seek(position)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        received = b.attachments.received_bytes
        report = await b.attachments.verify()
        assert (report.checked, report.damaged_chunks, report.lost) == (BLOBS, 100, [])
        assert 99 * CHUNK_BYTES < b.attachments.received_bytes - received < 101 * CHUNK_BYTES
        for token in tokens:
            assert await b.attachments.read(token.hash) == await a.attachments.read(token.hash)
        assert (await b.attachments.verify()).damaged_chunks == 0
        await world.close()

    run_virtual(main())
