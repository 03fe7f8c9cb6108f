"""Which blobs stay: how long one stays that is of no use to anybody, and which make room for others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

GRACE_SECONDS = 600.0
"""A blob that nothing refers to stays for so long after it was added, fetched or last used."""

CACHE_BYTES = 10 << 30
"""What is kept for others takes at most this much of the disk, and at most a tenth of what was free at the
start, unless the application says otherwise."""


def default_cache_bytes(free_bytes: int) -> int:
    """What blobs that are kept for others only may take of a disk with ``free_bytes`` left."""
    return min(CACHE_BYTES, free_bytes // 10)


class Grace:
    """The blobs that may be of no use, and when each has been so for long enough to be looked at.

    One that turns out to be in use leaves, or begins again. All wait equally long: the order in which they
    came is the order in which they are due.
    """

    def __init__(self, seconds: float = GRACE_SECONDS) -> None:
        self._seconds = seconds
        self._due: dict[str, float] = {}

    def __contains__(self, hash: object) -> bool:
        return hash in self._due

    def begin(self, hash: str, now: float) -> None:
        """Something has happened to a blob: from now on it may be of no use."""
        self._due.pop(hash, None)
        self._due[hash] = now + self._seconds

    def end(self, hash: str) -> None:
        """The blob is in use, or not here any more."""
        self._due.pop(hash, None)

    def take_due(self, now: float) -> list[str]:
        """The blobs that are due; they leave."""
        due = []
        for hash, at in self._due.items():
            if at > now:
                break
            due.append(hash)
        for hash in due:
            del self._due[hash]
        return due

    def next_due(self) -> float | None:
        """When the first of them is due."""
        return next(iter(self._due.values()), None)


def evictions(
    cached: Iterable[tuple[str, int]],
    needed: int,
    *,
    in_use: Collection[str],
    referred: Collection[str] = (),
) -> list[tuple[str, int]]:
    """What goes of ``cached`` (hash and size, the least recently served first) to free ``needed`` bytes,
    or all that can.

    What is ``in_use`` stays. What a document refers to goes last: it is likely to be asked for again.
    """

    def candidates() -> Iterator[tuple[str, int]]:
        blobs = [(hash, size) for hash, size in cached if hash not in in_use]
        yield from (blob for blob in blobs if blob[0] not in referred)
        yield from (blob for blob in blobs if blob[0] in referred)

    chosen: list[tuple[str, int]] = []
    for hash, size in candidates():
        if needed <= 0:
            break
        chosen.append((hash, size))
        needed -= size
    return chosen
