"""The demo as a process, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


class DemoProcess:
    """``python -m demo ARGUMENTS`` with its nodes in ``folder``.

    A context manager that makes sure it is gone, after ``patience`` seconds at the latest.
    """

    def __init__(self, folder: Path, *arguments: str, patience: float = 60) -> None:
        self.folder = folder
        self.output = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--dir", str(folder), *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self._watchdog = threading.Timer(patience, self._process.kill)
        self._watchdog.start()

    def until(self, text: str) -> str:
        """Read its output up to the line with ``text``; that line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"it ended without {text!r}:\n{self.output}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Read the rest of its output, and wait for its end; the exit status."""
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return self._process.wait()

    def nodes(self) -> list[str]:
        """The node processes that there are, by their command lines."""
        listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        return [line for line in listed.splitlines() if f"--home {self.folder}/" in line]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
