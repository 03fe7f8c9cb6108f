"""The node: wires the layers together, and is what an application holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakSet

from mesh.attachments.service import Attachments
from mesh.collections.collection import Collection
from mesh.collections.observers import Observers
from mesh.collections.owned import OwnedDocuments
from mesh.collections.replication import Replicator
from mesh.collections.subscriptions import Subscription, Subscriptions
from mesh.collections.transactions import Transaction, transaction
from mesh.collections.yjs_documents import YjsDocuments
from mesh.core.certificates import EVERYTHING as EVERY_COLLECTION
from mesh.core.direct import FEATURE
from mesh.core.identity import PRIVATE_KEY_BYTES, Identity, short_id
from mesh.core.interest import EVERYTHING
from mesh.core.receipts import NodeRecord
from mesh.core.scopes import Capabilities
from mesh.core.wire import InterestEntry
from mesh.distributions.deliveries import Deliveries, Delivery
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.policy import Policy
from mesh.distributions.retention import RETENTION_SECONDS
from mesh.distributions.service import MeshFileDistribution
from mesh.errors import InvalidNode, NotStarted, PermissionDenied
from mesh.membership.credentials import Credentials
from mesh.membership.service import MembershipService
from mesh.network.peers import Peers
from mesh.node.blob_references import BlobReferences, cache_limit
from mesh.node.checks import (
    MAX_NAME_CHARS,
    check_cache,
    check_credentials,
    check_facts,
    check_home,
    check_inbox,
    check_limits,
    check_name,
    check_policy,
)
from mesh.node.environment import Environment
from mesh.node.presence import Presence, Stats, presence_of, stats_of
from mesh.node.probe import Probe
from mesh.node.profile import Profile
from mesh.storage import finding
from mesh.storage.ageing import Ageing
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_memory import MemoryBlobs
from mesh.storage.blobs import BlobStore
from mesh.storage.data_dir import DataDir
from mesh.storage.documents import DocumentStore
from mesh.storage.identity import load_or_create_identity
from mesh.storage.worker import InlineWorker
from mesh.streams import Stream
from mesh.version import VERSION

log = logging.getLogger(__name__)

ReceiveMode = Literal["auto", "manual", "off"]


@dataclass(frozen=True)
class _Parts:
    """What a running node is made of."""

    identity: Identity
    profile: Profile
    store: DocumentStore
    peers: Peers
    observers: Observers
    replicator: Replicator
    subscriptions: Subscriptions
    owned: OwnedDocuments
    attachments: Attachments
    distributions: MeshFileDistribution
    direct: DirectFileDistribution
    membership: MembershipService | None


class Node:
    """One member of a mesh.

    An async context manager; or call :meth:`start` and :meth:`close`. The constructor does no I/O.

    Args:
        data_dir: keeps documents, blobs and identity; ``None``: in memory, gone at :meth:`close`.
        name: for people; the identity is ``node_id``. ``None``: that of the data directory.
        credentials: make this node a member of a closed mesh, which speaks TLS and may leave this machine.
            ``None``: the mesh is open, and stays on loopback.
        listen: ``host:port`` (port 0: any free one); ``None``: this node only dials.
        peers: addresses (``ws://host:port``, with credentials ``wss://host:port``) that are dialled for ever.
        discovery: not yet; peers are dialled at given addresses only.
        formations: named groups that this node says it belongs to.
        capabilities: declared, or a probe that finds them out; ``None``: detected.
        receive: what happens with distributions that this node is in the scope of: ``"auto"`` fetches them,
            ``"manual"`` leaves that to :meth:`deliveries`, ``"off"`` refuses them.
        inbox: completed (with ``"manual"``: accepted) files appear here under their safe names; ``None``:
            they are kept as attachments only.
        policy: takes an :class:`~mesh.distributions.policy.Offer` and returns ``None``, or why the file is
            refused; may be a coroutine function. If it fails, the file is refused.
        retention: seconds that a distribution of this node and its receipts stay after it is complete,
            cancelled, superseded or expired.
        hub: hold every collection, and keep the blobs of live distributions, for nodes that come and go.
        upload_limit: how fast blobs are sent, to everybody together, in bytes a second (4096 or more);
            ``None``: as fast as it goes. Documents are never capped.
        download_limit: how fast blobs are fetched, from everybody together.
        link_limit: how fast blobs move to each peer, and from each.
        cache_bytes: what blobs that were fetched for others only may take; those that were served least
            recently make room for new ones. ``None``: a tenth of the disk's free space, at most 10 GiB.
        environment: the world around the node; for simulations.

    Attributes:
        node_id: derived from the node's public key; known from :meth:`start` on.
        name: for people.
        attachments: large immutable bytes.
        distributions: files for many nodes, with receipts.
        direct: the same for neighbours, without documents.
    """

    def __init__(
        self,
        data_dir: str | PathLike[str] | None = None,
        *,
        name: str | None = None,
        credentials: Credentials | None = None,
        listen: str | None = "127.0.0.1:0",
        peers: Iterable[str] = (),
        discovery: Literal[False] = False,
        formations: Iterable[str] = (),
        capabilities: Capabilities | Probe | None = None,
        receive: ReceiveMode = "auto",
        inbox: str | PathLike[str] | None = None,
        policy: Policy | None = None,
        retention: float = RETENTION_SECONDS,
        hub: bool = False,
        upload_limit: float | None = None,
        download_limit: float | None = None,
        link_limit: float | None = None,
        cache_bytes: int | None = None,
        environment: Environment | None = None,
    ) -> None:
        if receive not in ("auto", "manual", "off"):
            raise InvalidNode(f'receive must be "auto", "manual" or "off", not {receive!r}')
        if discovery:
            raise InvalidNode(
                "this version has no discovery: leave it out. Peers are dialled at the addresses in `peers`"
            )
        check_credentials(credentials)
        check_name(name)
        check_cache(cache_bytes)
        self._cache_bytes = cache_bytes
        self._limits = check_limits(upload_limit, download_limit, link_limit)
        self._data_dir = None if data_dir is None else DataDir(data_dir)
        self._credentials = credentials
        self._wanted_name = name
        self._listen = listen
        self._dials = [peers] if isinstance(peers, str) else list(peers)
        self._formations = [formations] if isinstance(formations, str) else list(formations)
        check_facts(self._formations, capabilities)
        self._capabilities = capabilities
        self._receive: ReceiveMode = receive
        self._inbox = None if inbox is None else Path(inbox)
        check_policy(policy, retention)
        self._policy = policy
        self._retention = retention
        self._hub = hub
        self._environment = environment or Environment()
        self._parts: _Parts | None = None
        self._stack: AsyncExitStack | None = None
        self._node_id: str | None = None
        self._turn = asyncio.Lock()  # start, close, pause and resume take turns
        self._online = False
        self._presence_streams: WeakSet[Stream[Presence]] = WeakSet()
        self.name = name or ""

    def __repr__(self) -> str:
        if self._parts is None:
            return f"Node({self.name!r}, not started)"
        return f"Node({self.name!r}, {short_id(self.node_id)}, {self.address})"

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, listen, and start dialling.

        Raises:
            DataDirInUse, DataDirUnusable, StoreTooNew, StoreCorrupt: the data directory cannot be used.
            AddressInUse, InvalidAddress, PlaintextRefused: it cannot listen or dial there.
            In each case nothing stays open, and :meth:`start` may be called again.
        """
        async with self._turn:
            if self._stack is not None:
                return
            async with AsyncExitStack() as stack:
                parts = await self._open(stack)
                self._stack = stack.pop_all()
            self._parts = parts
            self._online = True

    async def _open(self, stack: AsyncExitStack) -> _Parts:
        """Build and start every part, lowest first; ``stack`` takes them down in the opposite order."""
        environment = self._environment
        directory = self._data_dir
        credentials = self._credentials
        lost = False
        if directory is not None:
            directory.open()
            stack.callback(directory.close)
            check_home(credentials, directory)
            lost = directory.lost_its_store()
        if credentials is not None:
            identity = credentials.identity
        elif directory is not None:
            identity = load_or_create_identity(directory.identity)
        else:
            identity = Identity(environment.random.randbytes(PRIVATE_KEY_BYTES))
        self._node_id = identity.node_id
        folder = "" if directory is None else directory.path.name[:MAX_NAME_CHARS]
        self.name = (
            self._wanted_name or (folder if folder.isprintable() else "") or short_id(identity.node_id)
        )

        store = DocumentStore(
            None if directory is None else directory.store,
            InlineWorker() if directory is None else environment.worker("mesh-store"),
            None if directory is None else environment.worker("mesh-read"),
            lost=lost,
            rng=environment.random,
            clock=environment.clock,
        )
        await store.open()
        stack.push_async_callback(store.close)
        ageing = Ageing(store, environment.clock)
        ageing.start()
        stack.push_async_callback(ageing.close)

        if credentials is None:
            log.warning(
                "%s has no credentials: it is in an open mesh, which stays on this machine", self.name
            )
            transport = environment.transport()
        else:
            transport = environment.secure_transport(credentials)
        peers = Peers(
            identity,
            transport,
            name=self.name,
            membership=None if credentials is None else credentials.membership,
            features=[FEATURE],
            rng=environment.random,
            clock=environment.clock,
        )
        membership: MembershipService | None = None
        if credentials is not None:
            membership = MembershipService(
                credentials, store, peers, transport, random=environment.random, clock=environment.clock
            )
            await membership.start()  # first, so that no service hears of a link before it
            stack.push_async_callback(membership.close)
        observers = Observers(store)
        stack.callback(observers.close)
        replicator = Replicator(store, peers, node_id=identity.node_id, clock=environment.clock)
        replicator.start()
        stack.push_async_callback(replicator.close)
        stack.push_async_callback(peers.close)
        subscriptions = Subscriptions(store, replicator)
        await subscriptions.load()
        replicator.want("mesh:distributions", InterestEntry("distributions"))
        if self._hub:
            replicator.want("mesh:hub", EVERYTHING)
        owned = OwnedDocuments(store, observers, replicator, identity)

        blobs: BlobStore = (
            MemoryBlobs()
            if directory is None
            else FolderBlobs(directory.blobs, environment.worker("mesh-blobs"), environment.clock)
        )
        stack.push_async_callback(blobs.close)
        blob_references = BlobReferences(store)
        attachments = Attachments(
            blobs,
            peers,
            node_id=identity.node_id,
            random=environment.random,
            clock=environment.clock,
            limits=self._limits,
            referred=blob_references.referred,
            cache_bytes=cache_limit(self._cache_bytes, directory),
        )

        if self._inbox is not None:
            check_inbox(self._inbox, directory)
        inbox_worker = InlineWorker() if directory is None else environment.worker("mesh-inbox")
        stack.push_async_callback(inbox_worker.close)

        def facts_changed() -> None:
            distributions.facts_changed()
            direct.facts_changed()

        profile = Profile(
            owned,
            NodeRecord(
                identity.node_id, self.name, self._formations, Capabilities(), self._hub, None, VERSION, 0.0
            ),
            inbox_worker,
            None if directory is None else directory.path,
            address=lambda: peers.address,
            facts_changed=facts_changed,
        )
        deliveries = Deliveries()
        distributions = MeshFileDistribution(
            owned,
            attachments,
            node_id=identity.node_id,
            facts=lambda: profile.facts,
            clock=environment.clock,
            random=environment.random,
            receive=self._receive,
            inbox=self._inbox,
            deliveries=deliveries,
            hub=self._hub,
            worker=inbox_worker,
            policy=self._policy,
            retention=self._retention,
        )
        direct = DirectFileDistribution(
            owned,
            attachments,
            peers,
            node_id=identity.node_id,
            facts=lambda: profile.facts,
            clock=environment.clock,
            random=environment.random,
            receive=self._receive,
            inbox=self._inbox,
            deliveries=deliveries,
            worker=inbox_worker,
            policy=self._policy,
        )
        await profile.take(self._capabilities or environment.probe)
        blob_references.connect(attachments, distributions, direct)
        await attachments.start()
        stack.push_async_callback(attachments.close)
        stack.push_async_callback(direct.close)
        await direct.start()  # cleans the inbox, in which the other one has not begun to work yet
        stack.push_async_callback(distributions.close)
        await distributions.start()

        peers.on_up(self._links_changed)
        peers.on_down(self._links_changed)
        stack.callback(self._end_presence)
        for url in self._dials:
            peers.keep(url)
        await peers.start(self._listen)
        if membership is not None:
            membership.watch()
        parts = _Parts(
            identity,
            profile,
            store,
            peers,
            observers,
            replicator,
            subscriptions,
            owned,
            attachments,
            distributions,
            direct,
            membership,
        )
        stack.push_async_callback(profile.close)
        await profile.publish(environment.clock())
        stack.callback(store.end_transactions)  # else what ends first might wait for them
        return parts

    async def close(self) -> None:
        """Leave the mesh and release everything; what was written is kept. May be repeated."""
        async with self._turn:
            stack, self._stack = self._stack, None
            self._parts = None
            self._online = False
            if stack is not None:
                await stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def _started(self) -> _Parts:
        if self._parts is None:
            raise NotStarted("the node is not running: use `async with Node(...)`, or await start() first")
        return self._parts

    # --- what an application uses -----------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """Who this node is, for its peers and in documents; known from the first :meth:`start` on."""
        return self._node_id or self._started.identity.node_id

    @property
    def mesh_id(self) -> str | None:
        """The closed mesh that this node is a member of; ``None``: it is in an open one."""
        return None if self._credentials is None else self._credentials.mesh_id

    @property
    def address(self) -> str | None:
        """Where peers can dial this node, e.g. ``ws://127.0.0.1:40101``; ``None``: it only dials."""
        return None if self._parts is None else self._parts.peers.address

    @property
    def attachments(self) -> Attachments:
        """Large immutable bytes, addressed by their hash."""
        return self._started.attachments

    @property
    def distributions(self) -> MeshFileDistribution:
        """Files for many nodes, with receipts."""
        return self._started.distributions

    @property
    def direct(self) -> DirectFileDistribution:
        """Files for the nodes that this one is linked with, while it runs; nothing is written down."""
        return self._started.direct

    def collection(self, name: str) -> Collection:
        """A named set of documents; it need not exist yet.

        Raises:
            InvalidCollectionName: nothing can be called that.
        """
        parts = self._started
        random = self._environment.random
        return Collection(
            name, parts.store, parts.observers, parts.subscriptions, lambda: random.randbytes(16).hex()
        )

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Several writes in one commit: all of them, or none if the block fails or the process dies.

            async with node.transaction() as tx:
                await tx.collection("cars").insert({"_id": "c1"})

        Others see nothing of it before its end, and whoever else writes waits until then, peers included.
        It is rolled back after 30 s. Inside of the block, this node is written through ``tx`` only.

        Raises:
            NestedTransaction: it is asked for inside of another one.
            TransactionEnded: at the end of the block: it has been rolled back before, and why.
        """
        random = self._environment.random
        return transaction(self._started.store, lambda: random.randbytes(16).hex())

    def yjs_documents(self) -> YjsDocuments:
        """Documents as Yjs clients read and write them, for a gateway; to be closed before the node is."""
        return YjsDocuments(self._started.store)

    async def collections(self) -> dict[str, int]:
        """How many documents each collection has here."""
        return await self._started.store.read(finding.collections)

    async def subscriptions(self) -> list[Subscription]:
        """What this node subscribes to, of all collections."""
        return self._started.subscriptions.remembered()

    def set_limits(
        self, *, upload: float | None = None, download: float | None = None, link: float | None = None
    ) -> None:
        """Replace the caps of what blobs take (see :class:`Node`), also while they are under way.

        Raises:
            InvalidNode: a cap is not a number of at least 4096.
        """
        self._limits = check_limits(upload, download, link)
        if self._parts is not None:
            self._parts.attachments.set_limits(self._limits)

    async def set_formations(self, formations: Iterable[str]) -> None:
        """Belong to these formations and no others, until the node is made anew.

        Distributions for a formation that this node has joined begin; those for one that it has left stop,
        unless they are complete.

        Raises:
            InvalidNode: one of them is no name. Nothing has changed.
        """
        wanted = [formations] if isinstance(formations, str) else list(formations)
        await self._started.profile.set_formations(wanted)
        self._formations = wanted

    async def set_capabilities(self, capabilities: Capabilities | Probe | None) -> None:
        """Declare other capabilities, have another probe find them out, or (``None``) have them detected;
        see :meth:`set_formations`.

        Raises:
            InvalidNode: no node can be like that, or the probe failed. Nothing has changed.
        """
        await self._started.profile.take(capabilities or self._environment.probe)
        self._capabilities = capabilities

    def deliveries(self) -> Stream[Delivery]:
        """With ``receive="manual"``: what this node is in the scope of; the undecided first."""
        return self._started.distributions.deliveries()

    async def members(self) -> list[dict[str, Any]]:
        """The node documents that are known here, this node's own among them."""
        return await self._started.owned.find("nodes")

    # --- membership -------------------------------------------------------------------------------

    async def invite(
        self,
        *,
        role: str = "member",
        uses: int = 1,
        ttl: float = 3600.0,
        collections: Iterable[str] = EVERY_COLLECTION,
        write: Iterable[str] | None = None,
        addresses: Iterable[str] = (),
    ) -> str:
        """A token with which ``uses`` nodes may become members of the mesh, within ``ttl`` seconds, while
        this node is up: what ``Credentials.join()`` takes. It is a secret.

        Args:
            role: ``"member"``, ``"relay"``, ``"publish"`` or ``"admin"``.
            collections: what they may read, by name or as the start of names and ``*``.
            write: what they may write; ``None``: what they may read.
            addresses: where else this node can be reached, such as ``wss://hq.example.org:7700``.

        Raises:
            PermissionDenied: this node is no admin, or is to grant more than it has.
            InvalidInvitation: there is no such role or collection, or this node cannot be dialled.
        """
        return await self._closed_mesh().invite(role, collections, write, uses, ttl, addresses)

    async def revoke(self, node_id: str) -> None:
        """End the membership of a node: its links are cut, here at once, and elsewhere as soon as the news
        arrives. Whom it had admitted, as an admin, is out as well, and the invitation by which it came is
        over. Only a new one lets it in again.

        Raises:
            PermissionDenied: this node is no admin.
            InvalidInvitation: that is not the whole id of a node.
        """
        await self._closed_mesh().revoke(node_id)

    def standings(self) -> dict[str, str]:
        """By node id: ``"admin"``, ``"member"`` and the like for this node and its peers, else ``"revoked"``.
        Empty in an open mesh."""
        membership = self._started.membership
        return {} if membership is None else membership.standings()

    def _closed_mesh(self) -> MembershipService:
        membership = self._started.membership
        if membership is None:
            raise PermissionDenied("this node has no credentials: in an open mesh there are no members")
        return membership

    # --- links ------------------------------------------------------------------------------------

    async def connect(self, url: str) -> str:
        """Link with the node at ``url`` and keep it so; its node id, once it has proven it.

        Raises:
            PeerUnreachable, HandshakeFailed, InvalidAddress, PlaintextRefused: this first attempt failed, and
                none follows.
        """
        return await self._started.peers.connect(url)

    async def disconnect(self, node_id: str) -> None:
        """End the link with a peer, and refuse it until :meth:`connect` or a restart."""
        await self._started.peers.disconnect(node_id)

    async def pause(self) -> None:
        """Go offline: no links, no listening. The store stays open and can be written."""
        async with self._turn:
            parts = self._started
            if self._online:
                self._online = False
                await parts.peers.pause()
                self._links_changed()

    async def resume(self) -> None:
        """Come back online after :meth:`pause`.

        Raises:
            AddressInUse: somebody else listens there now.
        """
        async with self._turn:
            parts = self._started
            if not self._online:
                await parts.peers.resume()
                self._online = True
                await parts.profile.publish(self._environment.clock())
                self._links_changed()

    async def settled(self, timeout: float) -> None:
        """Wait until no known peer holds documents that this node lacks, or lacks any that it holds.

        Known are the peers there are links with, and those at the addresses that are dialled.

        Args:
            timeout: in seconds.

        Raises:
            SettleTimeout: it did not come to that; ``waiting_for`` says what was missing.
        """
        parts = self._started

        def unlinked() -> list[str]:
            return [
                target.url
                for target in parts.peers.dialer.targets
                if target.state != "connected" and target.url != self.address
            ]

        await parts.replicator.settled(timeout, unlinked)

    # --- presence ---------------------------------------------------------------------------------

    def presence(self) -> Presence:
        """The links of this moment."""
        return presence_of(self._started.peers, self.node_id, self.name, online=self._online)

    def observe_presence(self) -> Stream[Presence]:
        """The links of this moment, then again whenever one comes up or goes down."""
        stream: Stream[Presence] = Stream(merge=lambda older, newer: newer)
        stream.push(self.presence())
        self._presence_streams.add(stream)
        return stream

    def _links_changed(self, *_: object) -> None:
        if self._parts is not None:
            for stream in list(self._presence_streams):
                stream.push(self.presence())

    def _end_presence(self) -> None:
        for stream in list(self._presence_streams):
            stream.finish()

    def stats(self) -> Stats:
        """Totals since the start."""
        parts = self._started
        return stats_of(parts.peers, parts.store, parts.attachments)
