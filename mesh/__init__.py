"""An embedded, offline-first CRDT document mesh for Python, with a file distribution service on top."""

from __future__ import annotations

from mesh import errors as _errors
from mesh.attachments.handles import BlobHandle
from mesh.attachments.service import Attachments
from mesh.collections.collection import Collection
from mesh.collections.subscriptions import Subscription
from mesh.core.changes import Change
from mesh.core.scopes import AllNodes, Capabilities, Capable, DistributionScope, Formation, Nodes
from mesh.core.status import (
    DistributionHandle,
    DistributionStatus,
    NodeTransferStatus,
    TransferPriority,
    TransferState,
)
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from mesh.distributions.deliveries import Delivery
from mesh.distributions.protocol import FileDistribution
from mesh.errors import *  # noqa: F403
from mesh.node.environment import Environment
from mesh.node.node import Node
from mesh.node.presence import Presence, Stats
from mesh.streams import Stream
from mesh.version import VERSION as __version__

__all__ = [
    "AllNodes",
    "Attachments",
    "BlobHandle",
    "BlobMetadata",
    "BlobProgress",
    "BlobToken",
    "Capabilities",
    "Capable",
    "Change",
    "Collection",
    "Delivery",
    "DistributionHandle",
    "DistributionScope",
    "DistributionStatus",
    "Environment",
    "FileDistribution",
    "Formation",
    "Node",
    "NodeTransferStatus",
    "Nodes",
    "Presence",
    "Stats",
    "Stream",
    "Subscription",
    "TransferPriority",
    "TransferState",
    "__version__",
    *_errors.__all__,
]
