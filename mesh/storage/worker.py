"""Where blocking work runs: on one thread of its own, or right here for a node in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker(Protocol):
    """Runs blocking functions one after another, in the order they were asked for."""

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``function``, which has run when this returns."""

    async def close(self) -> None:
        """Finish what was asked for, then leave nothing behind. May be repeated."""


class ThreadWorker:
    """One thread: the event loop stays free while the disk is slow."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`Worker`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """See :class:`Worker`."""
        with contextlib.suppress(RuntimeError):  # closed already
            await self.run(lambda: None)
        self._pool.shutdown()  # nothing is left to do, so this does not block


class InlineWorker:
    """No thread: deterministic, for stores in memory and for simulations."""

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`Worker`."""
        return function(*args, **kwargs)

    async def close(self) -> None:
        """See :class:`Worker`."""
