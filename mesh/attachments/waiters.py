"""Those here who want a blob, and are told how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import FetchTimeout, MeshError

log = logging.getLogger(__name__)

OnProgress = Callable[[BlobProgress], None]


class Waiter:
    """Somebody here who wants the blob; ``patient``: also while there is no room for it."""

    def __init__(self, priority: int, on_progress: OnProgress | None, *, patient: bool = True) -> None:
        self.priority = priority
        self.patient = patient
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        self._last: BlobProgress | Callable[[], BlobProgress] | None = None

    @property
    def last(self) -> BlobProgress | None:
        """How far it is, as far as is known."""
        return self._last() if callable(self._last) else self._last

    def timed_out(self, token: BlobToken, timeout: float) -> FetchTimeout:
        """What to raise when the blob is not here after ``timeout`` seconds."""
        progress = self.last or BlobProgress("waiting", 0, token.size_bytes)
        state = f"{progress.state}: {progress.reason}" if progress.reason else progress.state
        return FetchTimeout(token.hash, timeout, progress.downloaded_bytes, token.size_bytes, state)

    def look(self, progress: Callable[[], BlobProgress]) -> None:
        """There is progress to report."""
        if self._on_progress is not None:
            self.tell(progress())
        else:
            self._last = progress

    def tell(self, progress: BlobProgress) -> None:
        """Report progress, unless it is what was reported last."""
        if progress == self._last:
            return
        self._last = progress
        if self._on_progress is None:
            return
        try:
            self._on_progress(progress)
        except (Exception, asyncio.CancelledError):
            log.exception("on_progress raised: it is not called again")
            self._on_progress = None


def end_all(waiters: Iterable[Waiter], error: MeshError | None) -> None:
    """It is over for these: the blob is here, or why it is not."""
    for waiter in waiters:
        if waiter.done.done():
            continue
        if error is None:
            waiter.done.set_result(None)
        else:
            waiter.done.set_exception(error)
