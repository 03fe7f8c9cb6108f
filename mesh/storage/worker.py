"""Where blocking work runs: on one thread of its own, or right here for a node in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker(Protocol):
    """Runs blocking functions one after another, in the order they were asked for."""

    def submit(self, function: Callable[..., R], *args: Any) -> asyncio.Future[R]:
        """Ask for ``function``; what it returns or raises. Cancelled before it has begun, it is not run."""

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``function``, which has run when this returns."""

    async def close(self) -> None:
        """Finish what was asked for, then leave nothing behind. May be repeated."""


class ThreadWorker:
    """One thread: the event loop stays free while the disk is slow.

    A plain queue and one wake-up of the loop per call: a pool of threads takes twice the time for that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, function: Callable[..., R], *args: Any) -> asyncio.Future[R]:
        """See :class:`Worker`."""
        if self._closed:
            raise RuntimeError(f"the worker {self._name} is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._calls.put(_Call(loop, future, function, args))
        return future

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`Worker`."""
        if kwargs:
            return await self.submit(lambda: function(*args, **kwargs))
        return await self.submit(function, *args)

    async def close(self) -> None:
        """See :class:`Worker`."""
        if self._thread is not None and not self._closed:
            last = self.submit(lambda: None)
            self._closed = True
            self._calls.put(None)
            await last
        self._closed = True
        if self._thread is not None:
            self._thread.join()  # nothing is left to do, so this does not block

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()


class _Call:
    """One function to be run."""

    __slots__ = ("_args", "_function", "_future", "_loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        self._loop = loop
        self._future = future
        self._function = function
        self._args = args

    def make(self) -> None:
        """Run it, on the worker's thread."""
        if self._future.cancelled():
            return
        result: Any = None
        problem: BaseException | None = None
        try:
            result = self._function(*self._args)
        except BaseException as error:  # noqa: BLE001 - it is raised where the function was asked for
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who asked
            self._loop.call_soon_threadsafe(self._answer, result, problem)

    def _answer(self, result: Any, problem: BaseException | None) -> None:
        if self._future.done():
            return  # who asked has given up
        if problem is None:
            self._future.set_result(result)
        else:
            self._future.set_exception(problem)


class InlineWorker:
    """No thread: deterministic, for stores in memory and for simulations."""

    def submit(self, function: Callable[..., R], *args: Any) -> asyncio.Future[R]:
        """See :class:`Worker`."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is taken
            future.set_exception(error)
        return future

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`Worker`."""
        return function(*args, **kwargs)

    async def close(self) -> None:
        """See :class:`Worker`."""
