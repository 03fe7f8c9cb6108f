"""Turns: one at a time, in the order they were asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """A lock whose turns can also be taken by a callback, which begins at once.

    ``async with turns:`` is a turn.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Callable[[], object] | asyncio.Future[None]] = deque()

    def take(self, begin: Callable[[], object]) -> None:
        """Call ``begin`` when it is its turn, which lasts until :meth:`give_back`."""
        if self._taken:
            self._waiting.append(begin)
        else:
            self._taken = True
            begin()

    async def wait(self) -> None:
        """Wait for a turn, which lasts until :meth:`give_back`."""
        if not self._taken:
            self._taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():  # it came just then
                self.give_back()
            raise

    def give_back(self) -> None:
        """The turn is over: the next one begins."""
        while self._waiting:
            following = self._waiting.popleft()
            if not isinstance(following, asyncio.Future):
                following()
                return
            if not following.done():  # else who waited has given up
                following.set_result(None)
                return
        self._taken = False

    async def __aenter__(self) -> None:
        await self.wait()

    async def __aexit__(self, *exc_info: object) -> None:
        self.give_back()
