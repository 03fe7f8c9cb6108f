"""Who syncs a file waits for whatever is on its way to that disk: so while a commit of documents is on its
way, no more of a blob is sent after it.

For the whole process, as a disk is: nodes that share one give way to each other.
"""

from __future__ import annotations

import threading

PATIENCE_SECONDS = 0.1
"""A commit that takes longer holds up blobs no more: it may be on another disk."""

_no_commit = threading.Event()
_no_commit.set()


class Committing:
    """``with Committing():`` around what documents wait for."""

    def __enter__(self) -> None:
        _no_commit.clear()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        _no_commit.set()  # another one may be under way: then it goes first for a part of its time only


def after_commits() -> None:
    """Wait until the commit that is under way is done: for one, so that many do not stop blobs."""
    _no_commit.wait(PATIENCE_SECONDS)
