"""Bulk: one blob from process to process over loopback, beside a raw verified WebSocket copy of the file.

    python -m tests.bench.bulk [--mib 1024] [--runs 3]

Real processes, real files. Prints medians of interleaved runs: MB/s, CPU seconds per GB of both ends
together, the largest resident set of either, and ours as a ratio of the raw copy. Then how long a document
takes to the other end while nothing else moves, and while a blob does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from mesh.attachments.memory import tune_allocator
from mesh.attachments.service import Attachments
from mesh.core.identity import Identity
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.network.peers import Peers
from mesh.network.websocket import WebSocketTransport
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import ThreadWorker
from tests.bench.processes import Processes

WINDOW = 8
BEATS = 300


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(seconds: float, cpu_seconds: float) -> None:
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "cpu": cpu_seconds, "rss": rss / 1024}), flush=True)


# --- ours -----------------------------------------------------------------------------------------


async def mesh_node(folder: Path, name: str) -> tuple[Peers, Attachments]:
    identity = Identity(name.encode().ljust(32, b"."))
    peers = Peers(identity, WebSocketTransport(), name=name)
    store = FolderBlobs(folder, ThreadWorker("blobs"))
    attachments = Attachments(store, peers, node_id=identity.node_id, random=random.Random())
    await attachments.start()
    await peers.start("127.0.0.1:0")
    return peers, attachments


async def mesh_holder(folder: Path, source: Path) -> None:
    peers, attachments = await mesh_node(folder, "holder")
    token = await attachments.add(source)
    print(json.dumps({"address": peers.address, "token": token.to_dict()}), flush=True)
    before = cpu()
    await asyncio.to_thread(sys.stdin.readline)
    report(0.0, cpu() - before)
    await attachments.close()
    await peers.close()


async def mesh_fetcher(folder: Path, about: str) -> None:
    offer = json.loads(about)
    peers, attachments = await mesh_node(folder, "fetcher")
    await peers.connect(offer["address"])
    token = BlobToken.from_dict(offer["token"])
    start, before = time.perf_counter(), cpu()
    await attachments.fetch(token)
    report(time.perf_counter() - start, cpu() - before)
    await attachments.close()
    await peers.close()


# --- raw ------------------------------------------------------------------------------------------

OPTIONS = {"compression": None, "max_size": None, "ping_interval": None}


async def raw_holder(own: Path, source: Path) -> None:
    # A copy of its own, as ours makes one: the page cache is in the same state when the transfer begins.
    shutil.copyfile(source, own)
    size = own.stat().st_size
    pool, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()
    fd = os.open(own, os.O_RDONLY)
    os.fdatasync(fd)

    def read(index: int) -> bytearray:
        data = bytearray(16 + min(CHUNK_BYTES, size - index * CHUNK_BYTES))
        data[:8] = index.to_bytes(8, "big")
        os.preadv(fd, [memoryview(data)[16:]], index * CHUNK_BYTES)
        return data

    hashes = b"".join(blake3(memoryview(read(i))[16:]).digest() for i in range(-(-size // CHUNK_BYTES)))

    async def handle(socket: ServerConnection) -> None:
        async for message in socket:
            assert isinstance(message, bytes)
            await socket.send(await loop.run_in_executor(pool, read, int.from_bytes(message, "big")))

    async with serve(handle, "127.0.0.1", 0, **OPTIONS) as server:  # type: ignore[arg-type]
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"port": port, "size": size, "hashes": hashes.hex()}), flush=True)
        before = cpu()
        await asyncio.to_thread(sys.stdin.readline)
        report(0.0, cpu() - before)
    pool.shutdown()


async def raw_fetcher(target: Path, about: str) -> None:
    offer = json.loads(about)
    size, hashes = offer["size"], bytes.fromhex(offer["hashes"])
    count = len(hashes) // 32
    pool, loop, room = ThreadPoolExecutor(1), asyncio.get_running_loop(), asyncio.Semaphore(4)
    fd = os.open(target, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)

    def write(message: bytes) -> None:
        index, data = int.from_bytes(message[:8], "big"), memoryview(message)[16:]
        assert blake3(data).digest() == hashes[index * 32 : index * 32 + 32]
        os.pwrite(fd, data, index * CHUNK_BYTES)

    async with connect(f"ws://127.0.0.1:{offer['port']}", proxy=None, **OPTIONS) as socket:  # type: ignore[arg-type]
        start, before = time.perf_counter(), cpu()
        for index in range(min(WINDOW, count)):
            await socket.send(index.to_bytes(8, "big"))
        jobs = []
        for index in range(count):
            message = await socket.recv(decode=False)
            if index + WINDOW < count:
                await socket.send((index + WINDOW).to_bytes(8, "big"))
            await room.acquire()
            jobs.append(loop.run_in_executor(pool, write, message))
            jobs[-1].add_done_callback(lambda _: room.release())
        await asyncio.gather(*jobs)
        await loop.run_in_executor(pool, os.fdatasync, fd)
        report(time.perf_counter() - start, cpu() - before)
    pool.shutdown()


# --- driver ---------------------------------------------------------------------------------------


def run(kind: str, folder: Path, source: Path) -> dict[str, float]:
    """One transfer; its figures, both ends together where they add up."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bulk", "--role", *arguments],
            stdin=pipe,
            stdout=pipe,
            text=True,
        )

    folder.mkdir()
    warm(folder / "warm", 2 * source.stat().st_size)
    with start(f"{kind}-holder", str(folder / "holder"), str(source)) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        about = holder.stdout.readline().strip()
        with start(f"{kind}-fetcher", str(folder / "fetcher"), about) as fetcher:
            assert fetcher.stdout is not None
            fetched = json.loads(fetcher.stdout.readline())
        holder.stdin.write("done\n")
        holder.stdin.flush()
        held = json.loads(holder.stdout.readline())
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return {
        "seconds": fetched["seconds"],
        "cpu": fetched["cpu"] + held["cpu"],
        "holder rss": held["rss"],
        "fetcher rss": fetched["rss"],
    }


def warm(path: Path, size: int) -> None:
    """Touch as much page cache as the run will: on a virtual machine fresh pages cost more than the copy."""
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    path.unlink()


def measure(mib: int, runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))
        results: dict[str, list[dict[str, float]]] = {"mesh": [], "raw": []}
        for number in range(runs):
            for kind in sorted(results, reverse=bool(number % 2)):  # neither always comes first
                results[kind].append(run(kind, folder / f"{kind}-{number}", source))
    gigabytes = mib * (1 << 20) / 1e9
    rates = {}
    print(f"{mib} MiB over loopback, process to process, medians of {runs}")
    for kind, figures in results.items():
        middle = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
        rates[kind] = gigabytes * 1000 / middle["seconds"]
        print(
            f"  {kind:5} {rates[kind]:6.0f} MB/s  {middle['cpu'] / gigabytes:5.2f} CPU s/GB  "
            f"RSS {middle['holder rss']:4.0f} MiB holder, {middle['fetcher rss']:4.0f} MiB fetcher"
        )
    print(f"  ratio {rates['mesh'] / rates['raw']:.2f}")


def documents(mib: int) -> None:
    """Writes of a document, from one process to the other, while the same link's bulk is idle and busy."""
    print(f"documents beside a blob of {mib} MiB: milliseconds from a write until it is seen")
    with tempfile.TemporaryDirectory() as name, Processes() as processes:
        writer, reader = processes.start("blob_worker"), processes.start("blob_worker")
        address = writer("start", folder=f"{name}/writer")
        reader("start", folder=f"{name}/reader")
        reader("connect", urls=[address])
        reader("watch")
        writer("beat", count=20, interval=0.02)
        token = writer("add", size=mib << 20)
        for when in ("idle", "busy"):
            reader("latencies")
            if when == "busy":
                reader("fetch", tokens=[token])
            count = 0
            while count < (BEATS if when == "idle" else 1) or (when == "busy" and not reader("is_fetched")):
                writer("beat", count=20, interval=0.01)
                count += 20
            found = sorted(reader("latencies"))
            middle, late = found[len(found) // 2], found[len(found) * 99 // 100]
            print(f"  {when}: median {middle * 1000:.1f}, p99 {late * 1000:.1f} ms ({len(found)} writes)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--role", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.role:
        measure(arguments.mib, arguments.runs)
        documents(arguments.mib)
        return
    tune_allocator()
    role, folder, other = arguments.role
    match role:
        case "mesh-holder":
            asyncio.run(mesh_holder(Path(folder), Path(other)))
        case "mesh-fetcher":
            asyncio.run(mesh_fetcher(Path(folder), other))
        case "raw-holder":
            asyncio.run(raw_holder(Path(folder), Path(other)))
        case "raw-fetcher":
            asyncio.run(raw_fetcher(Path(folder), other))


if __name__ == "__main__":
    main()
