"""Who a node is connected with, and how much passes: facts of the moment, never documents."""

from __future__ import annotations

from typing import Literal
from weakref import WeakSet

from mesh.attachments.service import Attachments
from mesh.core.certificates import REVOKED
from mesh.core.structs import Struct
from mesh.errors import IdentityCloned
from mesh.network.peers import Peers
from mesh.storage.documents import DocumentStore
from mesh.streams import Stream


class PeerPresence(Struct, frozen=True):
    """A peer that there is a link with.

    Attributes:
        url: where it was dialled; ``None``: it dialled this node.
        since: when the link came up, in seconds since the epoch.
        clock_skew: by how many seconds its clock was ahead of this node's when the link came up; ``None``: it
            did not say.
        rtt: round-trip time in seconds, smoothed; ``None``: not measured yet.
    """

    node_id: str
    name: str
    url: str | None
    since: float
    rtt: float | None
    bytes_in: int
    bytes_out: int
    clock_skew: int | None = None


class DialPresence(Struct, frozen=True):
    """An address that is dialled for ever. ``error``: why the last attempt failed."""

    url: str
    node_id: str | None
    state: Literal["connected", "dialling", "waiting"]
    error: str | None


class Presence(Struct, frozen=True):
    """This node's view of its links at one moment.

    Attributes:
        online: it is neither paused nor ``cloned``.
        cloned: why it stays offline, and what to do: another process runs with its identity, and goes on in
            its place; ``None``: not that this is known.
        rival: what is known of another process with its identity, whichever goes on; ``None``: nothing.
    """

    node_id: str
    name: str
    address: str | None
    online: bool
    peers: list[PeerPresence]
    dials: list[DialPresence]
    cloned: str | None = None
    rival: str | None = None

    @property
    def revoked_by(self) -> str | None:
        """The address at which this node hears that it was revoked; ``None``: it hears no such thing."""
        return next((dial.url for dial in self.dials if f"{REVOKED}: " in (dial.error or "")), None)


class Stats(Struct, frozen=True):
    """Totals since the node started; sizes in bytes.

    ``documents_refused`` came from peers and were dropped, as who made or sent them had no right to.
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
    documents_refused: int = 0


class PresenceView:
    """The links of a running node, for those who look once and those who watch.

    Attributes:
        online: the node is neither paused nor ``cloned``.
        cloned: why it stays offline, if another process runs with its identity.
    """

    def __init__(self, peers: Peers, node_id: str, name: str) -> None:
        self.online = True
        self.cloned: str | None = None
        self._peers = peers
        self._node_id = node_id
        self._name = name
        self._streams: WeakSet[Stream[Presence]] = WeakSet()

    def now(self) -> Presence:
        """The links of this moment."""
        targets = self._peers.dialer.targets
        refused = (t.error.problem for t in targets if isinstance(t.error, IdentityCloned))
        return Presence(
            self._node_id,
            self._name,
            self._peers.address,
            self.online,
            peers=[
                PeerPresence(
                    link.node_id,
                    link.name,
                    link.url,
                    link.since,
                    link.rtt,
                    link.bytes_in,
                    link.bytes_out,
                    link.clock_skew,
                )
                for link in self._peers.links.values()
            ],
            dials=[
                DialPresence(t.url, t.node_id, t.state, None if t.error is None else str(t.error))
                for t in targets
            ],
            cloned=None if self.cloned is None else str(IdentityCloned(self.cloned)),
            rival=self.cloned or next(refused, None),
        )

    def check_alone(self) -> None:
        """Make sure that no other process goes on in this one's place.

        Raises:
            IdentityCloned: one does.
        """
        if self.cloned is not None:
            raise IdentityCloned(self.cloned)

    def unlinked(self) -> list[str]:
        """The addresses that are dialled, but for this node's own, and not linked with."""
        return [
            target.url
            for target in self._peers.dialer.targets
            if target.state != "connected" and target.url != self._peers.address
        ]

    def observe(self) -> Stream[Presence]:
        """The links of this moment, then again whenever they change."""
        stream: Stream[Presence] = Stream(merge=lambda older, newer: newer)
        stream.push(self.now())
        self._streams.add(stream)
        return stream

    def changed(self, *_: object) -> None:
        """A link came up or went down, or the node went offline or came back."""
        for stream in list(self._streams):
            stream.push(self.now())

    def close(self) -> None:
        """Nobody watches any more."""
        for stream in list(self._streams):
            stream.finish()


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
        documents_refused=store.refused,
    )
