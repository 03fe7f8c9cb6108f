"""Who a node is connected with, and how much passes: facts of the moment, never documents."""

from __future__ import annotations

from typing import Literal

from mesh.attachments.service import Attachments
from mesh.core.structs import Struct
from mesh.network.peers import Peers
from mesh.storage.documents import DocumentStore


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
    ``store_rebuilt_at`` (seconds since the epoch) is set if the store was found damaged, or gone, at this
    start.
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
    store_rebuilt_at: float | None = None


def presence_of(peers: Peers, node_id: str, name: str, *, online: bool) -> Presence:
    """The links of this moment."""
    return Presence(
        node_id,
        name,
        peers.address,
        online,
        peers=[
            PeerPresence(
                link.node_id, link.name, link.url, link.since, link.rtt, link.bytes_in, link.bytes_out
            )
            for link in peers.links.values()
        ],
        dials=[
            DialPresence(t.url, t.node_id, t.state, None if t.error is None else str(t.error))
            for t in peers.dialer.targets
        ],
    )


def stats_of(peers: Peers, store: DocumentStore, attachments: Attachments) -> Stats:
    """The totals of this moment."""
    return Stats(
        links=len(peers.links),
        documents=store.documents,
        blobs=attachments.count,
        blob_disk_bytes=attachments.held_bytes,
        document_disk_bytes=store.disk_bytes(),
        document_bytes_in=peers.bytes_in,
        document_bytes_out=peers.bytes_out,
        blob_bytes_in=attachments.received_bytes,
        blob_bytes_out=attachments.served_bytes,
        store_rebuilt_at=None if store.rebuilt is None else store.rebuilt.at,
    )
