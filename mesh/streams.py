"""Streams: how the mesh tells an application that something changed, without polling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Stream(Generic[T]):
    """An async iterator and async context manager over what happens.

    A slow reader costs itself: items that it has not read yet are merged into one (with ``merge``), or
    kept in order where there is no ``merge``. Leaving a loop with ``break`` leaks nothing: producers hold
    their streams weakly, and ``aclose()`` or the garbage collector ends them.

    The producing side calls :meth:`push` and :meth:`finish`, from the event loop's thread.
    """

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[None]] | None = None,
        merge: Callable[[T, T], T | None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            start: awaited once, before the first item is waited for; usually pushes that item.
            merge: joins two unread items, older first, into the one that is delivered; ``None``: none is.
            on_close: called once when the stream ends, by either side.
        """
        self._start = start
        self._merge = merge
        self._on_close = on_close
        self._items: list[T] = []
        self._error: BaseException | None = None
        self._finished = False
        self._wakeup: asyncio.Event = asyncio.Event()

    def push(self, item: T) -> None:
        """Deliver ``item``; after :meth:`finish` it is dropped."""
        if self._finished:
            return
        if self._items and self._merge is not None:
            merged = self._merge(self._items.pop(), item)
            if merged is None:
                return
            item = merged
        self._items.append(item)
        self._wakeup.set()

    def finish(self, error: BaseException | None = None) -> None:
        """No more items: what is unread is still delivered, then the iteration ends (or raises ``error``)."""
        if self._finished:
            return
        self._finished = True
        self._error = error
        self._wakeup.set()
        if self._on_close is not None:
            self._on_close()

    async def aclose(self) -> None:
        """Stop listening; unread items are dropped. May be repeated."""
        self._items.clear()
        self._start = None
        self.finish()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._start is not None and not self._finished:
            start, self._start = self._start, None
            try:
                await start()
            except BaseException:
                self._start = start  # the next attempt starts over
                raise
        while not self._items:
            if self._finished:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._items.pop(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
