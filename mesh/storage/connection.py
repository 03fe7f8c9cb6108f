"""One connection to the SQLite file, as it is used on its worker."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import sqlite_utils

from mesh.errors import DataDirUnusable, MeshError, NotStarted, StorageFull, StoreCorrupt
from mesh.storage.file_watch import FileWatch
from mesh.storage.precedence import Committing
from mesh.storage.schema import refuse_newer
from mesh.storage.wholeness import make_whole

PAGE_BYTES = 4096
"""What the file grows by at least."""

KEPT_LOG_BYTES = 8 << 20
"""Of a write-ahead log that was longer, once all of it is in the file."""

BUSY_SECONDS = 5
"""How long a write waits for another process to end its own."""

_INCREMENTAL = 2
"""How SQLite numbers that ``auto_vacuum``."""

MAX_BATCH_CHANGES = 500
"""Changes after which no further job joins a commit."""


class Session(Protocol):
    """What jobs are given: it may keep state beside the tables, which follows the transaction."""

    @property
    def changes(self) -> int:
        """How many documents have been changed since the last commit."""

    def keep(self) -> None:
        """A job is done: what it changed stands."""

    def undo(self) -> None:
        """A job has failed: forget what it changed."""

    def finish(self) -> None:
        """All jobs are done, the commit is next: write what is still to be written."""

    def undo_all(self) -> None:
        """The transaction has failed: forget what all its jobs changed."""

    def close(self) -> None:
        """The file is about to be closed in good order."""


R = TypeVar("R")
T = TypeVar("T", bound=Session)

Job = Callable[[T], R]
"""One may have an attribute ``together``: a function that does a list of such jobs for less than they take
alone. It gives the outcome of each, and has written nothing of those that failed; if it raises, each is done
by itself. One that is ``brief`` reads or writes one document at most."""

Outcome = tuple[Any, BaseException | None]
"""What a job returned, or what it raised."""


class Connection(Generic[T]):
    """Runs jobs in transactions; every method is called on one worker.

    Args:
        path: the file, or ``:memory:``.
        begin: makes the object that jobs are given, once the connection is open.
        read_only: beside one that writes, which has been opened before.
    """

    def __init__(
        self, path: str, begin: Callable[[sqlite3.Connection], T], *, read_only: bool = False
    ) -> None:
        self._path = path
        self._begin = begin
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._session: T | None = None
        self._pending = False
        self._watch: FileWatch | None = None
        self.commits = 0
        """Commits that others may see the effect of: counted just before each is made."""
        self.lost = False
        """SQLite itself has given up the transaction that :meth:`attempt` began."""

    def open(self) -> None:
        """Open the file, creating or migrating it.

        Raises:
            StoreTooNew, StoreCorrupt, StorageFull, DataDirUnusable: see there. Nothing stays open.
        """
        try:
            with self._naming_errors():
                # Statements are compiled once: all that a node runs fit into this cache.
                connection = sqlite3.connect(
                    self._path, check_same_thread=False, isolation_level=None, cached_statements=256
                )
                self._connection = connection
                connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
                if self._read_only:
                    connection.execute("PRAGMA query_only=ON")
                else:
                    self._check(connection)
                    tables = sqlite_utils.Database(connection, execute_plugins=False)
                    refuse_newer(tables, self._path)
                    make_shrinkable(connection)
                    connection.execute("PRAGMA journal_mode=WAL")
                    connection.execute("PRAGMA synchronous=FULL")
                    # Savepoints keep the pages that they change: in memory, not in a file of their own.
                    connection.execute("PRAGMA temp_store=MEMORY")
                    connection.execute(f"PRAGMA journal_size_limit={KEPT_LOG_BYTES}")
                    make_whole(tables, self._path)
                    if Path(self._path).is_file():
                        self._watch = FileWatch(self._path)
                connection.execute("PRAGMA cache_size=-8000")
                self._session = self._begin(connection)
        except BaseException:
            self.close()
            raise

    def _check(self, connection: sqlite3.Connection) -> None:
        """Read every page: 60 ms at 100,000 documents (53 MB) that the system has in memory."""
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreCorrupt(self._path, found)

    def close(self) -> None:
        """Close the file; a transaction that is open is rolled back. May be repeated."""
        connection, self._connection = self._connection, None
        session, self._session = self._session, None
        if connection is None:
            return
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if session is not None and not self._read_only:
            with contextlib.suppress(sqlite3.Error):  # then it was not closed in good order
                session.close()
        connection.close()

    @property
    def session(self) -> T:
        """What jobs are given.

        Raises:
            NotStarted: the file is not open.
        """
        if self._session is None:
            raise NotStarted("the store is not open")
        return self._session

    def _opened(self) -> tuple[sqlite3.Connection, T]:
        session = self.session
        assert self._connection is not None
        return self._connection, session

    # --- reading ----------------------------------------------------------------------------------

    def read(self, job: Job[T, R]) -> R:
        """The result of ``job``, which must not write."""
        with self._naming_errors():
            return job(self.session)

    def read_snapshot(self, job: Job[T, R], commits: Callable[[], int]) -> tuple[R, int]:
        """The result of ``job``, which sees one state throughout, and what ``commits`` said when that state
        had just been fixed."""
        connection, session = self._opened()
        with self._naming_errors():
            connection.execute("BEGIN")
            try:
                connection.execute("SELECT 1 FROM store").fetchone()  # the first read fixes the state
                seen = commits()
                return job(session), seen
            finally:
                connection.execute("ROLLBACK")

    # --- one commit for several jobs --------------------------------------------------------------

    def commit(self, jobs: list[Job[T, Any]]) -> list[Outcome]:
        """Run the first of ``jobs``, up to about ``MAX_BATCH_CHANGES`` changes, in one commit; what became of
        each. One that raises is rolled back alone."""
        connection, session = self._opened()
        if len(jobs) == 1:
            return [self._commit_one(connection, session, jobs[0])]
        outcomes: list[Outcome] = []
        with self._naming_errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                for _, alike in groupby(jobs, _kind_of):
                    if session.changes >= MAX_BATCH_CHANGES:
                        break
                    outcomes += self._run_jobs(connection, session, list(alike))
                self._commit(connection, session)
            except BaseException:
                self._roll_back(connection, session)
                raise
        return outcomes

    def _commit_one(self, connection: sqlite3.Connection, session: T, job: Job[T, Any]) -> Outcome:
        """As :meth:`commit`; the transaction is the job's own, so it needs no savepoint."""
        try:
            with self._naming_errors():
                connection.execute("BEGIN IMMEDIATE")
                result = job(session)
                session.keep()
                self._commit(connection, session)
        except BaseException as error:
            self._roll_back(connection, session)
            if not isinstance(error, Exception):
                raise
            return None, error
        return result, None

    def _run_jobs(self, connection: sqlite3.Connection, session: T, jobs: list[Job[T, Any]]) -> list[Outcome]:
        """Run jobs of one kind inside of the open transaction, each as by itself."""
        together: Callable[[T, list[Job[T, Any]]], list[Outcome]] | None = getattr(jobs[0], "together", None)
        if together is not None and len(jobs) > 1:
            outcomes, problem = self._run_job(connection, session, lambda session: together(session, jobs))
            if problem is None:
                return list(outcomes)
        return [self._run_job(connection, session, job) for job in jobs]

    def _run_job(self, connection: sqlite3.Connection, session: T, job: Job[T, Any]) -> Outcome:
        """Run a job inside of the open transaction.

        Raises:
            Exception: what the job raised, if the whole transaction is gone with it.
        """
        connection.execute("SAVEPOINT job")
        try:
            with self._naming_errors():
                result = job(session)
        except Exception as error:
            if not connection.in_transaction:  # SQLite itself gave up, e.g. on a full disk
                raise
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            session.undo()
            return None, error
        connection.execute("RELEASE job")
        session.keep()
        return result, None

    def _commit(self, connection: sqlite3.Connection, session: T) -> None:
        session.finish()
        if self._watch is not None:
            self._watch.check()
        self.commits += 1
        with Committing():
            connection.execute("COMMIT")
        if self._watch is not None:
            self._watch.committed()

    def _roll_back(self, connection: sqlite3.Connection, session: T) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        session.undo_all()

    # --- one transaction in several calls ---------------------------------------------------------

    @property
    def attempting(self) -> bool:
        """Whether an attempt has begun a transaction, which can go on."""
        return self._pending and not self.lost

    def attempt(self, job: Job[T, R]) -> R:
        """The result of ``job``, inside of the transaction that the first attempt begins.

        Raises:
            Exception: whatever the job raised; nothing of it was kept. See ``lost``.
        """
        connection, session = self._opened()
        if self.lost:  # a savepoint would now be a transaction of its own
            raise MeshError(f"the store {self._path}: the transaction is lost")
        with self._naming_errors():
            if not self._pending:
                connection.execute("BEGIN IMMEDIATE")
                self._pending = True
            try:
                result, problem = self._run_job(connection, session, job)
            except BaseException:
                self.lost = True
                raise
        if problem is not None:
            raise problem
        done: R = result
        return done

    def commit_attempts(self) -> None:
        """Make what was attempted durable.

        Raises:
            StorageFull: the disk is full; nothing was kept.
        """
        connection, session = self._opened()
        pending, self._pending, self.lost = self._pending, False, False
        if not pending:
            return
        with self._naming_errors():
            try:
                self._commit(connection, session)
            except BaseException:
                self._roll_back(connection, session)
                raise

    def drop_attempts(self) -> None:
        """Undo what was attempted."""
        connection, session = self._opened()
        self._pending = self.lost = False
        with self._naming_errors():
            self._roll_back(connection, session)

    def _naming_errors(self) -> NamedErrors:
        return NamedErrors(self._path)


def _kind_of(job: Job[Any, Any]) -> object:
    return getattr(job, "together", job)


def make_shrinkable(connection: sqlite3.Connection) -> None:
    """Let the file give back pages that are free. One with tables in it is written anew for that, once."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode != _INCREMENTAL:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")


class NamedErrors:
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
        raise MeshError(f"the store {self._path}: {error}{_ADVICE.get(code, '')}") from error


_ADVICE = {
    sqlite3.SQLITE_BUSY: (
        f": another process has been writing to it for {BUSY_SECONDS} s. Nothing was written here: end that "
        "process, or its transaction, and try again. Only the node may write to its store"
    ),
    sqlite3.SQLITE_IOERR: (
        ": the disk is full or has failed, or the file may not grow (a quota, or a limit such as `ulimit "
        "-f`). Nothing was written: see to room and to the system's log, and try again"
    ),
}
"""What to do about errors of these kinds."""
