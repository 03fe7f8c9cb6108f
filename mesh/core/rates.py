"""Rates in bytes a second: what a cap lets pass, and how fast something gets on. Times are arguments."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import NamedTuple

BURST_SECONDS = 0.1
"""After a pause a cap lets pass at once what it lets pass in so long."""

MIN_BURST_BYTES = 16 * 1024

MIN_LIMIT = 4096
"""The lowest cap, in bytes a second: under it, nothing would get through before the other side gives up."""

WINDOW_SECONDS = 5.0
"""Rates are averages over about this long: steady to read, and 0 once nothing has come for so long."""

_SAMPLE_SECONDS = 0.25
_SLACK_BYTES = 1.0  # less than this is missing because floats are not exact


class Limits(NamedTuple):
    """Caps of what blobs take, in bytes a second; ``None``: none. Documents are never capped.

    Attributes:
        upload: for everything that this node sends.
        download: for everything that it asks for.
        link: for each peer, either way.
    """

    upload: float | None = None
    download: float | None = None
    link: float | None = None

    def check(self) -> None:
        """Refuse what cannot be kept to.

        Raises:
            ValueError: says what is wrong.
        """
        for name, limit in self._asdict().items():
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if limit is not None and not (number and MIN_LIMIT <= limit < inf):
                raise ValueError(
                    f"{name}_limit must be None or at least {MIN_LIMIT} bytes a second, not {limit!r}"
                )


NO_LIMITS = Limits()


class TokenBucket:
    """A cap. What passes within any ``t`` seconds is at most ``burst + rate * t`` bytes.

    What is larger than ``burst`` passes when the bucket is full, and what follows waits for it: in the long
    run the rate holds for it too.
    """

    def __init__(self, rate: float, now: float, burst: float | None = None) -> None:
        """
        Args:
            rate: bytes a second.
            now: the time.
            burst: what passes at once after a pause; ``None``: what suits bytes.
        """
        self.rate = rate
        self.burst = max(float(MIN_BURST_BYTES), rate * BURST_SECONDS) if burst is None else burst
        self._level = self.burst
        self._at = now

    def ready_at(self, size: int, now: float) -> float:
        """When ``size`` bytes may pass; ``now`` or earlier: at once."""
        self._refill(now)
        missing = min(float(size), self.burst) - self._level
        return now + missing / self.rate if missing > _SLACK_BYTES else now

    def take(self, size: int, now: float) -> None:
        """``size`` bytes pass; a negative size gives back what did not pass after all."""
        self._refill(now)
        self._level = min(self.burst, self._level - size)

    def _refill(self, now: float) -> None:
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)


class PeerBuckets:
    """The same cap for every peer, each by itself; ``rate`` in bytes a second, ``None``: no cap."""

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._buckets: dict[str, TokenBucket] = {}

    def of(self, peer: str, now: float) -> TokenBucket | None:
        """The cap of ``peer``; ``None``: it has none."""
        if self.rate is None:
            return None
        if peer not in self._buckets:
            self._buckets[peer] = TokenBucket(self.rate, now)
        return self._buckets[peer]

    def forget(self, peer: str) -> None:
        """Nothing goes to or comes from ``peer`` any more."""
        self._buckets.pop(peer, None)


class RateMeter:
    """How fast a growing number of bytes grows, smoothed over ``WINDOW_SECONDS``."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, total_bytes: int, now: float) -> None:
        """Take note of how much there is. Less than before: it began again."""
        samples = self._samples
        if samples and samples[-1][1] > total_bytes:
            samples.clear()
        if len(samples) > 1 and now < samples[-2][0] + _SAMPLE_SECONDS:
            samples.pop()
        samples.append((now, total_bytes))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW_SECONDS:
            samples.popleft()

    def rate(self, now: float) -> float:
        """Bytes a second; 0.0 when nothing is known or nothing has moved for a while."""
        samples = self._samples
        if len(samples) < 2 or now >= samples[-1][0] + WINDOW_SECONDS:
            return 0.0
        (since, before), (_, last) = samples[0], samples[-1]
        return (last - before) / (now - since) if now > since else 0.0

    def ends_at(self, now: float) -> float | None:
        """When the rate is 0 if nothing moves any more; ``None``: it is."""
        return self._samples[-1][0] + WINDOW_SECONDS if self.rate(now) else None


def seconds_left(remaining_bytes: int, rate: float) -> float | None:
    """How long the rest takes at ``rate``; ``None`` when nothing moves."""
    return remaining_bytes / rate if rate > 0 else None
