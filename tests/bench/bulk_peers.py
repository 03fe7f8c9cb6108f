"""The peers of the benchmark of bulk: tools that copy a file over loopback, where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 20.0
Figures = dict[str, float]

_NGINX = """
user root; daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
events {{}}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}
"""
_RSYNC = """
use chroot = no
[files]
path = {folder}
"""


def cpu_of(process: subprocess.Popen[Any]) -> float:
    """Wait for the end of a process; its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def stop(process: subprocess.Popen[Any]) -> float:
    """End a process that was started here; its CPU seconds."""
    process.send_signal(signal.SIGTERM)
    return cpu_of(process)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that another program does."""
    deadline = time.monotonic() + START_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} takes more than {START_SECONDS:g} s")
        time.sleep(0.005)


def listens(port: int) -> bool:
    """Whether somebody answers at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def warm(folder: Path, size: int) -> None:
    """Touch as much page cache as is about to be written: on a virtual machine fresh pages cost more than the
    copy, and free ones are fresh again a few seconds later."""
    path = folder / "warm"
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    path.unlink()


def copied(folder: Path, server: list[str], port: int, client: list[str]) -> Figures:
    """What a client takes that copies ``folder``/file from a server, both started here."""
    quiet = subprocess.DEVNULL
    serving = subprocess.Popen(server, stdout=quiet, stderr=quiet)
    try:
        until(lambda: listens(port), server[0])
        warm(folder, (folder / "file").stat().st_size)
        started = time.perf_counter()
        fetching = subprocess.Popen(client, stdout=quiet)
        cpu = cpu_of(fetching)
        seconds = time.perf_counter() - started
        if fetching.returncode:
            raise RuntimeError(f"{client[0]} failed ({fetching.returncode})")
    finally:
        served = stop(serving)
    return {"seconds": seconds, "cpu": cpu + served}


def curl(folder: Path, source: Path) -> Figures:
    """To a file, unverified and not synced, from nginx with sendfile."""
    port = free_port()
    shutil.copyfile(source, folder / "file")
    (folder / "conf").write_text(_NGINX.format(folder=folder, port=port))
    server = ["nginx", "-p", str(folder), "-c", str(folder / "conf")]
    client = ["curl", "-sf", "-o", str(folder / "got"), f"http://127.0.0.1:{port}/file"]
    return copied(folder, server, port, client)


def rsync(folder: Path, source: Path, *options: str) -> Figures:
    """Whole files from a daemon; verified by a hash of the whole, not synced unless told so."""
    port = free_port()
    shutil.copyfile(source, folder / "file")
    (folder / "conf").write_text(_RSYNC.format(folder=folder))
    server = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}"]
    client = ["rsync", "-W", *options, f"rsync://127.0.0.1:{port}/files/file", str(folder / "got")]
    return copied(folder, [*server, f"--config={folder}/conf"], port, client)


class _Syncthing:
    """One instance, which talks to nobody but the other one."""

    def __init__(self, home: Path) -> None:
        self.home, self.files = home, home / "files"
        quiet = subprocess.DEVNULL
        command = ["syncthing", "generate", "--home", str(home), "--no-default-folder"]
        subprocess.run(command, check=True, stdout=quiet, stderr=quiet)
        (self.files / ".stfolder").mkdir(parents=True)
        self._config = ET.parse(home / "config.xml")
        root = self._config.getroot()
        self.id = root.find("device").get("id", "")  # type: ignore[union-attr]
        self._key = root.findtext("gui/apikey") or ""
        self.port, self._gui = free_port(), free_port()
        self._process: subprocess.Popen[Any] | None = None

    def start(self, other: _Syncthing, *, paused: bool) -> None:
        root = self._config.getroot()
        root.find("gui/address").text = f"127.0.0.1:{self._gui}"  # type: ignore[union-attr]
        options = root.find("options")
        assert options is not None
        off = ["globalAnnounce", "localAnnounce", "relays", "nat", "crashReporting"]
        settings = {f"{name}Enabled": "false" for name in off} | {
            "startBrowser": "false",
            "autoUpgradeIntervalH": "0",
            "urAccepted": "-1",
            "reconnectionIntervalS": "1",
            "listenAddress": f"tcp://127.0.0.1:{self.port}",
        }
        for name, value in settings.items():
            for old in options.findall(name):
                options.remove(old)
            ET.SubElement(options, name).text = value
        device = ET.SubElement(root, "device", id=other.id, compression="metadata")
        ET.SubElement(device, "address").text = f"tcp://127.0.0.1:{other.port}"
        shared = ET.SubElement(root, "folder", id="f", path=str(self.files), fsWatcherEnabled="false")
        for one in (self, other):
            ET.SubElement(shared, "device", id=one.id)
        ET.SubElement(shared, "paused").text = "true" if paused else "false"
        self._config.write(self.home / "config.xml")
        quiet = subprocess.DEVNULL
        command = ["syncthing", "serve", "--home", str(self.home), "--no-browser", "--no-restart"]
        self._process = subprocess.Popen([*command, "--no-upgrade"], stdout=quiet, stderr=quiet)
        until(lambda: listens(self._gui), "syncthing")

    def ask(self, path: str, method: str = "GET", body: object = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._gui}/rest/{path}",
            json.dumps(body).encode() if body is not None else None,
            {"X-API-Key": self._key, "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            return json.loads(answer.read() or b"null")

    def connected(self) -> bool:
        return any(one["connected"] for one in self.ask("system/connections")["connections"].values())

    def cpu(self) -> float:
        """Of the process that was started and of the one that it starts."""
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        children = [pid for thread in threads for pid in thread.read_text().split()]
        ticks = 0
        for pid in (self._process.pid, *children):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)


@contextmanager
def _pair(folder: Path) -> Iterator[tuple[_Syncthing, _Syncthing]]:
    holder, fetcher = _Syncthing(folder / "holder"), _Syncthing(folder / "fetcher")
    try:
        holder.start(fetcher, paused=False)
        fetcher.start(holder, paused=True)
        until(holder.connected, "syncthing")
        yield holder, fetcher
    finally:
        holder.stop()
        fetcher.stop()


def syncthing(folder: Path, source: Path) -> Figures:
    """Over TLS, verified block by block; without the time that the holder's scan takes. Polled: ± 5 ms."""
    with _pair(folder) as (holder, fetcher):
        shutil.copyfile(source, holder.files / "file")
        holder.ask("db/scan?folder=f", "POST")
        warm(folder, source.stat().st_size)
        before = holder.cpu() + fetcher.cpu()
        started = time.perf_counter()
        fetcher.ask("config/folders/f", "PATCH", {"paused": False})
        until((fetcher.files / "file").exists, "syncthing")
        seconds = time.perf_counter() - started
        cpu = holder.cpu() + fetcher.cpu() - before
    return {"seconds": seconds, "cpu": cpu}


PEERS: dict[str, tuple[list[str], Callable[[Path, Path], Figures]]] = {
    "curl": (["curl", "nginx"], curl),
    "rsync": (["rsync"], rsync),
    "rsync-sync": (["rsync"], lambda folder, source: rsync(folder, source, "--fsync")),
    "syncthing": (["syncthing"], syncthing),
}


def installed() -> list[str]:
    """The peers that can be measured here; the others are named on stderr."""
    found = []
    for name, (programs, _) in PEERS.items():
        if missing := [program for program in programs if shutil.which(program) is None]:
            print(f"  {name} is left out: {', '.join(missing)} is not installed", file=sys.stderr)
        else:
            found.append(name)
    return found
