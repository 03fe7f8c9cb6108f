"""Small files over a plain WebSocket, synced a hundred at a time: for the benchmark of blobs."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

from blake3 import blake3
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve

from tests.bench.processes import run

WINDOW = 256
SYNCED_TOGETHER = 100

OPTIONS: dict[str, Any] = {"compression": None, "ping_interval": None}


class RawBlobWorker:
    """Either end."""

    def __init__(self) -> None:
        self._folder = Path()
        self._server: Server | None = None
        self._contents: dict[bytes, bytes] = {}

    async def start(self, folder: str) -> str:
        """Listen; where."""
        self._folder = Path(folder)
        self._folder.mkdir()
        self._server = await serve(self._handle, "127.0.0.1", 0, **OPTIONS)
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def _handle(self, socket: ServerConnection) -> None:
        async for name in socket:
            assert isinstance(name, bytes)
            await socket.send(name + (self._folder / name.hex()).read_bytes())

    async def add_small(self, count: int, smallest: int, largest: int) -> list[str]:
        """Write files; their hashes."""
        rng = random.Random(count)
        names = []
        for _ in range(count):
            content = rng.randbytes(rng.randint(smallest, largest))
            names.append(blake3(content).hexdigest())
            (self._folder / names[-1]).write_bytes(content)
        os.sync()
        return names

    async def fetch(self, url: str, names: list[str]) -> float:
        """Fetch, verify and keep them all; the seconds that it took."""
        started = time.perf_counter()
        unsynced: list[int] = []

        def keep(message: bytes) -> None:
            assert blake3(message[32:]).digest() == message[:32]
            fd = os.open(self._folder / message[:32].hex(), os.O_WRONLY | os.O_CREAT)
            os.write(fd, message[32:])
            unsynced.append(fd)

        def sync() -> None:
            for fd in unsynced:
                os.fdatasync(fd)
                os.close(fd)
            unsynced.clear()
            folder = os.open(self._folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

        loop = asyncio.get_running_loop()
        async with connect(url, proxy=None, **OPTIONS) as socket:
            for name in names[:WINDOW]:
                await socket.send(bytes.fromhex(name))
            for number in range(len(names)):
                keep(await socket.recv(decode=False))
                if number + WINDOW < len(names):
                    await socket.send(bytes.fromhex(names[number + WINDOW]))
                if len(unsynced) == SYNCED_TOGETHER or number == len(names) - 1:
                    await loop.run_in_executor(None, sync)
        return time.perf_counter() - started

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


if __name__ == "__main__":
    run(RawBlobWorker())
