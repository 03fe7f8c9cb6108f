"""Which owned documents the mesh is asked for: what publishing, watching and relaying need, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from mesh.core.receipts import DistributionRecord
from mesh.core.scopes import nodes_selector
from mesh.distributions.ports import NODES, RECEIPTS, OwnedDocuments, Selector
from mesh.errors import InvalidScope

Wanted = dict[tuple[str, str], Selector]
"""Selectors by collection and name."""


def wanted_documents(
    node_id: str,
    *,
    hub: bool,
    published: Iterable[DistributionRecord],
    live: Iterable[DistributionRecord],
    watched: Iterable[str],
) -> Wanted:
    """What this node needs of ``receipts`` and ``nodes``.

    Args:
        published: what this node has published; ``live`` of it may still find new targets.
        watched: distributions of others whose status somebody follows here.
    """
    if hub:
        return {(RECEIPTS, "hub"): {}, (NODES, "hub"): {}}
    wanted: Wanted = {}
    if any(True for _ in published):
        wanted[RECEIPTS, "published"] = {"publisher": node_id}
    for record in live:
        try:
            selector = nodes_selector(record.parsed_scope())
        except InvalidScope:
            continue  # published by a newer version of this node: nobody here can tell who matches
        wanted[NODES, f"targets:{msgspec.json.encode(selector, order='sorted').decode()}"] = selector
    for distribution_id in watched:
        wanted[RECEIPTS, f"watched:{distribution_id}"] = {"distribution_id": distribution_id}
    return wanted


class Wants:
    """Keeps the mesh told of what is wanted now."""

    def __init__(self, documents: OwnedDocuments) -> None:
        self._documents = documents
        self._told: Wanted = {}
        self._lock = asyncio.Lock()

    async def tell(self, wanted: Wanted) -> None:
        """Ask for what is new in ``wanted``, withdraw what is no longer in it."""
        async with self._lock:
            for (collection, name), selector in wanted.items():
                if self._told.get((collection, name)) != selector:
                    await self._documents.want(collection, name, selector)
                    self._told[collection, name] = selector
            for collection, name in self._told.keys() - wanted.keys():
                await self._documents.want(collection, name, None)
                del self._told[collection, name]
