"""Five of six providers are no good, each in its way: the fetch completes from the sixth."""

from __future__ import annotations

import asyncio

import pytest

from mesh.core.chunks import CHUNK_HEAD_BYTES, pack_head
from mesh.core.tokens import BlobToken
from mesh.errors import LinkClosed
from mesh.network.transport import Buffer, Connection
from tests.simulation.virtual_clock import run_virtual
from tests.unit.attachments.test_attachments import MIB, Node, World, content

SIZE = 12 * MIB + 5
KINDS = ["wrong bytes", "wrong sizes", "silence", "1 B/s", "disconnects"]
BAD = "abcde"


def spoil(node: Node, kind: str) -> None:
    """Make a provider that holds a blob no good."""
    server = node.attachments._exchange.bulk.server
    serve, read_chunk = server.serve, node.store.read_chunk

    async def wrong_size(hash: str, index: int, headroom: int = 0, *, verified: bool = False) -> bytearray:
        data = await read_chunk(hash, index, headroom)
        return data + b"x" if index % 2 else data[: headroom + (len(data) - headroom) // 2]

    async def trickle(peer: str, connection: Connection, first: Buffer | None = None) -> None:
        """Byte after byte of the first chunk, as parts of it, whatever is asked for."""
        try:
            for offset in range(MIB):
                part = bytearray(CHUNK_HEAD_BYTES + 1)
                pack_head(part, 0, 0, 1, offset)
                await connection.send(part)
                await asyncio.sleep(1)
        except LinkClosed:
            pass

    async def hang_up(peer: str, connection: Connection, first: Buffer | None = None) -> None:
        """Serve for a moment."""
        try:
            async with asyncio.timeout(0.1):
                await serve(peer, connection, first)
        except TimeoutError:
            await connection.close("it hangs up")

    match kind:
        case "wrong bytes":
            node.store.lies = True
        case "wrong sizes":
            node.store.read_chunk = wrong_size  # type: ignore[method-assign]
        case "silence":
            node.store.silent = True
        case "1 B/s":
            server.serve = trickle  # type: ignore[method-assign]
        case "disconnects":
            server.serve = hang_up  # type: ignore[method-assign]


@pytest.mark.parametrize("kinds", [KINDS, *([kind] * 5 for kind in KINDS)], ids=["all", *KINDS])
@pytest.mark.parametrize("bytes_per_second", [8 * MIB, 200_000])
def test_one_good_provider_of_six_is_enough(kinds: list[str], bytes_per_second: int) -> None:
    async def main() -> None:
        world = World(bytes_per_second=8 * MIB)
        await world.link(*(f"z{name}" for name in BAD), "zg")
        data = content(SIZE)
        token: BlobToken | None = None
        for name in BAD + "g":
            token = await world[name].add(data)
        assert token is not None
        world.network.set_bandwidth("g", bytes_per_second)
        for name, kind in zip(BAD, kinds, strict=True):
            spoil(world.nodes[name], kind)
        async with asyncio.timeout(3 * SIZE / bytes_per_second + 120):
            handle = await world["z"].fetch(token)
        assert await handle.read() == data
        await world.close()

    run_virtual(main())
