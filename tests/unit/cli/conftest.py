from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from click.testing import CliRunner, Result

from mesh.cli.main import cli
from mesh.control.server import ControlServer
from tests.unit.fake_node import FakeNode

T = TypeVar("T")


class ServedNode:
    """A fake node whose control endpoint is served by a thread, as another process would."""

    def __init__(self, node: FakeNode, home: Path) -> None:
        self.node = node
        self.home = home
        self._tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._server = ControlServer(cast(Any, node), home, shutdown=self._shut_down)
        self.run(self._server.start())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of ``coroutine``, run in the node's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self) -> None:
        self.run(self._server.close())
        self.run(self._spawned())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start ``coroutine`` in the node's loop, from there."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close_soon(self) -> None:
        """Stop serving, as soon as whoever asks now has been served."""
        self.loop.call_later(0.2, self._shut_down)

    async def _spawned(self) -> None:
        await asyncio.gather(*self._tasks)

    def _shut_down(self) -> None:
        self.spawn(self._server.close())

    def mesh(self, *arguments: str, stdin: str | bytes = "") -> Result:
        """The result of ``mesh --home HOME ARGUMENTS``."""
        return CliRunner().invoke(cli, ["--home", str(self.home), *arguments], input=stdin)

    def json(self, *arguments: str) -> Any:
        """What ``mesh ARGUMENTS --json`` prints, which must succeed and be one document."""
        result = self.mesh(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)


@pytest.fixture
def served(fake_node: FakeNode, tmp_path: Path) -> Iterator[ServedNode]:
    (tmp_path / "home").mkdir()
    served = ServedNode(fake_node, tmp_path / "home")
    yield served
    served.close()
