"""Control methods about who belongs to the mesh."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mesh.control.lookup import find_node
from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served
from mesh.core.identity import is_node_id
from mesh.errors import MeshError

Texts = Annotated[list[Text], Meta(max_length=64)]


@METHODS.add("node.invite")
async def invite(
    served: Served,
    *,
    role: Text,
    collections: Texts,
    write: Texts | None,
    uses: int,
    ttl: float,
    addresses: Texts,
) -> str:
    """``Node.invite()``: the token."""
    return await served.node.invite(
        role=role, uses=uses, ttl=ttl, collections=collections, write=write, addresses=addresses
    )


@METHODS.add("node.revoke")
async def revoke(served: Served, *, node_id: Text) -> str:
    """``Node.revoke()`` of a node, by the start of its id or its name if it is known here; the whole id."""
    names = [(member["_id"], member.get("name", "")) for member in await served.node.members()]
    names += [(known, "") for known in served.node.standings()]  # who was revoked has no document any more
    whole = find_node(node_id, names)
    if whole is None and is_node_id(node_id):
        whole = node_id
    if whole is None:
        raise MeshError(
            f"no node {node_id!r} is known here: `mesh members` lists who is, and those that were revoked by "
            "their ids alone; or give its whole id"
        )
    await served.node.revoke(whole)
    return whole


@METHODS.add("node.standings")
async def standings(served: Served) -> dict[str, str]:
    """``Node.standings()``."""
    return served.node.standings()
