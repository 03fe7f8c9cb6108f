"""Blobs that this node has promised to others and cannot give."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.attachments.service import Attachments
from mesh.core.status import DistributionStatus, TransferState
from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.distributions.direct import DirectFileDistribution
from mesh.distributions.service import MeshFileDistribution
from mesh.errors import InvalidScope, UnknownDistribution
from mesh.network.peers import Peers


class MissingBlob(Struct, frozen=True):
    """A blob that this node distributes and does not hold.

    Attributes:
        distribution_ids: the distributions of this node that wait for it, the oldest first.
    """

    token: BlobToken
    distribution_ids: list[str]


async def missing_blobs(
    services: Iterable[MeshFileDistribution | DirectFileDistribution], attachments: Attachments, peers: Peers
) -> list[MissingBlob]:
    """See :meth:`mesh.Node.missing_blobs`."""
    missing: dict[str, MissingBlob] = {}
    elsewhere: set[str] = set()
    for service in services:
        for record in sorted(service.own_live(), key=lambda r: (r.created_at, r.distribution_id)):
            hash = record.token.hash
            if await attachments.exists(hash):
                continue
            try:
                status = await service.status(record.distribution_id)
            except (UnknownDistribution, InvalidScope):  # removed meanwhile; published by a newer version
                continue
            if any(_has_it(status, peer) for peer in peers.links):
                elsewhere.add(hash)
            elif not status.is_complete:
                found = missing.setdefault(hash, MissingBlob(record.token, []))
                found.distribution_ids.append(record.distribution_id)
    return [found for hash, found in missing.items() if hash not in elsewhere]


def _has_it(status: DistributionStatus, peer: str) -> bool:
    target = status.node_statuses.get(peer)
    return target is not None and target.status is TransferState.COMPLETED
