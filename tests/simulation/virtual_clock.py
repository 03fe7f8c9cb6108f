"""An event loop whose time jumps: when nothing is ready to run, the next timer is due at once.

Weeks pass in milliseconds, and the same program takes the same course every time. There are no sockets,
threads or processes on such a loop: they live in real time.

    @virtual
    async def test_a_week() -> None:
        await asyncio.sleep(7 * DAY)

or, with a result, ``run_virtual(main())``.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

DAY = 86_400.0


class Deadlock(AssertionError):
    """Nothing is ready and no timer is pending: on this loop nothing can happen any more."""


class VirtualTimeLimit(AssertionError):
    """The program did not end within its virtual time."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """See the module. ``loop.time()`` starts at 0."""

    def __init__(self, *, limit_virtual_seconds: float = 365 * DAY) -> None:
        self._now = 0.0
        self._limit = limit_virtual_seconds
        super().__init__(_NeverSelector(self))
        # A timer fires if it is due within this time. After half a year, a nanosecond is lost in rounding.
        self._clock_resolution = 1e-7

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def jump(self, seconds: float | None) -> None:
        """Nothing is ready for ``seconds``; ``None``: nor will be ever."""
        if seconds is None:
            waiting = sorted(filter(None, map(_where, asyncio.all_tasks(self))))
            raise Deadlock(
                f"at {self._now:g} virtual seconds nothing is ready and no timer is pending. "
                f"Waiting for ever: {'; '.join(waiting) or 'no task'}"
            )
        self._now += seconds
        if self._now > self._limit:
            raise VirtualTimeLimit(f"still running after {self._limit:g} virtual seconds")


class _NeverSelector(selectors.SelectSelector):
    """Waits for no file; tells the loop how long it would have waited."""

    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._loop.jump(timeout)
        return []


def run_virtual(main: Coroutine[Any, Any, T], *, limit_virtual_seconds: float = 365 * DAY) -> T:
    """Run ``main`` to its end on a :class:`VirtualClockLoop`; what it returns or raises.

    Raises:
        Deadlock: it waits for something that cannot happen.
        VirtualTimeLimit: it takes more than ``limit_virtual_seconds``.
    """

    def loop() -> VirtualClockLoop:
        return VirtualClockLoop(limit_virtual_seconds=limit_virtual_seconds)

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test run by :func:`run_virtual`. Its fixtures live in real time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


def _where(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    return f"{task.get_name()} in {stack[0].f_code.co_qualname}:{stack[0].f_lineno}" if stack else ""
