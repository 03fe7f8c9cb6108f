"""Opening a node: its parts, lowest first, and what connects them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from mesh.attachments.service import Attachments
from mesh.collections.observers import Observers
from mesh.collections.owned import OwnedDocuments
from mesh.collections.replication import Replicator
from mesh.collections.subscriptions import Subscriptions
from mesh.core.certificates import ADMIN, RELAY
from mesh.core.direct import FEATURE
from mesh.core.identity import PRIVATE_KEY_BYTES, Identity, short_id
from mesh.core.interest import EVERYTHING
from mesh.core.receipts import NodeRecord
from mesh.core.scopes import Capabilities
from mesh.core.wire import InterestEntry
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.reception import Reception
from mesh.distributions.service import MeshFileDistribution
from mesh.membership.service import MembershipService
from mesh.network.peers import Peers
from mesh.node.blob_references import BlobReferences, cache_limit
from mesh.node.checks import MAX_NAME_CHARS, check_home, check_inbox
from mesh.node.clone_watch import CloneWatch
from mesh.node.neighbourhood import Neighbourhood
from mesh.node.presence import PresenceView
from mesh.node.profile import Profile
from mesh.node.settings import Settings
from mesh.storage.ageing import Ageing
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.blob_memory import MemoryBlobs
from mesh.storage.blobs import BlobStore
from mesh.storage.documents import DocumentStore
from mesh.storage.identity import load_or_create_identity
from mesh.storage.worker import InlineWorker, Worker
from mesh.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Home:
    """Who a node is. ``lost_its_store``: it has lived here before, and its documents are gone."""

    identity: Identity
    name: str
    lost_its_store: bool


@dataclass(frozen=True)
class Parts:
    """What a running node is made of."""

    identity: Identity
    profile: Profile
    store: DocumentStore
    peers: Peers
    presence: PresenceView
    neighbourhood: Neighbourhood
    observers: Observers
    replicator: Replicator
    subscriptions: Subscriptions
    owned: OwnedDocuments
    attachments: Attachments
    distributions: MeshFileDistribution
    direct: DirectFileDistribution
    membership: MembershipService | None
    stack: AsyncExitStack

    async def close(self) -> None:
        """Take everything down."""
        await self.stack.aclose()


def open_home(settings: Settings, stack: AsyncExitStack) -> Home:
    """Take the node's directory, if it has one, until ``stack`` gives it back."""
    directory, credentials = settings.data_dir, settings.credentials
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
        identity = Identity(settings.environment.random.randbytes(PRIVATE_KEY_BYTES))
    folder = "" if directory is None else directory.path.name[:MAX_NAME_CHARS]
    name = settings.name or (folder if folder.isprintable() else "") or short_id(identity.node_id)
    return Home(identity, name, lost)


class Assembly:
    """Builds and starts every part; ``stack`` takes them down in the opposite order."""

    def __init__(
        self,
        settings: Settings,
        home: Home,
        stack: AsyncExitStack,
        stop: Callable[[str], Awaitable[None]],
    ) -> None:
        """``stop``: the node stays offline from now on, for a reason."""
        self._settings = settings
        self._stop = stop
        self._environment = settings.environment
        self._directory = settings.data_dir
        self._identity = home.identity
        self._home = home
        self._stack = stack

    async def build(self) -> Parts:
        """The parts, running; they take over what is in the stack."""
        stack, settings = self._stack, self._settings
        store = await self._open_store()
        peers, membership = await self._meet_peers(store)
        observers = Observers(store)
        stack.callback(observers.close)
        replicator = Replicator(
            store,
            peers,
            node_id=self._identity.node_id,
            clock=self._environment.clock,
            membership=settings.membership,
        )
        replicator.start()
        stack.push_async_callback(replicator.close)
        stack.push_async_callback(peers.close)
        subscriptions = Subscriptions(store, replicator)
        await subscriptions.load()
        replicator.want("mesh:distributions", InterestEntry("distributions"))
        if settings.hub:
            replicator.want("mesh:hub", EVERYTHING)
        owned = OwnedDocuments(store, observers, replicator, self._identity)

        references = BlobReferences(store, peers, self._settings.environment.clock)
        attachments = self._make_attachments(peers, references)
        worker = self._file_worker()
        profile = self._make_profile(owned, peers, worker)
        distributions, direct = self._make_distributions(owned, attachments, peers, profile, worker)
        clones = CloneWatch(owned, profile, store, peers, self._environment.random, stop=self._stop)
        replicator.on_rival(clones.suspect)
        profile.on_change(distributions.facts_changed, direct.facts_changed)
        await profile.take(settings.capabilities or self._environment.probe)
        references.connect(attachments, distributions, direct)
        await attachments.start()
        stack.push_async_callback(attachments.close)
        stack.push_async_callback(direct.close)
        await direct.start()  # cleans the inbox, in which the other one has not begun to work yet
        stack.push_async_callback(distributions.close)
        await distributions.start()

        presence = PresenceView(peers, self._identity.node_id, self._home.name)
        peers.on_up(presence.changed)
        peers.on_down(presence.changed)
        neighbourhood = Neighbourhood(peers)
        stack.callback(neighbourhood.close)
        for url in settings.dials:
            peers.keep(url)
        await peers.start(settings.listen)
        if membership is not None:
            membership.watch()
        stack.push_async_callback(profile.close)
        await profile.publish(self._environment.clock())
        stack.push_async_callback(clones.close)
        clones.start()
        stack.callback(store.end_transactions)  # else what ends first might wait for them
        stack.callback(presence.close)
        return Parts(
            self._identity,
            profile,
            store,
            peers,
            presence,
            neighbourhood,
            observers,
            replicator,
            subscriptions,
            owned,
            attachments,
            distributions,
            direct,
            membership,
            stack.pop_all(),
        )

    async def _open_store(self) -> DocumentStore:
        environment, directory = self._environment, self._directory
        store = DocumentStore(
            None if directory is None else directory.store,
            InlineWorker() if directory is None else environment.worker("mesh-store"),
            None if directory is None else environment.worker("mesh-read"),
            lost=self._home.lost_its_store,
            membership=self._settings.membership,
            rng=environment.random,
            clock=environment.clock,
        )
        await store.open()
        self._stack.push_async_callback(store.close)
        ageing = Ageing(store, environment.clock)
        ageing.start()
        self._stack.push_async_callback(ageing.close)
        return store

    async def _meet_peers(self, store: DocumentStore) -> tuple[Peers, MembershipService | None]:
        """The peers, not started, and who of them may be one."""
        environment, credentials = self._environment, self._settings.credentials
        if credentials is None:
            log.warning(
                "%s has no credentials: it is in an open mesh, which stays on this machine", self._home.name
            )
            transport = environment.transport()
        else:
            transport = environment.secure_transport(credentials)
        peers = Peers(
            self._identity,
            transport,
            name=self._home.name,
            membership=self._settings.membership,
            features=[FEATURE],
            rng=environment.random,
            clock=environment.clock,
        )
        if credentials is None:
            return peers, None
        membership = MembershipService(
            credentials, store, peers, transport, random=environment.random, clock=environment.clock
        )
        await membership.start()  # first, so that no service hears of a link before it
        self._stack.push_async_callback(membership.close)
        return peers, membership

    def _make_attachments(self, peers: Peers, references: BlobReferences) -> Attachments:
        environment, directory = self._environment, self._directory
        credentials = self._settings.credentials
        blobs: BlobStore = (
            MemoryBlobs()
            if directory is None
            else FolderBlobs(directory.blobs, environment.worker("mesh-blobs"), environment.clock)
        )
        self._stack.push_async_callback(blobs.close)
        return Attachments(
            blobs,
            peers,
            node_id=self._identity.node_id,
            random=environment.random,
            clock=environment.clock,
            limits=self._settings.limits,
            may_relay=lambda token, origin: credentials is None or RELAY in credentials.roles,
            may_read=None if credentials is None else references.may_read,
            referred=references.referred,
            cache_bytes=cache_limit(self._settings.cache_bytes, directory),
        )

    def _file_worker(self) -> Worker:
        """Runs probes, and work on the inbox."""
        if self._settings.inbox is not None:
            check_inbox(self._settings.inbox, self._directory)
        worker = InlineWorker() if self._directory is None else self._environment.worker("mesh-inbox")
        self._stack.push_async_callback(worker.close)
        return worker

    def _make_profile(self, owned: OwnedDocuments, peers: Peers, worker: Worker) -> Profile:
        settings = self._settings
        return Profile(
            owned,
            NodeRecord(
                self._identity.node_id,
                self._home.name,
                settings.formations,
                Capabilities(),
                settings.hub,
                None,
                VERSION,
                0.0,
            ),
            worker,
            None if self._directory is None else self._directory.path,
            address=lambda: peers.address,
            new_instance=self._environment.new_id,
        )

    def _make_distributions(
        self, owned: OwnedDocuments, attachments: Attachments, peers: Peers, profile: Profile, worker: Worker
    ) -> tuple[MeshFileDistribution, DirectFileDistribution]:
        settings, environment = self._settings, self._environment
        credentials, membership = settings.credentials, settings.membership
        reception = Reception(
            node_id=self._identity.node_id,
            facts=lambda: profile.facts,
            clock=environment.clock,
            random=environment.random,
            mode=settings.receive,
            inbox=settings.inbox,
            worker=worker,
            policy=settings.policy,
        )
        return MeshFileDistribution(
            owned,
            attachments,
            reception,
            hub=settings.hub,
            retention=settings.retention,
            admin=lambda: credentials is not None and ADMIN in credentials.roles,
        ), DirectFileDistribution(
            owned,
            attachments,
            peers,
            reception,
            require_publish=(lambda: None) if membership is None else membership.require_publish,
        )
