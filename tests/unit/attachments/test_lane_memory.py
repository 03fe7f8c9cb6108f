"""The memory of a chunk is given back once it was written, and not before."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mesh.attachments.lanes import Lane
from mesh.attachments.pending import Receiver
from mesh.core.chunks import CHUNK_HEAD_BYTES, Buffer, pack_head
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.network.transport import Connection


class Holder:
    """A bulk connection to a holder, which sends what the test says."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Buffer] = asyncio.Queue()
        self.reused: list[Buffer] = []
        self.told = asyncio.Event()

    async def send(self, *messages: Buffer) -> None:
        pass

    async def receive(self) -> Buffer:
        return await self.frames.get()

    def reuse(self, message: Buffer) -> None:
        self.reused.append(message)
        self.told.set()

    async def close(self, reason: str = "") -> None:
        pass


class Taker:
    """A transfer that is slow to write."""

    def __init__(self) -> None:
        self.token = BlobToken("ab" * 32, 2 * CHUNK_BYTES, "cd" * 32)
        self.priority = 1
        self.took = asyncio.Event()
        self.written = asyncio.Event()

    def wants(self, index: int) -> bool:
        return True

    def take_small(self, peer: str, data: Buffer) -> bool:
        return False

    async def take_chunk(self, peer: str, index: int, data: Buffer) -> None:
        self.took.set()
        await self.written.wait()


@pytest.mark.parametrize("ends", ["written", "cancelled"])
async def test_a_chunk_is_given_back_when_it_was_written(ends: str) -> None:
    holder, taker = Holder(), Taker()

    async def dial(link: Any) -> Connection:
        return cast(Connection, holder)

    lane = Lane(cast(Any, SimpleNamespace(node_id="holder")), dial, lambda size: None)
    lane._pieces.quick = True
    lane.ask(cast(Receiver, taker), [0])
    frame = bytearray(CHUNK_HEAD_BYTES + CHUNK_BYTES)
    pack_head(frame, 0, 0, CHUNK_BYTES)
    holder.frames.put_nowait(frame)
    await taker.took.wait()
    assert holder.reused == []
    if ends == "written":
        taker.written.set()
        await holder.told.wait()
    await lane.close()
    assert len(holder.reused) == (1 if ends == "written" else 0)
