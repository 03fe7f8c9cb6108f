"""What on a node refers to blobs: its documents, and the distributions that are not over."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection

from mesh.attachments.service import Attachments
from mesh.core.certificates import RELAY
from mesh.core.changes import Document
from mesh.core.commits import Commit
from mesh.core.delivery import may_fetch
from mesh.core.receipts import DistributionRecord, NodeRecord, parse_distribution
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.retention import default_cache_bytes
from mesh.core.scopes import NodeFacts
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.ports import DISTRIBUTIONS, NODES
from mesh.distributions.service import MeshFileDistribution
from mesh.network.peers import Peers
from mesh.storage import finding, references
from mesh.storage.blob_memory import MAX_MEMORY_BYTES
from mesh.storage.data_dir import DataDir
from mesh.storage.documents import DocumentStore
from mesh.storage.rows import Rows


class BlobReferences:
    """Tells the attachments which blobs are referred to, and when that may have changed.

    Every member of a mesh holds the documents of all distributions, so those do not count as documents: their
    blobs are referred to until they are cancelled, replaced or expired.
    """

    def __init__(self, store: DocumentStore, peers: Peers, clock: Callable[[], float]) -> None:
        self._store = store
        self._peers = peers
        self._clock = clock
        self._distributions: tuple[MeshFileDistribution | DirectFileDistribution, ...] = ()

    def connect(
        self, attachments: Attachments, distributions: MeshFileDistribution, direct: DirectFileDistribution
    ) -> None:
        """Follow what is committed from now on."""

        def committed(commits: list[Commit]) -> None:
            for commit in commits:
                if commit.change.collection == NODES:
                    attachments.reconsider_peer(commit.change.id)
                for hash in commit.blobs:
                    attachments.reconsider(hash)

        self._distributions, self._direct = (distributions, direct), direct
        self._store.follow(committed)
        for service in self._distributions:
            service.on_change(attachments.reconsider)

    async def referred(self, hashes: Collection[str]) -> set[str]:
        """Which of these blobs are referred to."""
        if not hashes:
            return set()
        found = await self._store.read(lambda rows: references.referred(rows, hashes, besides=DISTRIBUTIONS))
        live = {hash for service in self._distributions for hash in service.live_blobs()}
        return found | live.intersection(hashes)

    async def may_read(self, peer: str, hash: str) -> bool:
        """Whether a member of a closed mesh may have a blob: a document that it may read refers to it, or a
        distribution that is for it; a relay fetches what is for others."""
        link = self._peers.links.get(peer)
        if link is None or link.member is None:
            return False
        member = link.member

        def job(rows: Rows) -> tuple[set[str], list[Document], Document | None]:
            collections, ids = references.referring(rows, hash)
            found = [finding.get(rows, DISTRIBUTIONS, id) for id in ids]
            return collections, [one for one in found if one is not None], finding.get(rows, NODES, peer)

        collections, documents, said = await self._store.read(job)
        if any(member.may_read(collection) for collection in collections - OWNED_COLLECTIONS):
            return True
        records = self._direct.of_blob(hash)
        records += [
            record
            for document in documents
            if isinstance(record := parse_distribution(document), DistributionRecord)
        ]
        facts = NodeFacts() if said is None else NodeRecord.parse(said).facts
        relay = member.has(RELAY)
        now = self._clock()
        return any(may_fetch(record, peer, facts, now, relay=relay) for record in records)


def cache_limit(wanted: int | None, directory: DataDir | None) -> int:
    """What blobs that are kept for others may take."""
    if wanted is not None:
        return wanted
    return default_cache_bytes(
        MAX_MEMORY_BYTES if directory is None else shutil.disk_usage(directory.path).free
    )
