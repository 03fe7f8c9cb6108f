"""How far a transfer is: bytes that are here or have come of chunks that are on their way, and how fast."""

from __future__ import annotations

from collections.abc import Collection

from mesh.core.chunks import chunk_length
from mesh.core.rates import RateMeter, seconds_left
from mesh.core.tokens import BlobToken
from mesh.errors import StorageFull


class Tally:
    """Counts the bytes of one blob. What was told once is never taken back, even if a source lied or left in
    the middle of a chunk: then it stays where it is until more than that is here.
    """

    def __init__(self) -> None:
        self._held = 0
        self._parts: dict[tuple[int, str], int] = {}  # (chunk, peer) -> bytes
        self._told = 0
        self._meter = RateMeter()

    def set_held(self, held_bytes: int, now: float) -> None:
        """So many bytes are here, verified."""
        self._held = held_bytes
        self._update(now)

    def part_came(self, token: BlobToken, index: int, peer: str, size: int, now: float) -> None:
        """``size`` bytes of a chunk came."""
        key = (index, peer)
        self._parts[key] = min(self._parts.get(key, 0) + size, chunk_length(token.size_bytes, index))
        self._update(now)

    def forget(self, index: int | None = None, peer: str | None = None) -> None:
        """What came of a chunk (``None``: of any) from ``peer`` (from anybody) is whole now, or of no use."""
        for key in list(self._parts):
            if index in (None, key[0]) and peer in (None, key[1]):
                del self._parts[key]

    @property
    def told(self) -> int:
        """Bytes to tell of."""
        return self._told

    def pace(self, size_bytes: int, now: float) -> tuple[float, float | None]:
        """(bytes a second, seconds left of ``size_bytes``)."""
        rate = self._meter.rate(now)
        return rate, seconds_left(size_bytes - self._told, rate)

    def pace_ends_at(self, now: float) -> float | None:
        """When :meth:`pace` has to be told again if nothing comes; ``None``: it tells that nothing does."""
        return self._meter.ends_at(now)

    def _update(self, now: float) -> None:
        best: dict[int, int] = {}
        for (index, _), size in self._parts.items():
            best[index] = max(best.get(index, 0), size)
        self._told = max(self._told, self._held + sum(best.values()))
        self._meter.update(self._told, now)


def no_room(full: StorageFull) -> str:
    """Why a transfer waits that there is no room for."""
    return (
        f"no room: needs {full.needed} bytes in {full.path}, where {full.free} are free; "
        "it goes on by itself when there is room"
    )


def no_source(asked: Collection[str]) -> str:
    """Why a transfer waits that has no source, while these are asked."""
    return f"no source yet: asking {', '.join(sorted(asked))}" if asked else "no peers are connected"
