"""The node: wires the layers together, and is what an application holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

from mesh.attachments.service import Attachments
from mesh.collections.collection import Collection
from mesh.collections.subscriptions import Subscription
from mesh.collections.transactions import Transaction, transaction
from mesh.collections.yjs_documents import YjsDocuments
from mesh.core.certificates import EVERYTHING as EVERY_COLLECTION
from mesh.core.delivery import ReceiveMode
from mesh.core.identity import short_id
from mesh.core.rates import Limits
from mesh.core.scopes import Capabilities
from mesh.distributions.deliveries import Delivery
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.policy import Policy
from mesh.distributions.retention import RETENTION_SECONDS
from mesh.distributions.service import MeshFileDistribution
from mesh.errors import NotStarted, PermissionDenied
from mesh.membership.credentials import Credentials
from mesh.membership.service import MembershipService
from mesh.node.assembly import Assembly, Parts, open_home
from mesh.node.checks import check_discovery, check_limits, check_settings
from mesh.node.environment import Environment
from mesh.node.missing_blobs import MissingBlob, missing_blobs
from mesh.node.neighbourhood import Neighbour
from mesh.node.presence import Presence, Stats, stats_of
from mesh.node.probe import Probe
from mesh.node.settings import Settings
from mesh.storage import authors, finding
from mesh.storage.data_dir import DataDir
from mesh.streams import Stream


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
            recently make room for new ones, and a larger one is not passed on. ``None``: a tenth of the
            disk's free space, at most 10 GiB.
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
        check_discovery(discovery)
        self._settings = Settings(
            data_dir=None if data_dir is None else DataDir(data_dir),
            name=name,
            credentials=credentials,
            listen=listen,
            dials=[peers] if isinstance(peers, str) else list(peers),
            formations=[formations] if isinstance(formations, str) else list(formations),
            capabilities=capabilities,
            receive=receive,
            inbox=None if inbox is None else Path(inbox).absolute(),
            policy=policy,
            retention=retention,
            hub=hub,
            limits=check_limits(upload_limit, download_limit, link_limit),
            cache_bytes=cache_bytes,
            environment=environment or Environment(),
        )
        check_settings(self._settings)
        self._parts: Parts | None = None
        self._node_id: str | None = None
        self._turn = asyncio.Lock()  # start, close, pause and resume take turns
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
            if self._parts is not None:
                return
            async with AsyncExitStack() as stack:
                home = open_home(self._settings, stack)
                self._node_id, self.name = home.identity.node_id, home.name
                self._parts = await Assembly(self._settings, home, stack, self._give_way).build()

    async def close(self) -> None:
        """Leave the mesh and release everything; what was written is kept. May be repeated."""
        async with self._turn:
            parts, self._parts = self._parts, None
            if parts is not None:
                await parts.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def _started(self) -> Parts:
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
        credentials = self._settings.credentials
        return None if credentials is None else credentials.mesh_id

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
        parts, new_id = self._started, self._settings.environment.new_id
        return Collection(
            name, parts.store, parts.observers, parts.subscriptions, new_id, self._settings.membership
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
        return transaction(self._started.store, self._settings.environment.new_id, self._settings.membership)

    def yjs_documents(self) -> YjsDocuments:
        """Documents as Yjs clients read and write them, for a gateway; to be closed before the node is."""
        return YjsDocuments(self._started.store)

    async def collections(self) -> dict[str, int]:
        """How many documents each collection has here."""
        return await self._started.store.read(finding.collections)

    async def unsynced(self) -> dict[str, int]:
        """By collection: how many documents this node has changed in a way that no peer that asks for the
        collection is known to hold, removed ones included.

        What is not counted, some peer has had on its disk. That peer may have evicted it since, or be put
        back from an older backup: what nobody else has got from it by then is lost if it is not here either.
        """
        node_id, linked = self.node_id, self._started.replicator.confirmed()
        return await self._started.store.read(lambda rows: authors.unsynced(rows, node_id, linked))

    async def missing_blobs(self) -> list[MissingBlob]:
        """The blobs that this node distributes and does not hold, nor, as far as it knows, does a node that
        it is linked with, while there are targets without them, or none yet.

            for blob in await node.missing_blobs():
                print(blob.token.metadata.name, blob.distribution_ids)

        The usual reason is a file that was added with ``link=True`` and has changed: its targets say in the
        status that they wait for a source. They go on when somebody adds the same bytes again.
        """
        parts = self._started
        return await missing_blobs((parts.distributions, parts.direct), parts.attachments, parts.peers)

    async def subscriptions(self) -> list[Subscription]:
        """What this node subscribes to, of all collections."""
        return self._started.subscriptions.remembered()

    @property
    def limits(self) -> Limits:
        """The caps of what blobs take, as they are now."""
        return self._settings.limits

    def set_limits(
        self, *, upload: float | None = None, download: float | None = None, link: float | None = None
    ) -> None:
        """Replace the caps of what blobs take (see :class:`Node`), also while they are under way.

        Raises:
            InvalidNode: a cap is not a number of at least 4096.
        """
        self._settings.limits = check_limits(upload, download, link)
        if self._parts is not None:
            self._parts.attachments.set_limits(self._settings.limits)

    async def set_formations(self, formations: Iterable[str]) -> None:
        """Belong to these formations and no others, until the node is made anew.

        Distributions for a formation that this node has joined begin; those for one that it has left stop,
        unless they are complete.

        Raises:
            InvalidNode: one of them is no name. Nothing has changed.
        """
        wanted = [formations] if isinstance(formations, str) else list(formations)
        await self._started.profile.set_formations(wanted)
        self._settings.formations = wanted

    async def set_capabilities(self, capabilities: Capabilities | Probe | None) -> None:
        """Declare other capabilities, have another probe find them out, or (``None``) have them detected;
        see :meth:`set_formations`.

        Raises:
            InvalidNode: no node can be like that, or the probe failed. Nothing has changed.
        """
        await self._started.profile.take(capabilities or self._settings.environment.probe)
        self._settings.capabilities = capabilities

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
            role: a ``"member"`` reads and writes documents and receives files; ``"relay"`` also asks and
                fetches on behalf of others, ``"publish"`` also distributes; an ``"admin"`` does all of this,
                invites, renews and revokes, and cancels what others distribute.
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
        """By node id: ``"admin"``, ``"member"`` and the like for this node and its peers, else ``"revoked"``
        or ``"retired"``: it goes by another id since it changed its key.
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
            IdentityCloned: another process runs with this node's identity.
        """
        self._started.presence.check_alone()
        return await self._started.peers.connect(url)

    async def disconnect(self, node_id: str) -> None:
        """End the link with a peer, and refuse it until :meth:`connect` or a restart."""
        await self._started.peers.disconnect(node_id)

    async def pause(self) -> None:
        """Go offline: no links, no listening. The store stays open and can be written."""
        async with self._turn:
            parts = self._started
            if parts.presence.online:
                parts.presence.online = False
                await parts.peers.pause()
                parts.presence.changed()

    async def _give_way(self, reason: str) -> None:
        """Go offline for good: another process runs with this node's identity."""
        async with self._turn:
            parts = self._started
            parts.presence.online, parts.presence.cloned = False, reason
            await parts.peers.pause("the node has stopped, as another one runs with its identity")
            parts.presence.changed()

    async def resume(self) -> None:
        """Come back online after :meth:`pause`.

        Raises:
            AddressInUse: somebody else listens there now.
            IdentityCloned: another process runs with this node's identity, and goes on in its place.
        """
        async with self._turn:
            parts = self._started
            parts.presence.check_alone()
            if not parts.presence.online:
                await parts.peers.resume()
                parts.presence.online = True
                await parts.profile.publish(self._settings.environment.clock())
                parts.presence.changed()

    async def settled(self, timeout: float) -> None:
        """Wait until no known peer holds documents that this node lacks, or lacks any that it holds.

        Known are the peers there are links with, and those at the addresses that are dialled.

        Args:
            timeout: in seconds.

        Raises:
            SettleTimeout: it did not come to that; ``waiting_for`` says what was missing.
        """
        parts = self._started
        await parts.replicator.settled(timeout, parts.presence.unlinked)

    # --- presence ---------------------------------------------------------------------------------

    def presence(self) -> Presence:
        """The links of this moment."""
        return self._started.presence.now()

    def observe_presence(self) -> Stream[Presence]:
        """The links of this moment, then again whenever one comes up or goes down."""
        return self._started.presence.observe()

    def observe_neighbours(self) -> Stream[list[Neighbour]]:
        """Who the neighbours are linked with, and how far that is; then again as it changes. They are asked
        while the stream is open."""
        return self._started.neighbourhood.observe()

    def stats(self) -> Stats:
        """Totals since the start."""
        parts = self._started
        return stats_of(parts.peers, parts.store, parts.attachments)
