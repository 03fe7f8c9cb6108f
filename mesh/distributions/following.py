"""Following a distribution: the streams that show its board, and when they end."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable

from mesh.core.board import StatusBoard
from mesh.core.status import DistributionStatus
from mesh.distributions.checks import check_seconds
from mesh.errors import DistributionTimeout, InvalidDistribution
from mesh.streams import Stream

SETTLE = 0.5
"""Seconds without news after which a complete distribution has ended."""


class Follower:
    """One stream of statuses, held weakly, and when it ends: once every target is terminal and there are
    ``min_targets``, or its time is over, and nothing changed for ``settle`` seconds; or it is cancelled."""

    def __init__(
        self,
        stream: Stream[DistributionStatus],
        min_targets: int,
        settle: float,
        gone: Callable[[Follower], None],
    ) -> None:
        loop = asyncio.get_running_loop()

        def collected(_: weakref.ref[Stream[DistributionStatus]]) -> None:
            if not loop.is_closed():  # the garbage collector runs on any thread
                loop.call_soon_threadsafe(gone, self)

        self._stream = weakref.ref(stream, collected)
        self._min_targets = min_targets
        self._settle = settle
        self._timer: asyncio.TimerHandle | None = None

    def show(self, status: DistributionStatus) -> None:
        """Something has changed."""
        self.stop()
        stream = self._stream()
        if stream is None:
            return
        stream.push(status)
        complete = status.is_complete and status.total_targets >= self._min_targets
        if status.is_cancelled:
            stream.finish()
        elif complete or status.is_expired:  # who was under way says that it has stopped
            self._timer = asyncio.get_running_loop().call_later(self._settle, self.finish)

    def finish(self) -> None:
        """No more changes."""
        self.stop()
        if (stream := self._stream()) is not None:
            stream.finish()

    def stop(self) -> None:
        """Forget the pending end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Followed:
    """A board and whoever follows it."""

    def __init__(self, board: StatusBoard) -> None:
        self.board = board
        self._followers: set[Follower] = set()
        self._shown = -1

    def follow(
        self, stream: Stream[DistributionStatus], min_targets: int, settle: float
    ) -> Callable[[], None]:
        """Show ``stream`` the present status and every change; what is returned ends that."""
        follower = Follower(stream, min_targets, settle, self._leave)
        self._followers.add(follower)
        follower.show(self.board.status())
        return lambda: self._leave(follower)

    def changed(self) -> None:
        """Show what is new, if anything is."""
        if self.board.version == self._shown:
            return
        self._shown = self.board.version
        status = self.board.status()
        for follower in list(self._followers):
            follower.show(status)

    def finish(self) -> None:
        """End every stream."""
        for follower in list(self._followers):
            follower.finish()

    def _leave(self, follower: Follower) -> None:
        follower.stop()
        if follower in self._followers:
            self._followers.discard(follower)
            self._left()

    def _left(self) -> None:
        """A follower is gone."""


def progress_of(
    followed: Callable[[], Awaitable[Followed]], min_targets: int = 1, settle: float = SETTLE
) -> Stream[DistributionStatus]:
    """A stream that asks what it follows when it is first read."""
    leave: list[Callable[[], None]] = []

    async def start() -> None:
        try:
            found = await followed()
        except Exception:
            stream.finish()
            raise
        leave.append(found.follow(stream, min_targets, settle))

    stream: Stream[DistributionStatus] = Stream(
        start=start,
        merge=lambda older, newer: newer,
        on_close=lambda: leave.pop()() if leave else None,
    )
    return stream


async def completion_of(
    distribution_id: str,
    followed: Callable[[], Awaitable[Followed]],
    present: Callable[[], Awaitable[DistributionStatus]],
    timeout: float,
    min_targets: int,
    settle: float,
) -> DistributionStatus:
    """The last status of the stream; ``present`` is asked if there was none in time.

    Raises:
        InvalidDistribution, DistributionTimeout: see ``FileDistribution.wait_for_completion``.
    """
    check_seconds("timeout", timeout)
    check_seconds("settle", settle)
    if not isinstance(min_targets, int) or min_targets < 1:
        raise InvalidDistribution(f"min_targets is at least 1, not {min_targets!r}: nobody is no success")
    last: DistributionStatus | None = None
    try:
        async with asyncio.timeout(timeout):
            async with progress_of(followed, min_targets, settle) as statuses:
                async for status in statuses:
                    last = status
    except TimeoutError:
        raise DistributionTimeout(distribution_id, timeout, last or await present()) from None
    return last or await present()  # closed before it could be shown
