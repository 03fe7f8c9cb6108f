"""A process of its own that does harm to one node: ``python -m tests.adversary.flooder WAY URL SEED``.

It says ``ready`` once it is linked, begins with every line that it reads, and stops with the next.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress

from mesh.core.frames import frames_of
from mesh.core.wire import Change, Changes, Interest, InterestEntry, Ping
from mesh.errors import LinkClosed, MeshError
from mesh.network.websocket import WebSocketTransport
from tests.adversary.adversary import Adversary, some_frames

SLOW_LORIS = 200


async def _lines() -> asyncio.StreamReader:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    return lines


async def _flood(adversary: Adversary, frames: list[bytes]) -> None:
    with suppress(LinkClosed):
        while True:
            for frame in frames:
                await adversary.connection.send(frame)


async def _loris(host: str, port: int, number: int) -> None:
    """A request for a WebSocket that never ends, again and again."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\n")
            while True:
                writer.write(b"X-Header-%d: x\r\n" % number)
                await writer.drain()
                await asyncio.sleep(0.2)
        except OSError:
            await asyncio.sleep(0.01)


def _pings(rng: random.Random) -> list[bytes]:
    return [frame for number in range(100) for frame in frames_of(Ping(number), 0)]


def _interest(rng: random.Random) -> list[bytes]:
    entries = [InterestEntry("cars", {"a": {"$gt": n}}) for n in range(64)]
    messages = [Interest(rng.randbytes(20).hex(), n, 1, entries) for n in range(1, 100)]
    return [frame for message in messages for frame in frames_of(message, 0)]


def _changes(rng: random.Random) -> list[bytes]:
    junk = [Change("cars", str(n), (0, 0), {}, {rng.randbytes(8): 1}, rng.randbytes(100)) for n in range(500)]
    return [frame for n in range(1, 50) for frame in frames_of(Changes(n, 0, 0, junk), 0)]


def _rubbish(rng: random.Random) -> list[bytes]:
    return [frame for _ in range(1000) for frame in some_frames(rng)]


FLOODS = {"pings": _pings, "interest": _interest, "changes": _changes, "rubbish": _rubbish}


async def _attack(way: str, url: str, rng: random.Random) -> None:
    host, _, port = url.removeprefix("ws://").rpartition(":")
    loris = [asyncio.create_task(_loris(host, int(port), number)) for number in range(SLOW_LORIS)]
    try:
        while True:
            try:
                adversary = await Adversary.dial(WebSocketTransport(), url, rng)
                await _flood(adversary, FLOODS[way](rng))
                await adversary.close()
            except MeshError:
                await asyncio.sleep(0.01)
    finally:
        for task in loris:
            task.cancel()
        await asyncio.wait(loris)


async def main(way: str, url: str, seed: str) -> None:
    """Attack whenever told to."""
    lines = await _lines()
    print("ready", flush=True)
    while await lines.readline():
        attack = asyncio.create_task(_attack(way, url, random.Random(seed)))
        await lines.readline()
        attack.cancel()
        await asyncio.wait({attack})
        print("stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
