"""How long to wait before trying again."""

from __future__ import annotations

from typing import Protocol


class Uniform(Protocol):
    """What is needed of a ``random.Random``."""

    def uniform(self, a: float, b: float, /) -> float:
        """A random number between ``a`` and ``b``."""


class Backoff:
    """Exponential backoff with full jitter: each delay is anywhere between 0 and a ceiling that doubles.

    The whole range is random, so that a thousand nodes that lost the same hub at the same moment do not come
    back at the same moment.
    """

    def __init__(self, random: Uniform, *, first: float = 1.0, most: float = 60.0) -> None:
        """
        Args:
            random: the source of jitter.
            first: the ceiling of the first delay, in seconds.
            most: the ceiling that the delays grow to, in seconds.
        """
        self._random = random
        self._first = first
        self._most = most
        self.ceiling = first

    def next_delay(self) -> float:
        """Seconds to wait after one more failure."""
        delay = self._random.uniform(0, self.ceiling)
        self.ceiling = min(self._most, 2 * self.ceiling)
        return delay

    def reset(self) -> None:
        """It worked: the next failure starts over."""
        self.ceiling = self._first
