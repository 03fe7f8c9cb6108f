"""Real `mesh` processes for tests: nodes that can be killed, and commands that are run to their end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
COMMAND_TIMEOUT = 60.0


class ProcessFailed(AssertionError):
    """A process did not do what a test needs; the message has its stderr."""


class Lines:
    """The lines that a process prints, read by a thread so that waiting for one can time out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.stderr = ""
        self._threads = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def next(self, timeout: float = START_TIMEOUT) -> str:
        """The next line of stdout.

        Raises:
            ProcessFailed: none came in time, or stdout has ended.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ProcessFailed(f"no line within {timeout:g} s; stderr so far:\n{self.stderr}") from None
        if line is None:
            self.join()
            raise ProcessFailed(f"ended with {self._process.wait()}; stderr:\n{self.stderr}")
        return line

    def join(self) -> None:
        """Wait until both outputs have ended, which they do with the process."""
        for thread in self._threads:
            thread.join(STOP_TIMEOUT)

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.stderr += line


class MeshProcess:
    """A node in a process of its own: ``mesh up --home HOME``.

    A context manager that starts it and, on the way out, makes sure it is gone. It can be stopped or
    killed and started again; with a fixed port it comes back where it was.

    Attributes:
        node_id, name, address, gateway: what it said when it became ready; empty what it does not have.
    """

    def __init__(self, home: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.home = home
        self.options = list(options)
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._lines: Lines | None = None
        self.node_id = self.name = self.address = self.gateway = ""

    def start(self, *, timeout: float = START_TIMEOUT) -> Self:
        """Start it and wait until it is ready.

        Raises:
            ProcessFailed: it ended, or was not ready in time (then it is killed).
        """
        assert self._process is None, "it runs already"
        arguments = ["up", "--json", "--home", str(self.home), *self.options]
        self._process = spawn(arguments, self._environment)
        self._lines = Lines(self._process)
        try:
            ready = json.loads(self._lines.next(timeout))
            if "error" in ready:
                raise ProcessFailed(f"mesh up: {ready['error']}")
        except BaseException:
            self.kill()
            raise
        self.node_id, self.name, self.address = ready["node_id"], ready["name"], ready["address"] or ""
        self.gateway = ready.get("gateway", "")
        return self

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What this or the last run has logged so far."""
        return self._lines.stderr if self._lines is not None else ""

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = STOP_TIMEOUT) -> int:
        """Ask it to close, and wait; its exit status. Does nothing (0) if it does not run.

        Raises:
            ProcessFailed: it had not ended in time (then it is killed).
        """
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self.wait(timeout=timeout)

    def wait(self, *, timeout: float = STOP_TIMEOUT) -> int:
        """Wait until it ends by itself; its exit status.

        Raises:
            ProcessFailed: it had not ended in time (then it is killed).
        """
        assert self._process is not None, "it does not run"
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessFailed(f"still running after {timeout:g} s; stderr:\n{self.stderr}") from None
        self._ended()
        return status

    def kill(self) -> None:
        """``kill -9``: no warning, no clean-up. Does nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._ended()

    def mesh(self, *arguments: str, timeout: float = COMMAND_TIMEOUT, status: int = 0) -> Any:
        """What ``mesh ARGUMENTS --json`` prints, run against this node.

        Raises:
            ProcessFailed: its exit status is not ``status``.
        """
        done = run_mesh("--home", str(self.home), "--json", *arguments, timeout=timeout)
        if done.returncode != status:
            raise ProcessFailed(
                f"mesh {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}"
                f"the node's log:\n{self.stderr}"
            )
        return json.loads(done.stdout) if done.stdout else None

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.stop()
        else:
            self.kill()

    def _ended(self) -> None:
        assert self._lines is not None
        self._lines.join()
        self._process = None


def spawn(arguments: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """``mesh ARGUMENTS`` as a process with piped output, from this source tree."""
    return subprocess.Popen(
        [sys.executable, "-m", "mesh.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=source_environment(environment),
    )


def run_mesh(
    *arguments: str,
    timeout: float = COMMAND_TIMEOUT,
    stdin: str = "",
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``mesh ARGUMENTS`` to its end, from this source tree."""
    return subprocess.run(
        [sys.executable, "-m", "mesh.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=source_environment(environment),
        check=False,
    )


def source_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that runs this source tree."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | (more or {})
