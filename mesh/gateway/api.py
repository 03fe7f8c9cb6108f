"""The endpoints of the API: the node, its documents and its distributions."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from mesh.control.methods import distributions as control
from mesh.control.methods.attachments import held
from mesh.control.methods.distributions import Listed, Priority, whole_scope
from mesh.control.registry import Served
from mesh.core.status import DistributionHandle, TransferPriority
from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.errors import DocumentNotFound, InvalidDocument
from mesh.gateway.answers import BadRequest
from mesh.gateway.endpoints import EndpointTable
from mesh.node.presence import Presence, Stats
from mesh.storage.authors import LastChange
from mesh.version import VERSION

API = EndpointTable()

MAX_FOUND = 10_000
"""Documents in one answer."""

Document = dict[str, Any]
Sort = list[str | dict[str, str]]


class NodeInfo(Struct, frozen=True):
    """The node that the gateway belongs to. ``mesh_id``: ``null`` in an open mesh."""

    node_id: str
    name: str
    address: str | None
    mesh_id: str | None
    version: str


class KnownNodes(Struct, frozen=True):
    """The node documents that are known here, and the roles of this node and its peers in a closed mesh."""

    nodes: list[Document]
    standings: dict[str, str]


class Collections(Struct, frozen=True):
    """How many documents each collection has here."""

    collections: dict[str, int]


class Unsynced(Struct, frozen=True):
    """By collection: how many documents nobody else is known to hold as this node has written them."""

    collections: dict[str, int]


class Query(Struct, frozen=True, forbid_unknown_fields=True):
    """What to find, in which order, and how much of it; ``fields``: only these."""

    selector: dict[str, Any] | None = None
    sort: Sort | None = None
    limit: Annotated[int, Meta(ge=0, le=MAX_FOUND)] = 1000
    skip: Annotated[int, Meta(ge=0)] = 0
    fields: list[str] | None = None


class Found(Struct, frozen=True):
    """The documents that a query selects, in order."""

    documents: list[Document]


class Written(Struct, frozen=True):
    """The document that was written."""

    _id: str


class Removed(Struct, frozen=True):
    """How many documents were removed."""

    removed: int


class Distributions(Struct, frozen=True):
    """Every distribution that is known here, the oldest first."""

    distributions: list[Listed]


class Scope(Struct, frozen=True):
    """For which nodes: see the schema of distributions. Names of nodes will do for ids."""

    scope: dict[str, Any]


class NewDistribution(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be distributed: a token, or the hash of a blob that is held here."""

    scope: dict[str, Any]
    token: BlobToken | None = None
    hash: str | None = None
    priority: Priority = "normal"
    expires_in: Annotated[float, Meta(gt=0)] | None = None
    supersedes: str | None = None


class Distributed(Struct, frozen=True):
    """A new distribution, and how many of the nodes that are known here are in its scope."""

    handle: DistributionHandle
    token: BlobToken
    nodes_in_scope: int


class InScope(Struct, frozen=True):
    """The nodes that are known here and match."""

    node_ids: list[str]


class Named(Struct, frozen=True):
    """The distribution that something was done to."""

    distribution_id: str


# --- the node -------------------------------------------------------------------------------------


@API.add("GET", "/api/node")
async def node_info(served: Served) -> NodeInfo:
    """Who the node is, and where peers reach it."""
    node = served.node
    return NodeInfo(node.node_id, node.name, node.address, node.mesh_id, VERSION)


@API.add("GET", "/api/nodes")
async def nodes(served: Served) -> KnownNodes:
    """The nodes that are known here."""
    return KnownNodes(await served.node.members(), served.node.standings())


@API.add("GET", "/api/presence")
async def presence(served: Served) -> Presence:
    """The links of the node."""
    return served.node.presence()


@API.add("GET", "/api/stats")
async def stats(served: Served) -> Stats:
    """Totals since the node started."""
    return served.node.stats()


# --- documents ------------------------------------------------------------------------------------


@API.add("GET", "/api/collections")
async def collections(served: Served) -> Collections:
    """The collections that have documents here."""
    return Collections(await served.node.collections())


@API.add("GET", "/api/unsynced")
async def unsynced(served: Served) -> Unsynced:
    """What would be lost with this node: its changes that no peer that asks for them is known to hold."""
    return Unsynced(await served.node.unsynced())


@API.add("GET", "/api/collections/{collection}/documents")
async def find(
    served: Served,
    *,
    collection: str,
    selector: dict[str, Any] | None = None,
    sort: Sort | None = None,
    limit: Annotated[int, Meta(ge=0, le=MAX_FOUND)] = 1000,
    skip: Annotated[int, Meta(ge=0)] = 0,
    fields: str | None = None,
) -> Found:
    """Documents, by a Mango selector. ``fields``: only these, with commas between them."""
    return Found(
        await served.node.collection(collection).find(
            selector, sort=sort, limit=limit, skip=skip, fields=None if fields is None else fields.split(",")
        )
    )


@API.add("POST", "/api/collections/{collection}/query")
async def query(served: Served, *, collection: str, body: Query) -> Found:
    """Documents, by a Mango selector that may be too large for an address."""
    return Found(
        await served.node.collection(collection).find(
            body.selector, sort=body.sort, limit=body.limit, skip=body.skip, fields=body.fields
        )
    )


@API.add("POST", "/api/collections/{collection}/documents", 201)
async def insert(served: Served, *, collection: str, body: Document) -> Written:
    """Add a document; one without an ``_id`` is given one."""
    return Written(await served.node.collection(collection).insert(body))


@API.add("GET", "/api/collections/{collection}/documents/{id}")
async def get(served: Served, *, collection: str, id: str) -> Document:
    """One document."""
    document = await served.node.collection(collection).get(id)
    if document is None:
        raise DocumentNotFound(collection, id)
    return document


@API.add("GET", "/api/collections/{collection}/last-changes/{id}")
async def last_change(served: Served, *, collection: str, id: str) -> LastChange:
    """When the document last changed here, and which nodes made that change, also if it was removed."""
    change = await served.node.collection(collection).last_change(id)
    if change is None:
        raise DocumentNotFound(collection, id)
    return change


@API.add("PUT", "/api/collections/{collection}/documents/{id}")
async def put(served: Served, *, collection: str, id: str, body: Document, merge: bool = False) -> Written:
    """Make a document read exactly so, or add it. ``merge``: leave fields alone that are not in the body."""
    documents, document = served.node.collection(collection), _with_id(body, id)
    return Written(await (documents.upsert(document) if merge else documents.replace(document)))


@API.add("PATCH", "/api/collections/{collection}/documents/{id}")
async def patch(served: Served, *, collection: str, id: str, body: Document) -> Written:
    """Merge fields into a document that is here."""
    await served.node.collection(collection).update(id, body)
    return Written(id)


@API.add("DELETE", "/api/collections/{collection}/documents/{id}")
async def remove(served: Served, *, collection: str, id: str) -> Removed:
    """Remove a document; the removal syncs."""
    removed = await served.node.collection(collection).remove(id)
    if not removed:
        raise DocumentNotFound(collection, id)
    return Removed(removed)


def _with_id(document: Document, id: str) -> Document:
    if document.get("_id", id) != id:
        raise InvalidDocument("the _id of a document never changes", "/_id")
    return {**document, "_id": id}


# --- distributions --------------------------------------------------------------------------------


@API.add("GET", "/api/distributions")
async def distributions(served: Served) -> Distributions:
    """Every distribution that is known here, with its status."""
    return Distributions(await control.distributions(served))


@API.add("POST", "/api/distributions", 201)
async def distribute(served: Served, *, body: NewDistribution) -> Distributed:
    """Distribute a blob."""
    if (body.token is None) == (body.hash is None):
        raise BadRequest("distribute either a token or the hash of a blob that is held here")
    scope = await whole_scope(served, body.scope)
    token = body.token or await held(served, body.hash or "")
    handle = await served.node.distributions.distribute(
        token,
        scope,
        TransferPriority[body.priority.upper()],
        expires_in=body.expires_in,
        supersedes=body.supersedes,
    )
    return Distributed(handle, token, len(await served.node.distributions.dry_run(scope)))


@API.add("POST", "/api/distributions/dry-run")
async def dry_run(served: Served, *, body: Scope) -> InScope:
    """Who would get it now, of the nodes that are known here."""
    scope = await whole_scope(served, body.scope)
    return InScope(await served.node.distributions.dry_run(scope))


@API.add("POST", "/api/distributions/{id}/cancel")
async def cancel(served: Served, *, id: str) -> Named:
    """Stop a distribution of this node, everywhere."""
    return Named(await control.cancel(served, id=id))


@API.add("POST", "/api/distributions/{id}/retry")
async def retry(served: Served, *, id: str) -> Named:
    """Have the targets of a distribution of this node try again that failed."""
    return Named(await control.retry(served, id=id))


@API.add("GET", "/api/distributions/{id}")
async def distribution(served: Served, *, id: str) -> Listed:
    """One distribution, with its status."""
    return await control.status(served, id=id)
