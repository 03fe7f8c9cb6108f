"""Real y-websocket clients: Node processes with the packages that web apps use."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

SOURCES = Path(__file__).parent / "yjs"
INSTALL_SECONDS = 100.0
WAIT_SECONDS = 15.0

State = dict[str, Any]


def install(folder: Path) -> None:
    """Make ``folder`` one that the client runs in. Without Node or a registry the test is skipped; in CI
    that is a failure."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        _give_up("node and npm are not both installed")
    assert npm is not None
    for source in SOURCES.iterdir():
        shutil.copy(source, folder)
    try:
        subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        _give_up(f"npm ci failed: {error.stderr.strip() or error.stdout.strip()}")
    except subprocess.TimeoutExpired:
        _give_up(f"npm ci took more than {INSTALL_SECONDS:g} s")


def _give_up(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"no Yjs clients: {reason}")
    pytest.skip(f"no Yjs clients: {reason}")


class YjsClient:
    """One client: a context manager that starts it, and makes sure it is gone.

    Args:
        folder: see :func:`install`.
        url: of the gateway.
        name: collection and id.
        params: what goes into the query of its URL.
    """

    def __init__(self, folder: Path, url: str, name: str, **params: str) -> None:
        self._folder = folder
        collection, _, self._id = name.rpartition("/")
        self._url = f"{url.replace('http', 'ws')}/yjs/{collection}"
        self._params = json.dumps(params)
        self._process: Process | None = None
        self._pings = 0
        self.state: State = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            "node",
            "client.js",
            self._url,
            self._id,
            self._params,
            cwd=self._folder,
            stdin=PIPE,
            stdout=PIPE,
            limit=16 << 20,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.communicate()

    def do(self, command: str, *values: Any) -> None:
        """Have it do something: see ``client.js``."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *values]).encode() + b"\n")

    async def until(self, condition: Callable[[State], object]) -> State:
        """How it sees the document, once ``condition`` holds."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._pings += 1
        self.do("ping", self._pings)  # so that something is said, and what was done before has been done
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                pinged = False
                while not pinged or not condition(self.state):
                    line = await self._process.stdout.readline()
                    assert line, "the client has ended"
                    self.state = json.loads(line)
                    pinged = pinged or self.state.get("pong") == self._pings
        except TimeoutError:
            raise AssertionError(f"it did not come to that: {self.state}") from None
        return self.state
