"""Where blocking work runs: on one thread of its own, or right here for a node in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

from mesh.errors import NotStarted

P = ParamSpec("P")
R = TypeVar("R")

_NICE = 10
"""By so much a thread that gives way is nicer than the process."""


Then = Callable[[Any, BaseException | None], object]
"""Given what a function returned, or what it raised."""

_Result = tuple[Any, BaseException | None]


class Worker(Protocol):
    """Runs blocking functions one after another, in the order they were asked for."""

    def call(self, then: Then, function: Callable[..., Any], *args: Any) -> None:
        """Ask for ``function``; ``then`` is called on the event loop when it has run.

        Raises:
            NotStarted: it was closed.
        """

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``function``, which has run when this returns. Cancelled before it has begun, it is
        not run."""

    async def give_way(self) -> None:
        """Let the other threads of the process go first from now on, where the system can do that."""

    async def close(self) -> None:
        """Finish what was asked for, then leave nothing behind. May be repeated."""


async def run_surely(worker: Worker, function: Callable[[], R]) -> R:
    """As ``worker.run``, and it is run whoever is cancelled: what tidies up."""
    done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    worker.call(partial(settle, done), function)
    return await done


class ThreadWorker:
    """One thread: the event loop stays free while the disk is slow.

    A plain queue and one wake-up of the loop per call: a pool of threads takes twice the time for that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, then: Then, function: Callable[..., Any], *args: Any) -> None:
        """See :class:`Worker`."""
        if self._closed:
            raise NotStarted(f"the node was closed: {self._name} does nothing more")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((asyncio.get_running_loop(), then, function, args))

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`Worker`."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.call(partial(settle, future), _unless_cancelled, future, function, args, kwargs)
        return await future

    async def give_way(self) -> None:
        """See :class:`Worker`."""
        if sys.platform == "linux":
            await self.run(_give_way)

    async def close(self) -> None:
        """See :class:`Worker`."""
        if self._thread is not None and not self._closed:
            last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.call(partial(settle, last), lambda: None)
            self._calls.put(None)
            self._closed = True
            await last
        self._closed = True
        if self._thread is not None:
            self._thread.join()  # nothing is left to do, so this does not block

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            _make(*call)
            del call  # what it was about is not kept until the next one


def _make(
    loop: asyncio.AbstractEventLoop, then: Then, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who asked
        loop.call_soon_threadsafe(then, *_result(function, *args))


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICE
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


class Together:
    """Asks a worker for quick functions, for all those of one turn of the event loop at once: each by itself
    would wake two threads."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._asked: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """The result of ``function``."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._ask)
        done: asyncio.Future[R] = loop.create_future()
        self._asked.append((partial(function, *args, **kwargs), done))
        return done

    def _ask(self) -> None:
        asked, self._asked = self._asked, []
        asked = [(function, done) for function, done in asked if not done.done()]

        def then(results: list[_Result] | None, problem: BaseException | None) -> None:
            for (_, done), result in zip(asked, results or [(None, problem)] * len(asked), strict=True):
                settle(done, *result)

        try:
            self._worker.call(then, _each, [function for function, _ in asked])
        except NotStarted as closed:
            then(None, closed)


def _each(functions: list[Callable[[], Any]]) -> list[_Result]:
    return [_result(function) for function in functions]


def _result(function: Callable[..., Any], *args: Any) -> _Result:
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 - it is raised where the function was asked for
        return None, error


_Call = tuple[asyncio.AbstractEventLoop, Then, Callable[..., Any], tuple[Any, ...]]


def _unless_cancelled(
    future: asyncio.Future[R], function: Callable[..., R], args: Any, kwargs: Any
) -> R | None:
    return None if future.cancelled() else function(*args, **kwargs)


def settle(future: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
    """Give ``future`` what a call came to."""
    if future.done():
        return  # who asked has given up
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)


class InlineWorker:
    """No thread: deterministic, for stores in memory and for simulations."""

    def call(self, then: Then, function: Callable[..., Any], *args: Any) -> None:
        """See :class:`Worker`."""
        try:
            result = function(*args)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is taken
            then(None, error)
        else:
            then(result, None)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See :class:`Worker`."""
        return function(*args, **kwargs)

    async def give_way(self) -> None:
        """See :class:`Worker`."""

    async def close(self) -> None:
        """See :class:`Worker`."""
