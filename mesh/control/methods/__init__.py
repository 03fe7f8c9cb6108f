"""The control methods: what another process of this user can ask a running node to do."""

from __future__ import annotations

from mesh.control.methods import attachments, deliveries, distributions, documents, membership, node
from mesh.control.methods.distributions import Listed
from mesh.control.methods.table import METHODS

__all__ = [
    "METHODS",
    "Listed",
    "attachments",
    "deliveries",
    "distributions",
    "documents",
    "membership",
    "node",
]
