"""Who a node is connected with, and how much passes: facts of the moment, never documents."""

from __future__ import annotations

from typing import Literal

from mesh.core.structs import Struct


class PeerPresence(Struct, frozen=True):
    """A peer that there is a link with.

    Attributes:
        url: where it was dialled; ``None``: it dialled this node.
        since: when the link came up, in seconds since the epoch.
        rtt: round-trip time in seconds, smoothed; ``None``: not measured yet.
    """

    node_id: str
    name: str
    url: str | None
    since: float
    rtt: float | None
    bytes_in: int
    bytes_out: int


class DialPresence(Struct, frozen=True):
    """An address that is dialled for ever. ``error``: why the last attempt failed."""

    url: str
    node_id: str | None
    state: Literal["connected", "dialling", "waiting"]
    error: str | None


class Presence(Struct, frozen=True):
    """This node's view of its links at one moment. ``online``: it is not paused."""

    node_id: str
    name: str
    address: str | None
    online: bool
    peers: list[PeerPresence]
    dials: list[DialPresence]


class Stats(Struct, frozen=True):
    """Totals since the node started; sizes in bytes.

    ``document_bytes_*`` passed on links, ``blob_bytes_*`` are chunks received and served.
    """

    links: int
    documents: int
    blobs: int
    blob_disk_bytes: int
    document_disk_bytes: int
    document_bytes_in: int
    document_bytes_out: int
    blob_bytes_in: int
    blob_bytes_out: int
