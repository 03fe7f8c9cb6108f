"""A worker that tells late of what it has done, as a thread does, yet takes the same course every time."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from mesh.storage.worker import InlineWorker, Then, settle

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
        self._done: deque[Callable[[], object]] = deque()

    def call(self, then: Then, function: Callable[..., Any], *args: Any) -> None:
        """See :class:`~mesh.storage.worker.Worker`."""
        super().call(lambda *outcome: self._done.append(lambda: then(*outcome)), function, *args)
        if len(self._done) == 1:
            self._wait(self._rng.randint(0, MAX_PASSES))

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`~mesh.storage.worker.Worker`."""
        told: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.call(partial(settle, told), lambda: function(*args, **kwargs))
        return await told

    async def close(self) -> None:
        """See :class:`~mesh.storage.worker.Worker`."""
        if self._done:
            await self.run(lambda: None)

    def _wait(self, passes: int) -> None:
        step = self._tell if passes == 0 else lambda: self._wait(passes - 1)
        asyncio.get_running_loop().call_soon(step)

    def _tell(self) -> None:
        self._done.popleft()()
        if self._done:
            self._wait(self._rng.randint(0, MAX_PASSES))
