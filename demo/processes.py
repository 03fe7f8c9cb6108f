"""The nodes of the demo: one `mesh up` process each, and nothing left of them afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mesh.control.client import ControlClient

START_TIMEOUT = 30.0
STOP_TIMEOUT = 8.0
"""Seconds that nodes get to close by themselves; after that they are killed."""
_LOG_LINES = 12
_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).resolve().parents[1]


class NodeFailed(Exception):
    """A node of the demo did not start, or ended when it should not; the message ends with its log."""


@dataclass
class NodeProcess:
    """One node: its home, how it is started, and its process while there is one.

    Attributes:
        role: what it is in this mesh, for people.
        formation: the named group that it belongs to.
        node_id, address: what it said when it was ready.
        gateway: the address of its gateway, if it has one.
        condition: ``starting``, ``online``, ``offline`` (it is paused), ``killed`` or ``stopped``.
    """

    name: str
    role: str
    home: Path
    options: list[str] = field(default_factory=list)
    formation: str | None = None
    gateway: str | None = None
    node_id: str = ""
    address: str = ""
    condition: str = "stopped"
    process: Process | None = None

    @property
    def inbox(self) -> Path:
        """Where delivered files appear."""
        return self.home / "inbox"

    @property
    def log(self) -> Path:
        """Where its log goes; beside its home, which is the node's own."""
        return self.home.with_suffix(".log")

    def control(self) -> ControlClient:
        """A client of this node's control endpoint."""
        return ControlClient(self.home)


class Supervisor:
    """Starts nodes, and makes sure that none outlives it: an async context manager.

    However its block ends (done, failed, cancelled by a signal), every process that was started is asked
    to close and, if need be, killed. Where the system can do it (Linux), the nodes are also told when
    this process dies without a chance to tell them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: dict[str, NodeProcess] = {}
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with :class:`NodeFailed` when a node ends that nobody stopped."""
        self._guards: dict[int, asyncio.Task[None]] = {}

    def add(self, name: str, role: str, *options: str, formation: str | None = None) -> NodeProcess:
        """A node with a home of its own in the directory; it is not started yet."""
        more = ["--formation", formation] if formation else []
        node = NodeProcess(name, role, self.directory / name, [*options, *more], formation)
        self.nodes[name] = node
        return node

    async def start(self, node: NodeProcess) -> None:
        """Start its process and wait until it is ready.

        Raises:
            NodeFailed: it ended, or was not ready in time.
        """
        node.condition = "starting"
        arguments = ["-m", "mesh", "up", "--json", "--home", str(node.home), "--name", node.name]
        with node.log.open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                *node.options,
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then closes the nodes in good order
                preexec_fn=_die_with_parent(),
            )
        process = node.process
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT):
                ready = json.loads(await process.stdout.readline() or b"{}")
        except TimeoutError:
            raise NodeFailed(f"{node.name} was not ready in {START_TIMEOUT:g} s{_tail(node.log)}") from None
        if "node_id" not in ready:
            message = ready.get("error", {}).get("message") or "no reason given"
            raise NodeFailed(f"{node.name} did not start: {message}{_tail(node.log)}")
        node.node_id, node.address = ready["node_id"], ready["address"]
        node.condition = "online"
        self._guards[process.pid] = asyncio.create_task(self._guard(node, process))

    async def kill(self, node: NodeProcess) -> int:
        """``kill -9``: no warning, no clean-up. The process id that it had."""
        process = node.process
        assert process is not None, f"{node.name} does not run"
        node.condition = "killed"
        process.kill()
        await process.wait()
        node.process = None
        return process.pid

    async def stop(self, node: NodeProcess) -> None:
        """Close it in good order, or kill it if that takes too long."""
        process = node.process
        assert process is not None, f"{node.name} does not run"
        node.condition = "stopped"
        await _end(process)
        node.process = None

    async def close(self) -> None:
        """Close every node: asked first, killed if that takes too long. May be repeated."""
        running = [node for node in self.nodes.values() if node.process is not None]
        for node in running:
            node.condition = "stopped"
        await asyncio.gather(*(_end(node.process) for node in running if node.process is not None))
        for node in running:
            node.process = None
        await asyncio.gather(*self._guards.values())
        if not self.died.cancel():
            self.died.exception()  # seen: whoever waited for it was told

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _guard(self, node: NodeProcess, process: Process) -> None:
        status = await process.wait()
        if node.process is process and node.condition in ("online", "offline") and not self.died.done():
            node.condition = "stopped"
            error = NodeFailed(f"{node.name} ended by itself with status {status}{_tail(node.log)}")
            self.died.set_exception(error)


async def _end(process: Process) -> None:
    """Terminate one process, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """What a child runs first on Linux, so that it is terminated when the demo is killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: the child between fork and exec should do next to nothing
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    return "".join(f"\n    {line}" for line in lines)
