"""The status of one distribution, derived from its documents and kept up to date one document at a time.

A board holds no opinion of its own: what it shows depends only on the set of documents that it was given,
not on their order or number, so every node with the same documents shows the same.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from mesh.core.delivery import CANCELLED_BY
from mesh.core.receipts import DistributionRecord, NodeRecord, Receipt, later_receipt, merge_distributions
from mesh.core.scopes import Nodes, matches
from mesh.core.status import DistributionHandle, DistributionStatus, NodeTransferStatus, TransferState


def handle_of(record: DistributionRecord) -> DistributionHandle:
    """What names the distribution.

    Raises:
        InvalidScope: its scope is not understood here.
    """
    return DistributionHandle(
        record.distribution_id,
        record.token.hash,
        record.parsed_scope(),
        record.priority,
        record.created_at,
    )


class StatusBoard:
    """Targets are the nodes known to match, the nodes named, and the nodes with a valid receipt.

    Attributes:
        version: grows whenever the status changes.
    """

    def __init__(self, record: DistributionRecord) -> None:
        """
        Raises:
            InvalidScope: the scope of the distribution is not understood here.
        """
        self.version = 0
        self._handle = handle_of(record)
        self._record = record
        self._superseded_by: str | None = None
        self._expired = False
        self._known: set[str] = set()
        self._receipts: dict[str, Receipt] = {}
        self._views: dict[str, NodeTransferStatus] = {}
        self._counts: Counter[TransferState] = Counter()
        self._named = (
            frozenset(self._handle.scope.node_ids) if isinstance(self._handle.scope, Nodes) else frozenset()
        )
        self._refresh_all()

    def set_record(self, record: DistributionRecord) -> None:
        """The distribution has changed: it was cancelled, or is tried again."""
        merged = merge_distributions(self._record, record)
        if merged != self._record:
            self._record = merged
            self.version += 1
            self._refresh_all()

    def set_superseded(self, by: str) -> None:
        """Another distribution of the publisher replaces this one (the lowest id, if several do)."""
        by = min(by, self._superseded_by or by)
        if by != self._superseded_by:
            self._superseded_by = by
            self.version += 1
            self._refresh_all()

    def set_expired(self) -> None:
        """Its time is over by this node's clock."""
        if not self._expired:
            self._expired = True
            self.version += 1
            self._refresh_all()

    def put_node(self, node: NodeRecord) -> None:
        """A node document is known, or has changed."""
        if matches(self._handle.scope, node.node_id, self._record.publisher, node.facts):
            self._known.add(node.node_id)
        else:
            self._known.discard(node.node_id)
        self._refresh(node.node_id)

    def remove_node(self, node_id: str) -> None:
        """A node document is no longer here, or no longer selected."""
        self._known.discard(node_id)
        self._refresh(node_id)

    def put_receipt(self, receipt: Receipt) -> None:
        """A receipt is known, or has changed. Costs the same however many targets there are."""
        if receipt.distribution_id != self._record.distribution_id:
            return
        held = self._receipts.get(receipt.node_id)
        self._receipts[receipt.node_id] = later_receipt(held, receipt) if held else receipt
        self._refresh(receipt.node_id)

    def remove_receipt(self, node_id: str) -> None:
        """A receipt is no longer here."""
        self._receipts.pop(node_id, None)
        self._refresh(node_id)

    def status(self) -> DistributionStatus:
        """What is known now."""
        counts = self._counts
        return DistributionStatus(
            handle=self._handle,
            total_targets=len(self._views),
            pending=counts[TransferState.PENDING],
            completed=counts[TransferState.COMPLETED],
            in_progress=counts[TransferState.CONNECTING] + counts[TransferState.TRANSFERRING],
            failed=counts[TransferState.FAILED],
            cancelled=counts[TransferState.CANCELLED],
            node_statuses=dict(self._views),
            is_cancelled=self._over is not None,
            is_expired=self._expired,
            superseded_by=self._superseded_by,
        )

    @property
    def _over(self) -> str | None:
        """Why no further node will deliver."""
        if self._record.cancelled_at is not None:
            return CANCELLED_BY
        return f"superseded by {self._superseded_by}" if self._superseded_by else None

    def _refresh_all(self) -> None:
        for node_id in {*self._named, *self._known, *self._receipts, *self._views}:
            self._refresh(node_id)

    def _refresh(self, node_id: str) -> None:
        before, view = self._views.get(node_id), self._view(node_id)
        if view == before:
            return
        self.version += 1
        if before is not None:
            self._counts[before.status] -= 1
            del self._views[node_id]
        if view is not None:
            self._counts[view.status] += 1
            self._views[node_id] = view

    def _view(self, node_id: str) -> NodeTransferStatus | None:
        receipt = self._receipts.get(node_id)
        if receipt is not None and self._is_foreign(receipt):
            receipt = None
        if receipt is not None:
            if not matches(self._handle.scope, node_id, self._record.publisher, receipt.facts):
                return None  # by its own word about this distribution, whatever its node document said
            view = NodeTransferStatus(
                node_id,
                receipt.status,
                receipt.progress_bytes,
                receipt.total_bytes,
                receipt.started_at,
                receipt.completed_at,
                receipt.error,
                receipt.rate,
                receipt.updated_at,
            )
            if receipt.status is TransferState.FAILED and receipt.attempt < self._record.attempt:
                view = msgspec.structs.replace(view, status=TransferState.PENDING)
        elif node_id in self._known or node_id in self._named:
            view = NodeTransferStatus(node_id, TransferState.PENDING, 0, self._record.token.size_bytes)
        else:
            return None
        if self._over is not None and not view.status.is_terminal:
            return msgspec.structs.replace(view, status=TransferState.CANCELLED, error=self._over, rate=0.0)
        if self._expired and view.status is TransferState.PENDING:  # who has begun says itself how it ends
            return msgspec.structs.replace(view, status=TransferState.FAILED, error="expired before it began")
        return view

    def _is_foreign(self, receipt: Receipt) -> bool:
        """Whether a receipt is about something else than this distribution, whatever its id says."""
        return (
            receipt.publisher != self._record.publisher
            or receipt.total_bytes != self._record.token.size_bytes
        )
