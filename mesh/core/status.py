"""What people are told of a distribution: priorities, states, and the status of all its targets."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from mesh.core.scopes import DistributionScope
from mesh.core.structs import Struct


class TransferPriority(IntEnum):
    """What goes first. ``CRITICAL`` waits for nobody."""

    CRITICAL = 4
    HIGH = 3
    NORMAL = 2
    LOW = 1


class TransferState(StrEnum):
    """How far one node is with one distribution."""

    PENDING = "pending"
    CONNECTING = "connecting"
    TRANSFERRING = "transferring"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in _TERMINAL


_TERMINAL = frozenset({TransferState.COMPLETED, TransferState.FAILED, TransferState.CANCELLED})


_ARRIVED = 0.99
"""How far a target seems to be that has all bytes."""


class NodeTransferStatus(Struct, frozen=True):
    """How far one target is.

    Attributes:
        started_at: when the transfer began by the target's own clock, seconds since the epoch.
        completed_at: when it was complete, by the same clock.
        rate: bytes a second that arrived there lately, as the target last told.
        error: why it failed or was cancelled, or what it is waiting for.
        updated_at: when the target last said how far it is, by its own clock; ``None``: it was not heard of
            yet. Nobody can tell one that is off from one that is far away: ``status`` is what it said then.
    """

    node_id: str
    status: TransferState
    progress_bytes: int
    total_bytes: int
    started_at: float | None = None
    completed_at: float | None = None
    error: str | None = None
    rate: float = 0.0
    updated_at: float | None = None

    @property
    def progress_fraction(self) -> float:
        """From 0.0 to 1.0, which only a completed one is at: the last step is not its bytes' arrival."""
        if self.status is TransferState.COMPLETED:
            return 1.0
        return min(_ARRIVED, self.progress_bytes / self.total_bytes) if self.total_bytes else 0.0


class DistributionHandle(Struct, frozen=True):
    """Names a distribution; works on every node and after a restart.

    ``started_at`` is when it was published, by the publisher's clock.
    """

    distribution_id: str
    blob_hash: str
    scope: DistributionScope
    priority: TransferPriority
    started_at: float


class DistributionStatus(Struct, frozen=True):
    """All that is known here of one distribution.

    ``total_targets`` is a lower bound, except for ``Nodes``: a node that nobody here has met yet may
    be in the scope.

    Attributes:
        pending: targets that have not begun.
        in_progress: targets that are connecting or transferring.
        is_cancelled: it was cancelled or superseded; no further node will deliver it.
        is_expired: its time is over by this node's clock: who had not begun is shown as failed, and who was
            under way fails and says so.
        superseded_by: the distribution that replaces it.
    """

    handle: DistributionHandle
    total_targets: int
    pending: int
    completed: int
    in_progress: int
    failed: int
    cancelled: int
    node_statuses: dict[str, NodeTransferStatus]
    is_cancelled: bool = False
    is_expired: bool = False
    superseded_by: str | None = None

    @property
    def is_complete(self) -> bool:
        """Every target is completed, failed or cancelled, and there is at least one."""
        return self.total_targets > 0 and self.pending == 0 and self.in_progress == 0

    @property
    def is_success(self) -> bool:
        """Every target is completed, and there is at least one."""
        return 0 < self.total_targets == self.completed

    @property
    def overall_progress(self) -> float:
        """From 0.0 to 1.0, by the bytes of all targets."""
        total = sum(node.total_bytes for node in self.node_statuses.values())
        if total:
            nodes = self.node_statuses.values()
            return sum(node.progress_fraction * node.total_bytes for node in nodes) / total
        return self.completed / self.total_targets if self.total_targets else 0.0
