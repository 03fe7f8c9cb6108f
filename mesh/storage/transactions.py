"""A transaction: several jobs in one commit, while everybody else who writes waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from mesh.errors import NestedTransaction, TransactionEnded
from mesh.storage.connection import Connection, Job, Session
from mesh.storage.worker import Worker, settle

R = TypeVar("R")
T = TypeVar("T", bound=Session)

MAX_TRANSACTION_SECONDS = 30.0
"""A transaction that stays open longer is rolled back: others wait for it."""


LOOP_SECONDS = 0.005
"""What a transaction does on the event loop in one go, about."""


class _Over(Protocol):
    def __call__(self, *, committed: bool) -> None: ...


class OpenTransaction(Generic[T]):
    """One transaction, from its turn to its commit or rollback. Tasks that are started meanwhile know that
    they are inside of it.

    Args:
        owner: what it is a transaction of, see :func:`refuse_inside`.
        worker: where ``connection`` lives; nobody else uses it until the transaction is over.
        over: called on the event loop when it is over.
    """

    def __init__(self, owner: object, worker: Worker, connection: Connection[T], over: _Over) -> None:
        self._owner = owner
        self._worker = worker
        self._connection = connection
        self._over = over
        self._asked = 0
        self._debt = 0.0
        self._ended: str | None = None
        self._ending: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._expiry = self._loop.call_later(
            MAX_TRANSACTION_SECONDS, self.end, f"it was open for more than {MAX_TRANSACTION_SECONDS:g} s"
        )
        _inside.set((*_inside.get(), self))

    async def write(self, job: Job[T, R]) -> R:
        """The result of ``job``. If it fails, nothing of it is kept, and the transaction goes on.

        Raises:
            TransactionEnded: it is over.
            Exception: whatever the job raised.
        """
        self._check()
        try:
            if self._can_do_here(job):
                return self._do_here(self._connection.attempt, job)
            return await self._ask(self._connection.attempt, job)
        except asyncio.CancelledError:
            self.end("an operation in it was cancelled, so that it is not known whether that took place")
            raise
        except BaseException as error:
            if self._connection.lost:
                self.end(f"the store could not go on ({error})")
            raise

    async def read(self, job: Job[T, R]) -> R:
        """The result of ``job``, which sees what the transaction has written.

        Raises:
            TransactionEnded: it is over.
        """
        self._check()
        if self._can_do_here(job):
            return self._do_here(self._connection.read, job)
        return await self._ask(self._connection.read, job)

    # --- here or there ----------------------------------------------------------------------------

    def _can_do_here(self, job: Job[T, Any]) -> bool:
        """Whether to do ``job`` right here, as the worker has nothing to do: to tell it, and to be
        told, takes several times as long as a brief job.

        For every ``LOOP_SECONDS`` that such jobs have held up the event loop, one goes to the worker, and
        others have their turn meanwhile: so do most of them where the disk is slow.
        """
        return (
            self._debt < LOOP_SECONDS
            and not self._asked
            and self._connection.attempting
            and getattr(job, "brief", False)
        )

    def _do_here(self, how: Callable[[Job[T, R]], R], job: Job[T, R]) -> R:
        began = self._loop.time()
        try:
            return how(job)
        finally:
            self._debt += self._loop.time() - began

    async def _ask(self, how: Callable[[Job[T, R]], R], job: Job[T, R]) -> R:
        future: asyncio.Future[R] = self._loop.create_future()
        self._asked += 1
        began = self._loop.time()
        self._worker.call(partial(self._answered, future), how, job)
        if future.done():  # the worker has no thread: it has held up the event loop as well
            self._debt += self._loop.time() - began
            if self._debt < LOOP_SECONDS:
                return future.result()
            await asyncio.sleep(0)
        self._debt = max(0.0, self._debt - LOOP_SECONDS)
        return await future

    def _answered(self, future: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
        self._asked -= 1
        settle(future, result, problem)

    def _check(self) -> None:
        if self._ended is not None:
            raise TransactionEnded(self._ended)

    # --- its end ----------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Make it durable. What is cancelled now stands all the same.

        Raises:
            TransactionEnded: it has been rolled back before.
            StorageFull: the disk is full; nothing was kept.
        """
        self._check()
        self._end("it has been committed", self._commit())
        await self._over_with()

    async def roll_back(self) -> None:
        """Undo it, unless that has been done."""
        self.end("it has been rolled back")
        await self._over_with()

    def end(self, reason: str) -> None:
        """Undo it: whoever uses it from now on is told ``reason``."""
        if self._ended is None:
            self._end(reason, self._roll_back())

    def _end(self, reason: str, how: Coroutine[Any, Any, None]) -> None:
        self._ended = reason
        self._expiry.cancel()
        _inside.set(tuple(other for other in _inside.get() if other is not self))
        self._ending = self._loop.create_task(how)

    async def _over_with(self) -> None:
        assert self._ending is not None
        await asyncio.shield(self._ending)

    async def _commit(self) -> None:
        committed = False
        try:
            await self._worker.run(self._connection.commit_attempts)
            committed = True
        finally:
            self._over(committed=committed)

    async def _roll_back(self) -> None:
        try:
            await self._worker.run(self._connection.drop_attempts)
        finally:
            self._over(committed=False)

    def of(self, owner: object) -> bool:
        """Whether this is a transaction of ``owner`` that is not over."""
        return self._owner is owner and self._ended is None


_inside: ContextVar[tuple[OpenTransaction[Any], ...]] = ContextVar("mesh-transactions", default=())


def refuse_inside(owner: object) -> None:
    """Make sure that no transaction of ``owner`` is open around here.

    Raises:
        NestedTransaction: one is. Waiting for its end would never end.
    """
    for transaction in _inside.get():
        if transaction.of(owner):
            raise NestedTransaction
