"""How fast the targets of a distribution get on, from one status to the next."""

from __future__ import annotations

from mesh.core.status import DistributionStatus

WINDOW_SECONDS = 5.0
"""Rates are averages over about this long: steady to read, and they fall when nothing moves."""


class Meter:
    """Rates in bytes a second, by node id. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[float, int]]] = {}

    def update(self, status: DistributionStatus, now: float) -> None:
        """Take note of how far everybody is."""
        for node_id, node in status.node_statuses.items():
            samples = self._samples.setdefault(node_id, [])
            if samples and samples[-1][1] > node.progress_bytes:
                samples.clear()  # it began again
            samples.append((now, node.progress_bytes))
            while len(samples) > 2 and samples[1][0] <= now - WINDOW_SECONDS:
                del samples[0]

    def rate(self, node_id: str, now: float) -> float:
        """Bytes a second; 0.0 when nothing is known or nothing has moved for a while."""
        samples = self._samples.get(node_id, [])
        if len(samples) < 2 or samples[-1][0] < now - WINDOW_SECONDS:
            return 0.0
        (since, before), (_, last) = samples[0], samples[-1]
        return (last - before) / (now - since) if now > since else 0.0


def seconds_left(remaining_bytes: int, rate: float) -> float | None:
    """How long the rest takes at ``rate``; ``None`` when nothing moves."""
    return remaining_bytes / rate if rate > 0 else None
