"""When to ping a peer, when to count it as dead, and how far away it is."""

from __future__ import annotations

PING_AFTER_SECONDS = 10.0
"""Silence in either direction after which a ping goes out: who only listens has to be heard, too, or whoever
sends it much would count it as dead. One side's ping breaks the other's silence: an idle link costs one
exchange in that time."""

DEAD_AFTER_SECONDS = 25.0
"""Silence after which the peer counts as dead: two pings went unanswered."""

_RTT_GAIN = 1 / 8


class Heartbeat:
    """The heartbeat of one link. All times are in seconds of one monotonic clock.

    Attributes:
        rtt: smoothed round-trip time in seconds, ``None`` until a ping was answered.
        dead: nothing was heard for ``DEAD_AFTER_SECONDS``.
    """

    __slots__ = ("_heard", "_number", "_pinged", "_said", "dead", "rtt")

    def __init__(self, now: float) -> None:
        self._heard = self._said = now
        self._pinged: float | None = None
        self._number = 0
        self.rtt: float | None = None
        self.dead = False

    def heard(self, now: float) -> None:
        """A frame came in: the peer lives."""
        self._heard = now

    def said(self, now: float) -> None:
        """A frame went out: the peer hears of us."""
        self._said = now

    def ponged(self, number: int, now: float) -> None:
        """The peer answered ping ``number``. Only the answer to the latest one tells the round-trip time."""
        if number != self._number or self._pinged is None:
            return
        sample = now - self._pinged
        self.rtt = sample if self.rtt is None else self.rtt + _RTT_GAIN * (sample - self.rtt)

    def due(self) -> float:
        """When :meth:`tick` has something to decide, at the earliest."""
        if self._pinged is None:
            return self._heard
        quiet_since = max(min(self._heard, self._said), self._pinged)
        return min(quiet_since + PING_AFTER_SECONDS, self._heard + DEAD_AFTER_SECONDS)

    def tick(self, now: float, *, listening: bool = True) -> int | None:
        """What to do now: send the ping with the returned number, or nothing. May set :attr:`dead`.

        Args:
            now: the time.
            listening: whether incoming frames are being read. While they are not, silence says nothing of
                the peer; pings still go out, so that the peer hears of us.
        """
        if not listening:
            self._heard = max(self._heard, now - PING_AFTER_SECONDS)
        if now >= self._heard + DEAD_AFTER_SECONDS:  # as in due(): rounding must not part the two
            self.dead = True
            return None
        if now < self.due():
            return None
        self._number += 1
        self._pinged = now
        return self._number
