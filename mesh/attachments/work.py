"""Work that an application waits for, and that is over when the node is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from mesh.errors import NotStarted

T = TypeVar("T")


class Work:
    """The tasks that do it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def do(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """The result of ``work``, which is over when this is: cancelled with this, and by :meth:`close`.
        ``name`` says what it does.

        Raises:
            NotStarted: it was cut short by :meth:`close`.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise
        finally:
            self._tasks.discard(task)
        if task.cancelled():  # which nothing but close() does
            raise NotStarted(f"the node was closed before it could {name}")
        return task.result()

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do ``work``, which raises nothing, without waiting for it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cut it short. No task is left."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
