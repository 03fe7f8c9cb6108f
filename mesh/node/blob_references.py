"""What on a node refers to blobs: its documents, and the distributions that are not over."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from mesh.attachments.service import Attachments
from mesh.core.commits import Commit
from mesh.core.retention import default_cache_bytes
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.ports import DISTRIBUTIONS
from mesh.distributions.service import MeshFileDistribution
from mesh.storage import references
from mesh.storage.blob_memory import MAX_MEMORY_BYTES
from mesh.storage.data_dir import DataDir
from mesh.storage.documents import DocumentStore


class BlobReferences:
    """Tells the attachments which blobs are referred to, and when that may have changed.

    Every member of a mesh holds the documents of all distributions, so those do not count as documents: their
    blobs are referred to until they are cancelled, replaced or expired.
    """

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._distributions: tuple[MeshFileDistribution | DirectFileDistribution, ...] = ()

    def connect(
        self, attachments: Attachments, *distributions: MeshFileDistribution | DirectFileDistribution
    ) -> None:
        """Follow what is committed from now on."""

        def committed(commits: list[Commit]) -> None:
            for commit in commits:
                for hash in commit.blobs:
                    attachments.reconsider(hash)

        self._distributions = distributions
        self._store.follow(committed)
        for service in distributions:
            service.on_change(attachments.reconsider)

    async def referred(self, hashes: Collection[str]) -> set[str]:
        """Which of these blobs are referred to."""
        if not hashes:
            return set()
        found = await self._store.read(lambda rows: references.referred(rows, hashes, besides=DISTRIBUTIONS))
        live = {hash for service in self._distributions for hash in service.live_blobs()}
        return found | live.intersection(hashes)


def cache_limit(wanted: int | None, directory: DataDir | None) -> int:
    """What blobs that are kept for others may take."""
    if wanted is not None:
        return wanted
    return default_cache_bytes(
        MAX_MEMORY_BYTES if directory is None else shutil.disk_usage(directory.path).free
    )
