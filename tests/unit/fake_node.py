"""A node of plain dicts: has what the control methods use of a node, and does what the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from mesh.attachments.handles import BlobHandle
from mesh.attachments.holding import Holding
from mesh.attachments.repairing import Unrepaired
from mesh.attachments.verifying import VerifyReport
from mesh.core.enrolment import Invitation
from mesh.core.rates import Limits
from mesh.core.scopes import DistributionScope, NodeFacts, matches
from mesh.core.status import (
    DistributionHandle,
    DistributionStatus,
    NodeTransferStatus,
    TransferPriority,
    TransferState,
)
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from mesh.core.wire import InterestEntry
from mesh.errors import (
    BlobNotFound,
    FetchFailed,
    FetchTimeout,
    InvalidNode,
    PeerUnreachable,
    SourceNotFound,
    UnknownDistribution,
)
from mesh.node.missing_blobs import MissingBlob
from mesh.node.presence import DialPresence, PeerPresence, Presence, Stats
from mesh.node.probe import Probe
from mesh.streams import Stream

SELF_ID = "s" * 52
VAN_ID = "v" * 52
TOKEN = Invitation("m" * 52, ["wss://127.0.0.1:7700"], bytes(32), bytes(20)).token()
HUB_ID = "h" * 52


def change(**fields: Any) -> SimpleNamespace:
    """What ``Collection.observe()`` yields."""
    return SimpleNamespace(**{"documents": [], "inserted": [], "updated": [], "removed": []} | fields)


def node_status(
    node_id: str,
    state: TransferState,
    progress: int = 0,
    total: int = 100,
    error: str | None = None,
    rate: float = 0.0,
) -> NodeTransferStatus:
    return NodeTransferStatus(node_id, state, progress, total, error=error, rate=rate)


def status_of(handle: DistributionHandle, *nodes: NodeTransferStatus, **more: Any) -> DistributionStatus:
    """A status whose counts fit its nodes."""
    states = [node.status for node in nodes]
    moving = (TransferState.CONNECTING, TransferState.TRANSFERRING)
    return DistributionStatus(
        handle,
        total_targets=len(nodes),
        pending=states.count(TransferState.PENDING),
        completed=states.count(TransferState.COMPLETED),
        in_progress=sum(state in moving for state in states),
        failed=states.count(TransferState.FAILED),
        cancelled=states.count(TransferState.CANCELLED),
        node_statuses={node.node_id: node for node in nodes},
        **more,
    )


class FakeCollection:
    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.subscriptions: list[Any] = []
        self.indexed: list[tuple[str, ...]] = []
        self.streams: list[Stream[Any]] = []

    async def find(
        self, selector: Mapping[str, Any] | None = None, *, sort: Any, limit: int | None, fields: Any
    ) -> list[dict[str, Any]]:
        wanted = (selector or {}).items()
        found = [document for document in self.documents.values() if wanted <= document.items()]
        for order in reversed(sort or []):
            for field, direction in order.items():
                found.sort(key=lambda document: str(document.get(field)), reverse=direction == "desc")
        kept = [{key: d[key] for key in d if not fields or key in (*fields, "_id")} for d in found]
        return kept[:limit]

    async def create_index(self, *fields: str) -> None:
        self.indexed.append(fields)

    async def drop_index(self, *fields: str) -> bool:
        known = fields in self.indexed
        self.indexed = [index for index in self.indexed if index != fields]
        return known

    async def indexes(self) -> list[tuple[str, ...]]:
        return self.indexed

    async def explain(self, selector: Mapping[str, Any] | None = None, *, sort: Any = None) -> dict[str, Any]:
        fields = next((list(index) for index in self.indexed if index[0] in (selector or {})), [])
        name = f"cars{fields}" if fields else None
        return {
            "index": name,
            "fields": fields,
            "indexes": {name: fields} if name else {},
            "scan": not name,
            "exact": bool(name),
        }

    async def get(self, id: str) -> dict[str, Any] | None:
        return self.documents.get(id)

    def observe(self, selector: Any = None) -> Stream[Any]:
        stream: Stream[Any] = Stream(on_close=lambda: self.streams.remove(stream))
        self.streams.append(stream)
        stream.push(change(documents=list(self.documents.values())))
        return stream

    async def upsert(self, document: dict[str, Any]) -> str:
        id = str(document.get("_id", f"new{len(self.documents)}"))
        known = id in self.documents
        self.documents[id] = self.documents.get(id, {}) | document | {"_id": id}
        for stream in self.streams:
            stream.push(change(**{"updated" if known else "inserted": [self.documents[id]]}))
        return id

    async def remove(self, id: str) -> int:
        if self.documents.pop(id, None) is None:
            return 0
        for stream in self.streams:
            stream.push(change(removed=[id]))
        return 1

    async def subscribe(self, selector: Any = None) -> None:
        self.subscriptions.append(selector or {})

    async def unsubscribe(self, selector: Any = None) -> bool:
        known = (selector or {}) in self.subscriptions
        if known:
            self.subscriptions.remove(selector or {})
        return known


class FakeAttachments:
    def __init__(self) -> None:
        self.held: dict[str, tuple[BlobToken, Path]] = {}
        self.pinned: set[str] = set()
        self.lost: list[str] = []
        self.here_bytes = 0
        self.partial: list[Holding] = []
        self.elsewhere: dict[str, Path] = {}
        self.fetched = asyncio.Event()

    async def fetch(
        self, token: BlobToken, *, on_progress: Callable[[BlobProgress], None], timeout: float | None
    ) -> BlobHandle:
        on_progress(BlobProgress("waiting", 0, token.size_bytes, reason="no peers are connected"))
        try:
            async with asyncio.timeout(timeout):
                await self.fetched.wait()
        except TimeoutError:
            state = "waiting: no peers are connected"
            raise FetchTimeout(token.hash, timeout or 0, 0, token.size_bytes, state) from None
        if token.hash not in self.elsewhere:
            raise FetchFailed(token.hash, "it was deleted while it was fetched")
        self.held[token.hash] = (token, self.elsewhere[token.hash])
        on_progress(BlobProgress("completed", token.size_bytes, token.size_bytes))
        return BlobHandle(cast(Any, self), token)

    async def holdings(self) -> list[Holding]:
        whole = [
            Holding(
                hash,
                token.size_bytes,
                token.chunks_hash,
                token.metadata,
                token.size_bytes,
                pinned=hash in self.pinned,
            )
            for hash, (token, _) in self.held.items()
        ]
        return whole + self.partial

    async def delete(self, hash: str) -> None:
        partial = [one for one in self.partial if one.hash == hash]
        if self.held.pop(hash, None) is None and not partial:
            raise BlobNotFound(hash)
        self.partial = [one for one in self.partial if one.hash != hash]

    async def pin(self, hash: str) -> None:
        self.pinned.add(hash)

    async def unpin(self, hash: str) -> None:
        self.pinned.discard(hash)

    async def verify(self) -> VerifyReport:
        why = Unrepaired(1500, self.here_bytes, "stalled", nobody=not self.here_bytes)
        unrepaired = dict.fromkeys(self.lost, why)
        return VerifyReport(len(self.held), 1500, len(self.lost), [], self.lost, True, unrepaired)

    async def add(self, source: Path, *, name: str | None = None, link: bool = False) -> BlobToken:
        if not source.exists():
            raise SourceNotFound(str(source), "there is no such file")
        hash = f"{len(self.held):x}" * 64
        token = BlobToken(hash, source.stat().st_size, "c" * 64, BlobMetadata(name or source.name))
        self.held[hash] = (token, source)
        return token

    async def tokens(self) -> list[BlobToken]:
        return [token for token, _ in self.held.values()]

    async def info(self, hash: str) -> BlobToken | None:
        return self.held[hash][0] if hash in self.held else None

    async def export(self, hash: str, destination: str) -> None:
        Path(destination).write_bytes(self.held[hash][1].read_bytes())


class FakeDistributions:
    """``statuses`` holds the last status of each; ``push`` tells a new one to whoever follows."""

    def __init__(self, collections: dict[str, FakeCollection]) -> None:
        self.statuses: dict[str, DistributionStatus] = {}
        self.made: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.retried: list[str] = []
        self.streams: list[Stream[DistributionStatus]] = []
        self._collections = collections

    async def distribute(
        self,
        token: BlobToken,
        scope: DistributionScope,
        priority: TransferPriority,
        *,
        expires_in: float | None,
        supersedes: str | None,
    ) -> DistributionHandle:
        id = f"d{len(self.made)}" + "a" * 24
        self.made.append({"expires_in": expires_in, "supersedes": supersedes})
        handle = DistributionHandle(id, token.hash, scope, priority, 1_700_000_000.0)
        self.statuses[id] = status_of(handle)
        documents = self._collections.setdefault("distributions", FakeCollection())
        await documents.upsert({"_id": id, "token": token.to_dict()})
        return handle

    async def heard_at(self, id: str) -> dict[str, float]:
        return {VAN_ID: time.time() - 65, "far": time.time() - 125}

    async def dry_run(self, scope: DistributionScope) -> list[str]:
        north = NodeFacts(["north"])
        return [id for id in (HUB_ID, VAN_ID) if matches(scope, id, SELF_ID, north)]

    async def push(self, id: str, *nodes: NodeTransferStatus, **more: Any) -> None:
        self.statuses[id] = status_of(self.statuses[id].handle, *nodes, **more)
        for stream in list(self.streams):
            stream.push(self.statuses[id])
            if self.statuses[id].is_complete or self.statuses[id].is_cancelled:
                stream.finish()
        await self._collections.setdefault("receipts", FakeCollection()).upsert({"_id": id})

    async def handles(self) -> list[DistributionHandle]:
        return [status.handle for status in self.statuses.values()]

    async def status(self, handle: DistributionHandle | str) -> DistributionStatus:
        id = handle if isinstance(handle, str) else handle.distribution_id
        if id not in self.statuses:
            raise UnknownDistribution(id)
        return self.statuses[id]

    def subscribe_progress(self, id: str) -> Stream[DistributionStatus]:
        stream: Stream[DistributionStatus] = Stream(on_close=lambda: self.streams.remove(stream))
        self.streams.append(stream)
        stream.push(self.statuses[id])
        if self.statuses[id].is_complete:
            stream.finish()
        return stream

    async def cancel(self, id: str) -> None:
        self.cancelled.append(id)

    async def retry(self, id: str) -> None:
        self.retried.append(id)


class FakeDelivery:
    def __init__(self, token: BlobToken) -> None:
        self.distribution_id = "e" * 26
        self.publisher = HUB_ID
        self.token = token
        self.priority = TransferPriority.HIGH
        self.decision: str | None = None
        self.path: Path | None = Path("/inbox/map")
        self.inbox_error: OSError | None = None

    async def accept(self) -> Path | None:
        if self.inbox_error is not None:
            raise self.inbox_error
        self.decision = "accepted"
        return self.path

    async def reject(self, reason: str) -> None:
        self.decision = f"rejected: {reason}"


class FakeNode:
    node_id = SELF_ID
    name = "desk"

    def __init__(self) -> None:
        self.held: dict[str, FakeCollection] = {}
        self.attachments = FakeAttachments()
        self.distributions = FakeDistributions(self.held)
        self.waiting: list[FakeDelivery] = []
        self.delivery_streams: list[Stream[FakeDelivery]] = []
        self.is_paused = False
        self.cloned: str | None = None
        self.missing: list[MissingBlob] = []
        self.formations: list[str] = []
        self.limits = Limits()
        self.capabilities: Probe | None = None
        self.dialled: list[str] = []
        self.invited: list[dict[str, Any]] = []
        self.revoked: list[str] = []
        self.disconnected: list[str] = []

    @property
    def mesh_id(self) -> str | None:
        return None

    async def invite(self, **options: Any) -> str:
        self.invited.append(options)
        return TOKEN

    def standings(self) -> dict[str, str]:
        return {VAN_ID: "revoked"}

    async def revoke(self, node_id: str) -> None:
        self.revoked.append(node_id)

    @property
    def address(self) -> str | None:
        return None if self.is_paused else "ws://127.0.0.1:7700"

    def collection(self, name: str) -> FakeCollection:
        return self.held.setdefault(name, FakeCollection())

    async def collections(self) -> dict[str, int]:
        return {name: len(collection.documents) for name, collection in self.held.items()}

    async def subscriptions(self) -> list[InterestEntry]:
        return [
            InterestEntry(name, selector)
            for name, collection in self.held.items()
            for selector in collection.subscriptions
        ]

    def presence(self) -> Presence:
        peer = PeerPresence(VAN_ID, "van7", None, 1_700_000_000.0, 0.0123, 1500, 0)
        dials = [
            DialPresence("ws://127.0.0.1:1", VAN_ID, "connected", None),
            DialPresence("ws://127.0.0.1:2", None, "waiting", "nobody answers"),
        ]
        return Presence(SELF_ID, "desk", self.address, not self.is_paused, [peer], dials, self.cloned)

    def observe_presence(self) -> Stream[Presence]:
        stream: Stream[Presence] = Stream()
        stream.push(self.presence())
        return stream

    def set_limits(self, *, upload: float | None, download: float | None, link: float | None) -> None:
        self.limits = Limits(upload, download, link)

    def stats(self) -> Stats:
        return Stats(1, 12, 3, 5_000_000, 40_000, 1500, 2500, 0, 7_000_000)

    async def disconnect(self, node_id: str) -> None:
        self.disconnected.append(node_id)

    async def missing_blobs(self) -> list[MissingBlob]:
        return self.missing

    async def members(self) -> list[dict[str, Any]]:
        capabilities = self.capabilities(None).to_dict() if self.capabilities else {}
        return [
            {
                "_id": SELF_ID,
                "name": "desk",
                "formations": self.formations,
                "capabilities": capabilities,
                "listen": self.address,
            },
            {"_id": VAN_ID, "name": "van7", "formations": ["north"], "capabilities": {"gpu_gb": 4.0}},
        ]

    async def set_formations(self, formations: list[str]) -> None:
        if "" in formations:
            raise InvalidNode("not what a node can say of itself")
        self.formations = formations

    async def set_capabilities(self, capabilities: Probe | None) -> None:
        self.capabilities = capabilities

    async def connect(self, url: str) -> str:
        if "unreachable" in url:
            raise PeerUnreachable(url, "nobody answers")
        self.dialled.append(url)
        return VAN_ID

    async def pause(self) -> None:
        self.is_paused = True

    async def resume(self) -> None:
        self.is_paused = False

    def deliveries(self) -> Stream[FakeDelivery]:
        stream: Stream[FakeDelivery] = Stream(on_close=lambda: self.delivery_streams.remove(stream))
        self.delivery_streams.append(stream)
        for delivery in self.waiting:
            stream.push(delivery)
        return stream

    def offer(self, delivery: FakeDelivery) -> None:
        self.waiting.append(delivery)
        for stream in self.delivery_streams:
            stream.push(delivery)
