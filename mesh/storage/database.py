"""The SQLite file: who writes when, and group commit.

Jobs that arrive while a commit is under way are committed together by the next one, so that many writers
share one ``fsync``. Each job is atomic by itself: one that raises is rolled back alone.

Commits and transactions take turns. Reads of a file have a connection of their own: each sees what was
committed before it, waits for nobody and holds up nobody. A store in memory has one connection, whose reads
take turns as well.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from mesh.errors import NotStarted
from mesh.storage.connection import Connection, Job, Outcome, Session
from mesh.storage.transactions import OpenTransaction, refuse_inside
from mesh.storage.turns import Turns
from mesh.storage.worker import Worker

R = TypeVar("R")
T = TypeVar("T", bound=Session)

IN_MEMORY = ":memory:"

MAX_BATCH_JOBS = 500
"""Jobs of one commit at most: what comes next waits for no more than these."""

_Waiting = list[tuple[Job[T, Any], asyncio.Future[Any]]]


class Database(Generic[T]):
    """Runs jobs against one file.

    Args:
        path: the file, or :data:`IN_MEMORY`.
        worker: where it is written.
        begin: makes the object that jobs are given, once a connection is open.
        committed: called on the event loop after every commit, before the jobs' callers go on, and before
            any read returns that has seen it.
        reader: where it is read, on a connection of its own, and what makes the object that reads are given;
            ``None``: on the connection that writes.
    """

    def __init__(
        self,
        path: str,
        worker: Worker,
        begin: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None],
        reader: tuple[Worker, Callable[[sqlite3.Connection], T]] | None = None,
    ) -> None:
        self._worker = worker
        self._writer = Connection(path, begin)
        self._committed = committed
        self._read_worker, self._reader = worker, None
        if reader is not None:
            self._read_worker, begin_reading = reader
            self._reader = Connection(path, begin_reading, read_only=True)
        self._files_are_open = self._open_for_jobs = self._open_for_transactions = False
        self._turns = Turns()
        self._transaction: OpenTransaction[T] | None = None
        self._jobs: _Waiting[T] = []
        self._bulk: _Waiting[T] = []
        self._bulk_is_next = False
        self._draining = False
        self._told = 0
        self._telling: asyncio.Event | None = None

    async def open(self) -> None:
        """Open the file, creating or migrating it.

        Raises:
            StoreTooNew, StoreCorrupt, StorageFull, DataDirUnusable: see there. Nothing stays open.
        """
        self._loop = asyncio.get_running_loop()  # asked for once: Python 3.11 makes a system call of it
        await self._worker.run(self._writer.open)
        if self._reader is not None:
            try:
                await self._read_worker.run(self._reader.open)
            except BaseException:
                await self._worker.run(self._writer.close)
                raise
        self._files_are_open = self._open_for_jobs = self._open_for_transactions = True

    async def close(self) -> None:
        """Commit what was asked for, roll back an open transaction, close the file. May be repeated."""
        self.end_transactions()
        self._open_for_jobs = False
        while self._draining:
            async with self._turns:
                pass
        async with self._turns:  # who waits to begin a transaction has been sent away by now
            if not self._files_are_open:
                return
            if self._reader is not None:
                await self._read_worker.run(self._reader.close)
            await self._worker.run(self._writer.close)  # as the last one, it empties the write-ahead log
            self._files_are_open = False

    def _check_open(self) -> None:
        if not self._open_for_jobs:
            raise NotStarted("the store is not open")

    # --- reading ----------------------------------------------------------------------------------

    async def read(self, job: Job[T, R]) -> R:
        """The result of ``job``, which must not write.

        Raises:
            NotStarted: the store is not open.
            NestedTransaction: it would wait for the transaction that it is inside of.
        """
        self._check_open()
        if self._reader is None:
            refuse_inside(self)
            async with self._turns:
                return await self._worker.run(self._writer.read, job)
        result, seen = await self._read_worker.run(
            self._reader.read_snapshot, job, lambda: self._writer.commits
        )
        while seen > self._told:
            if self._telling is None:
                self._telling = asyncio.Event()
            await self._telling.wait()
        return result

    # --- writing ----------------------------------------------------------------------------------

    def write(self, job: Job[T, R], *, bulk: bool = False) -> asyncio.Future[R]:
        """The result of ``job``, whose changes are durable when that is there.

        Args:
            bulk: work for somebody else: it lets others go first. Bulk jobs keep their order.

        Raises:
            NotStarted: the store is not open.
            NestedTransaction: it would wait for the transaction that it is inside of.
            StorageFull: the disk is full; nothing of the job was kept.
            Exception: whatever the job raised; nothing of it was kept.
        """
        self._check_open()
        refuse_inside(self)
        future: asyncio.Future[R] = self._loop.create_future()
        (self._bulk if bulk else self._jobs).append((job, future))
        if not self._draining:
            self._draining = True
            self._turns.take(self._soon_commit)
        return future

    def _soon_commit(self) -> None:
        """What else is asked for in this pass of the loop comes along."""
        self._loop.call_soon(self._begin_commit)

    def _begin_commit(self) -> None:
        """Commit some of the waiting jobs: bulk ones and others take turns, so that a bulk job holds up
        others for its own time only, and they hold it up for one commit."""
        waiting = self._bulk if self._bulk and (self._bulk_is_next or not self._jobs) else self._jobs
        self._bulk_is_next = waiting is self._jobs
        batch = waiting[:MAX_BATCH_JOBS]
        self._worker.call(
            partial(self._end_commit, waiting, batch), self._writer.commit, [job for job, _ in batch]
        )

    def _end_commit(
        self,
        waiting: _Waiting[T],
        batch: _Waiting[T],
        outcomes: list[Outcome] | None,
        problem: BaseException | None,
    ) -> None:
        try:
            self._answer(waiting, batch, outcomes, problem)
        finally:
            self._draining = bool(self._jobs or self._bulk)
            if self._draining:
                self._turns.take(self._soon_commit)
            self._turns.give_back()

    def _answer(
        self,
        waiting: _Waiting[T],
        batch: _Waiting[T],
        outcomes: list[Outcome] | None,
        problem: BaseException | None,
    ) -> None:
        if outcomes is None:
            outcomes = [(None, problem)] * len(batch)
        del waiting[: len(outcomes)]
        self._tell(self._writer.session if problem is None else None)
        for (_, future), (result, problem) in zip(batch, outcomes, strict=False):
            if future.done():
                continue  # its caller was cancelled; the write stands
            if problem is not None:
                future.set_exception(problem)
            else:
                future.set_result(result)

    def _tell(self, session: T | None) -> None:
        """A commit has been made, or has failed; then there is no ``session``."""
        if session is not None:
            self._committed(session)
        self._told = self._writer.commits
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.set()

    # --- transactions -----------------------------------------------------------------------------

    async def transaction(self) -> OpenTransaction[T]:
        """Begin a transaction, once it is its turn. It has to be committed or rolled back.

        Raises:
            NotStarted: the store is not open.
            NestedTransaction: it would wait for the transaction that it is inside of.
        """
        refuse_inside(self)
        await self._turns.wait()
        if not self._open_for_transactions:
            self._turns.give_back()
            raise NotStarted("the store is not open")
        self._transaction = OpenTransaction(self, self._worker, self._writer, self._transaction_over)
        return self._transaction

    def end_transactions(self) -> None:
        """Roll back the transaction that is open, and let none begin: closing is next."""
        self._open_for_transactions = False
        if self._transaction is not None:
            self._transaction.end("the node was closed")

    def _transaction_over(self, *, committed: bool) -> None:
        self._transaction = None
        try:
            self._tell(self._writer.session if committed else None)
        finally:
            self._turns.give_back()
