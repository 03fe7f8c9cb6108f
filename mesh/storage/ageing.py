"""Keeps the store tidy while a node runs: old tombstones shrink, old graves go, and so does free space."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from functools import partial

from mesh.core.commits import Commit
from mesh.errors import MeshError, NotStarted
from mesh.storage import graves
from mesh.storage.documents import DocumentStore

_log = logging.getLogger("mesh.storage")

INTERVAL_SECONDS = 86_400.0

MANY_GONE = 1000
"""Documents removed or evicted here after which the space that they took is not kept until the next time."""


class Ageing:
    """Runs at the start, once a day, and after many documents have gone; others write in between.

    Args:
        store: what is kept tidy.
        clock: wall clock, in seconds since the epoch.
    """

    def __init__(self, store: DocumentStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._gone = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin. The store must be open."""
        self._store.follow(self._committed)
        self._begin()

    async def close(self) -> None:
        """Stop, once the job under way is done."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task

    def _committed(self, commits: list[Commit]) -> None:
        self._gone += sum(commit.before is not None and commit.after is None for commit in commits)
        if self._gone >= MANY_GONE:
            self._begin()

    def _begin(self) -> None:
        if self._closed or self._task is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._gone = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        try:
            for job in (partial(graves.bury, now=self._clock()), graves.shrink):
                while not self._closed and await self._store.write(job, bulk=True):
                    pass
        except NotStarted:
            return
        except MeshError as error:
            _log.warning("old tombstones and free space are left until tomorrow: %s", error)
        self._task = None
        if self._gone >= MANY_GONE:
            self._begin()
        elif not self._closed:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._begin)
