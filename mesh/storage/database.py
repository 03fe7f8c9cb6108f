"""The SQLite file: one connection on one worker, and group commit.

Jobs that arrive while a commit is under way are committed together by the next one, so that many writers
share one ``fsync``. Each job is atomic by itself: one that raises is rolled back alone.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import sqlite_utils

from mesh.errors import DataDirUnusable, MeshError, NotStarted, StorageFull, StoreCorrupt
from mesh.storage.schema import migrate, refuse_newer
from mesh.storage.worker import Worker


class Session(Protocol):
    """What jobs are given: it may keep state beside the tables, which follows the transaction."""

    def keep(self) -> None:
        """A job is done: what it changed stands."""

    def undo(self) -> None:
        """A job has failed: forget what it changed."""

    def finish(self) -> None:
        """All jobs are done, the commit is next: write what is still to be written."""

    def undo_all(self) -> None:
        """The transaction has failed: forget what all its jobs changed."""


R = TypeVar("R")
T = TypeVar("T", bound=Session)

IN_MEMORY = ":memory:"

PAGE_BYTES = 4096
"""What the file grows by at least."""


class Database(Generic[T]):
    """Runs jobs against one connection.

    Args:
        path: the file, or :data:`IN_MEMORY`.
        worker: where the connection lives; nothing else touches it.
        begin: makes the object that jobs are given, once the connection is open.
        committed: called on the event loop after every commit, before the jobs' callers go on.
    """

    def __init__(
        self,
        path: str,
        worker: Worker,
        begin: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None],
    ) -> None:
        self._path = path
        self._worker = worker
        self._begin = begin
        self._committed = committed
        self._connection: sqlite3.Connection | None = None
        self._session: T | None = None
        self._open_for_jobs = False
        self._jobs: list[tuple[Callable[[T], Any], asyncio.Future[Any]]] = []
        self._drain: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file, creating or migrating it.

        Raises:
            StoreTooNew, StoreCorrupt, StorageFull, DataDirUnusable: see there. Nothing stays open.
        """
        try:
            await self._worker.run(self._open)
        except BaseException:
            await self._worker.run(self._close)
            raise
        self._open_for_jobs = True

    def _open(self) -> None:
        with self._naming_errors():
            connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._connection = connection
            connection.execute("PRAGMA busy_timeout=5000")
            tables = sqlite_utils.Database(connection, execute_plugins=False)
            refuse_newer(tables, self._path)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-8000")
            migrate(tables)
            self._session = self._begin(connection)

    async def write(self, job: Callable[[T], R]) -> R:
        """The result of ``job``, whose changes are durable when this returns.

        Raises:
            NotStarted: the store is not open.
            StorageFull: the disk is full; nothing of the job was kept.
            Exception: whatever the job raised; nothing of it was kept.
        """
        self._check_open()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, future))
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_jobs())
        return await future

    async def read(self, job: Callable[[T], R]) -> R:
        """The result of ``job``, which must not write.

        Raises:
            NotStarted: the store is not open.
        """
        self._check_open()
        return await self._worker.run(self._read, job)

    def _check_open(self) -> None:
        if not self._open_for_jobs:
            raise NotStarted("the store is not open")

    def _read(self, job: Callable[[T], R]) -> R:
        with self._naming_errors():
            return job(self._opened())

    async def close(self) -> None:
        """Commit what was asked for, then close the file. May be repeated."""
        self._open_for_jobs = False
        if self._drain is not None:
            await self._drain
        if self._connection is not None:
            await self._worker.run(self._close)

    def _close(self) -> None:
        connection, self._connection, self._session = self._connection, None, None
        if connection is not None:
            connection.close()

    def _opened(self) -> T:
        if self._session is None:
            raise NotStarted("the store is not open")
        return self._session

    # --- group commit -----------------------------------------------------------------------------

    async def _drain_jobs(self) -> None:
        try:
            while self._jobs:
                batch, self._jobs = self._jobs, []
                try:
                    outcomes = await self._worker.run(self._commit, [job for job, _ in batch])
                except BaseException as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    if not isinstance(error, Exception):
                        raise
                    continue
                self._committed(self._opened())
                for (_, future), (result, problem) in zip(batch, outcomes, strict=True):
                    if future.done():
                        continue  # its caller was cancelled; the write stands
                    if problem is not None:
                        future.set_exception(problem)
                    else:
                        future.set_result(result)
        finally:
            self._drain = None

    def _commit(self, jobs: list[Callable[[T], Any]]) -> list[tuple[Any, BaseException | None]]:
        session = self._opened()
        connection = self._connection
        assert connection is not None
        outcomes: list[tuple[Any, BaseException | None]] = []
        with self._naming_errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                for job in jobs:
                    connection.execute("SAVEPOINT job")
                    try:
                        with self._naming_errors():
                            result = job(session)
                    except Exception as error:
                        if not connection.in_transaction:  # SQLite itself gave up, e.g. on a full disk
                            raise
                        connection.execute("ROLLBACK TO job")
                        session.undo()
                        outcomes.append((None, error))
                    else:
                        session.keep()
                        outcomes.append((result, None))
                    connection.execute("RELEASE job")
                session.finish()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                session.undo_all()
                raise
        return outcomes

    def _naming_errors(self) -> _NamedErrors:
        return _NamedErrors(self._path)


class _NamedErrors:
    """Turns SQLite's errors into ours."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, sqlite3.DatabaseError):
            return
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            folder = Path(self._path).parent
            raise StorageFull(self._path, PAGE_BYTES, shutil.disk_usage(folder).free) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise DataDirUnusable(self._path, str(error)) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreCorrupt(self._path, str(error)) from error
        raise MeshError(f"the store {self._path}: {error}") from error
