"""Bulk: one blob from process to process over loopback, beside a raw verified WebSocket copy of the file and
beside other tools.

    python -m tests.bench.bulk [--mib 1024] [--runs 3] [--fan-out 4] [--tls] [--only copy documents]

Real processes, real files. Prints medians of interleaved runs: MB/s, CPU seconds per GB of both ends
together, the largest resident set of either, and ours as a ratio of each. With ``--fan-out`` as many
processes fetch it at once; with ``--tls`` also over TLS, as in a closed mesh. Then how long a document takes
to the other end while nothing else moves, while a blob does, and, to tell what the machine alone is to blame
for, while two other processes copy a file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

from blake3 import blake3
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from mesh.attachments.memory import tune_allocator
from mesh.attachments.service import Attachments
from mesh.core.identity import Identity
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.network.peers import Peers
from mesh.network.tls import Tls, make_certificate
from mesh.network.websocket import WebSocketTransport
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import ThreadWorker
from tests.bench.bulk_peers import PEERS, Figures, installed, warm
from tests.bench.processes import Processes

WINDOW = 8
BEATS = 300
FETCHES = 3  # beside documents, one after another


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(seconds: float, cpu_seconds: float) -> None:
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "cpu": cpu_seconds, "rss": rss / 1024}), flush=True)


async def ready() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


# --- ours -----------------------------------------------------------------------------------------


def tls_of(folder: Path) -> Tls:
    certificate = folder.with_suffix(".pem")
    certificate.write_bytes(make_certificate())
    return Tls(certificate)


async def mesh_node(folder: Path, tls: Tls | None) -> tuple[Peers, Attachments]:
    name = folder.name
    identity = Identity(name.encode().ljust(32, b"."))
    peers = Peers(identity, WebSocketTransport(tls), name=name)
    store = FolderBlobs(folder, ThreadWorker("blobs"))
    attachments = Attachments(store, peers, node_id=identity.node_id, random=random.Random())
    await attachments.start()
    await peers.start("127.0.0.1:0")
    return peers, attachments


async def mesh_holder(folder: Path, source: Path, tls: Tls | None) -> None:
    peers, attachments = await mesh_node(folder, tls)
    token = await attachments.add(source)
    print(json.dumps({"address": peers.address, "token": token.to_dict()}), flush=True)
    before = cpu()
    await asyncio.to_thread(sys.stdin.readline)
    report(0.0, cpu() - before)
    await attachments.close()
    await peers.close()


async def mesh_fetcher(folder: Path, about: str, tls: Tls | None) -> None:
    offer = json.loads(about)
    peers, attachments = await mesh_node(folder, tls)
    await peers.connect(offer["address"])
    token = BlobToken.from_dict(offer["token"])
    await ready()
    start, before = time.perf_counter(), cpu()
    await attachments.fetch(token)
    report(time.perf_counter() - start, cpu() - before)
    await attachments.close()
    await peers.close()


# --- raw ------------------------------------------------------------------------------------------

OPTIONS = {"compression": None, "max_size": None, "ping_interval": None}


async def raw_holder(own: Path, source: Path, tls: ssl.SSLContext | None) -> None:
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

    async with serve(handle, "127.0.0.1", 0, ssl=tls, **OPTIONS) as server:  # type: ignore[arg-type]
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"port": port, "size": size, "hashes": hashes.hex()}), flush=True)
        before = cpu()
        await asyncio.to_thread(sys.stdin.readline)
        report(0.0, cpu() - before)
    pool.shutdown()


async def raw_fetcher(target: Path, about: str, tls: ssl.SSLContext | None) -> None:
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

    url = f"{'wss' if tls else 'ws'}://127.0.0.1:{offer['port']}"
    async with connect(url, proxy=None, ssl=tls, **OPTIONS) as socket:  # type: ignore[arg-type]
        await ready()
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


def start(*arguments: str) -> subprocess.Popen[str]:
    """A process that plays a role."""
    command = [sys.executable, "-m", "tests.bench.bulk", "--role", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def run(kind: str, folder: Path, source: Path, receivers: int = 1) -> Figures:
    """One transfer, to so many processes at once; its figures, all ends together where they add up."""
    folder.mkdir()
    try:
        if kind in PEERS:
            return PEERS[kind][1](folder, source)
        with start(f"{kind}-holder", str(folder / "holder"), str(source)) as holder, ExitStack() as stack:
            about = line(holder)
            fetchers = [
                stack.enter_context(start(f"{kind}-fetcher", str(folder / f"fetcher-{number}"), about))
                for number in range(receivers)
            ]
            for fetcher in fetchers:
                assert line(fetcher) == "ready"
            warm(folder, receivers * source.stat().st_size)
            for fetcher in fetchers:
                go(fetcher)
            fetched = [json.loads(line(fetcher)) for fetcher in fetchers]
            go(holder)
            held = json.loads(line(holder))
    finally:
        shutil.rmtree(folder)
    return {
        "seconds": max(one["seconds"] for one in fetched),
        "cpu": sum(one["cpu"] for one in fetched) + held["cpu"],
        "holder rss": held["rss"],
        "fetcher rss": max(one["rss"] for one in fetched),
    }


def make_source(folder: Path, mib: int) -> Path:
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    return source


def measure(mib: int, runs: int, fan_out: int, *, tls: bool) -> None:
    """Copies of a file, ours and the others', one after another."""
    works = [("mesh", 1), ("raw", 1), *((peer, 1) for peer in installed())]
    if tls:
        works += [("mesh-tls", 1), ("raw-tls", 1)]
    if fan_out > 1:
        works += [("mesh", fan_out), ("raw", fan_out)]
    results: dict[tuple[str, int], list[Figures]] = {work: [] for work in works}
    with tempfile.TemporaryDirectory() as name:
        source = make_source(Path(name), mib)
        for number in range(runs):
            for kind, receivers in works[:: -1 if number % 2 else 1]:  # neither always comes first
                figures = run(kind, Path(name) / "run", source, receivers)
                results[kind, receivers].append(figures)
    print(f"{mib} MiB over loopback, process to process, medians of {runs}")
    middles = {
        work: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for work, found in results.items()
    }
    cores = len(os.sched_getaffinity(0))
    for (kind, receivers), middle in middles.items():
        gigabytes = receivers * mib * (1 << 20) / 1e9
        single = middles[kind, 1]
        # Syncthing encrypts: it is compared with what does so as well.
        encrypted = tls and kind in ("raw-tls", "syncthing")
        us = "mesh-tls" if encrypted else "mesh"
        ours = middles[us, receivers if kind == "raw" else 1]
        print(
            f"  {kind:11} 1 -> {receivers} {gigabytes * 1000 / middle['seconds']:6.0f} MB/s  "
            f"{middle['cpu'] / gigabytes:5.2f} CPU s/GB, {middle['cpu'] / middle['seconds']:4.2f} of {cores} "
            f"CPUs{rss(middle)}"
            + (f"  {us} / {kind} {middle['seconds'] / ours['seconds']:.2f}" if kind != us else "")
            + (f"  {receivers * single['seconds'] / middle['seconds']:.2f} x one" if receivers > 1 else "")
        )


def rss(figures: Figures) -> str:
    if "holder rss" not in figures:
        return ""
    return f", RSS {figures['holder rss']:.0f} MiB holder, {figures['fetcher rss']:.0f} MiB fetcher"


def documents(mib: int) -> None:
    """Writes of a document, from one process to the other, while the same link's bulk is idle and busy."""
    print(f"documents beside a blob of {mib} MiB: milliseconds from a write until it is seen")
    with tempfile.TemporaryDirectory() as name, Processes() as processes:
        source = make_source(Path(name), mib)
        writer, reader = processes.start("blob_worker"), processes.start("blob_worker")
        address = writer("start", folder=f"{name}/writer")
        reader("start", folder=f"{name}/reader")
        reader("connect", urls=[address])
        reader("watch")
        writer("beat", count=20, interval=0.02)
        tokens = [writer("add", size=mib << 20) for _ in range(FETCHES)]

        def beat(when: str, over: Callable[[], bool]) -> float:
            found: list[float] = []
            while not found or not over():
                writer("beat", count=20, interval=0.01)
                found += reader("latencies")
            found.sort()
            middle, late = found[len(found) // 2] * 1000, found[len(found) * 99 // 100] * 1000
            print(f"  {when}: median {middle:.1f}, p99 {late:.1f} ms ({len(found)} writes)")
            return late

        reader("latencies")
        beats = iter(range(BEATS // 20))
        idle = beat("idle", lambda: next(beats, None) is None)

        def copies() -> bool:
            return not copying.is_alive()

        copying = Thread(target=run, args=("raw", Path(name) / "run", source))
        copying.start()
        beat("beside a copy by other processes", copies)
        reader("fetch", tokens=tokens, at_once=False)
        busy = beat("busy", lambda: bool(reader("is_fetched")))
        print(f"  busy is {busy - idle:.1f} ms over idle at p99")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fan-out", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--only", nargs="+", choices=["copy", "documents"], default=["copy", "documents"])
    parser.add_argument("--role", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.role:
        if "copy" in arguments.only:
            measure(arguments.mib, arguments.runs, arguments.fan_out, tls=arguments.tls)
        if "documents" in arguments.only:
            documents(arguments.mib)
        return
    tune_allocator()
    role, name, other = arguments.role
    folder = Path(name)
    tls = tls_of(folder) if "-tls-" in role else None
    match role.replace("-tls", ""):
        case "mesh-holder":
            asyncio.run(mesh_holder(folder, Path(other), tls))
        case "mesh-fetcher":
            asyncio.run(mesh_fetcher(folder, other, tls))
        case "raw-holder":
            asyncio.run(raw_holder(folder, Path(other), tls.server if tls else None))
        case "raw-fetcher":
            asyncio.run(raw_fetcher(folder, other, tls.client if tls else None))


if __name__ == "__main__":
    main()
