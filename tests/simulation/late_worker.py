"""A worker that tells late of what it has done, as a thread does, yet takes the same course every time."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mesh.storage.worker import InlineWorker

P = ParamSpec("P")
R = TypeVar("R")

MAX_PASSES = 3


class LateWorker(InlineWorker):
    """Does at once what it is asked for, and tells of it in order, up to ``MAX_PASSES`` passes later.

    Args:
        rng: draws how late.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._done: deque[tuple[asyncio.Future[Any], asyncio.Future[Any]]] = deque()

    def submit(self, function: Callable[..., R], *args: Any) -> asyncio.Future[R]:
        """See :class:`~mesh.storage.worker.Worker`."""
        told: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._done.append((told, super().submit(function, *args)))
        if len(self._done) == 1:
            self._wait(self._rng.randint(0, MAX_PASSES))
        return told

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`~mesh.storage.worker.Worker`."""
        return await self.submit(lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """See :class:`~mesh.storage.worker.Worker`."""
        while self._done:
            await asyncio.wait([self._done[-1][0]])

    def _wait(self, passes: int) -> None:
        step = self._tell if passes == 0 else lambda: self._wait(passes - 1)
        asyncio.get_running_loop().call_soon(step)

    def _tell(self) -> None:
        told, done = self._done.popleft()
        problem = done.exception()
        if told.done():
            pass  # who asked has given up
        elif problem is None:
            told.set_result(done.result())
        else:
            told.set_exception(problem)
        if self._done:
            self._wait(self._rng.randint(0, MAX_PASSES))
