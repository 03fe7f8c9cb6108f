"""An embedded, offline-first CRDT document mesh for Python, with a file distribution service on top.

What an application uses is named here. Whoever reads on begins with :mod:`mesh.node.assembly`, which puts a
node together, and goes down: the services (collections, attachments, distributions, membership), what they
stand on (storage, network), and at last ``core``, which decides and never acts.
"""

from __future__ import annotations

from mesh.attachments.handles import BlobHandle
from mesh.attachments.holding import Holding
from mesh.attachments.repairing import Unrepaired
from mesh.attachments.service import Attachments
from mesh.attachments.verifying import VerifyReport
from mesh.collections.collection import Collection
from mesh.collections.subscriptions import Subscription
from mesh.collections.transactions import Transaction
from mesh.core.changes import Change
from mesh.core.rates import Limits
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
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.policy import Offer, Policy
from mesh.distributions.protocol import FileDistribution
from mesh.errors import (
    AddressInUse,
    BlobCorrupt,
    BlobNotFound,
    BlobTooLarge,
    CredentialsUnusable,
    DataDirInUse,
    DataDirUnusable,
    DistributionTimeout,
    DocumentExists,
    DocumentNotFound,
    DocumentTooLarge,
    FetchFailed,
    FetchTimeout,
    HandshakeFailed,
    IdentityCloned,
    InvalidAddress,
    InvalidCollectionName,
    InvalidDistribution,
    InvalidDocument,
    InvalidFetch,
    InvalidIndex,
    InvalidInvitation,
    InvalidMetadata,
    InvalidNode,
    InvalidScope,
    InvalidSelector,
    InvalidToken,
    InvitationRefused,
    LinkClosed,
    LinkedFileChanged,
    MembershipRefused,
    MeshError,
    NestedTransaction,
    NodeNotRunning,
    NotStarted,
    PeerUnreachable,
    PermissionDenied,
    PlaintextRefused,
    ProtocolViolation,
    SettleTimeout,
    SourceChanged,
    SourceError,
    SourceNotAFile,
    SourceNotFound,
    SourceUnreadable,
    StorageFull,
    StoreCorrupt,
    StoreTooNew,
    TransactionEnded,
    UnknownDistribution,
)
from mesh.membership.credentials import Credentials
from mesh.node.environment import Environment
from mesh.node.missing_blobs import MissingBlob
from mesh.node.node import Node
from mesh.node.presence import Presence, Stats
from mesh.node.probe import Probe
from mesh.streams import Stream
from mesh.version import VERSION

__version__ = VERSION

__all__ = [
    "AddressInUse",
    "AllNodes",
    "Attachments",
    "BlobCorrupt",
    "BlobHandle",
    "BlobMetadata",
    "BlobNotFound",
    "BlobProgress",
    "BlobToken",
    "BlobTooLarge",
    "Capabilities",
    "Capable",
    "Change",
    "Collection",
    "Credentials",
    "CredentialsUnusable",
    "DataDirInUse",
    "DataDirUnusable",
    "Delivery",
    "DirectFileDistribution",
    "DistributionHandle",
    "DistributionScope",
    "DistributionStatus",
    "DistributionTimeout",
    "DocumentExists",
    "DocumentNotFound",
    "DocumentTooLarge",
    "Environment",
    "FetchFailed",
    "FetchTimeout",
    "FileDistribution",
    "Formation",
    "HandshakeFailed",
    "Holding",
    "IdentityCloned",
    "InvalidAddress",
    "InvalidCollectionName",
    "InvalidDistribution",
    "InvalidDocument",
    "InvalidFetch",
    "InvalidIndex",
    "InvalidInvitation",
    "InvalidMetadata",
    "InvalidNode",
    "InvalidScope",
    "InvalidSelector",
    "InvalidToken",
    "InvitationRefused",
    "Limits",
    "LinkClosed",
    "LinkedFileChanged",
    "MembershipRefused",
    "MeshError",
    "MissingBlob",
    "NestedTransaction",
    "Node",
    "NodeNotRunning",
    "NodeTransferStatus",
    "Nodes",
    "NotStarted",
    "Offer",
    "PeerUnreachable",
    "PermissionDenied",
    "PlaintextRefused",
    "Policy",
    "Presence",
    "Probe",
    "ProtocolViolation",
    "SettleTimeout",
    "SourceChanged",
    "SourceError",
    "SourceNotAFile",
    "SourceNotFound",
    "SourceUnreadable",
    "Stats",
    "StorageFull",
    "StoreCorrupt",
    "StoreTooNew",
    "Stream",
    "Subscription",
    "Transaction",
    "TransactionEnded",
    "TransferPriority",
    "TransferState",
    "UnknownDistribution",
    "Unrepaired",
    "VerifyReport",
    "__version__",
]
