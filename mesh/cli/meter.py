"""How fast the targets of a distribution get on, from one status to the next."""

from __future__ import annotations

from mesh.core.rates import RateMeter
from mesh.core.status import DistributionStatus


class Meter:
    """Rates in bytes a second, by node id. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._meters: dict[str, RateMeter] = {}

    def update(self, status: DistributionStatus, now: float) -> None:
        """Take note of how far everybody is."""
        for node_id, node in status.node_statuses.items():
            self._meters.setdefault(node_id, RateMeter()).update(node.progress_bytes, now)

    def rate(self, node_id: str, now: float) -> float:
        """Bytes a second; 0.0 when nothing is known or nothing has moved for a while."""
        meter = self._meters.get(node_id)
        return meter.rate(now) if meter is not None else 0.0
