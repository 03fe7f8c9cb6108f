"""The gateway: one node of the mesh over HTTP, for web apps, people and monitoring.

    async with Node("hq") as node, Gateway(node, "127.0.0.1:8080") as gateway:
        print(gateway.url)                       # http://127.0.0.1:8080

Off unless asked for: ``mesh up --gateway HOST:PORT [--gateway-token-file FILE] [--gateway-origin URL]``.

Who is let in
    On loopback everybody on this machine; elsewhere who has the token, as ``Authorization: Bearer TOKEN`` or,
    where a browser cannot set headers (``EventSource``, ``WebSocket``, a download), as ``?access_token=``.
    The ``Host`` must be an IP address, ``localhost`` or the host listened on; an ``Origin`` must be that of
    the gateway itself or one that was allowed. ``/healthz`` and the pages that an application adds need no
    token.

Answers are JSON. What fails answers ``{"error": {"type": "DocumentNotFound", "message": "...", "attributes":
{...}}}`` with a fitting status: 400 malformed, 401 no token, 403 not allowed, 404 not here, 409 exists, 413
too large, 416 no such range, 422 cannot be stored or done, 502/504 a fetch failed or took too long, 503 the
node is closing, 507 the disk is full. The whole in detail: ``GET /api/openapi.json``.

    GET    /api/node                                {node_id, name, address, mesh_id, version}
    GET    /api/nodes                               {nodes: [node document...], standings: {node_id: role}}
    GET    /api/presence                            Presence: links of this node, with RTT and bytes
    GET    /api/stats                               Stats

    GET    /api/collections                         {collections: {name: count}}
    GET    /api/collections/{c}/documents           ?selector=JSON&sort=JSON&limit=1000&skip=0&fields=a,b.c
                                                    {documents: [...]}
    POST   /api/collections/{c}/documents           a document, its _id optional -> 201 {_id}; 409 if taken
    GET    /api/collections/{c}/documents/{id}      the document
    PUT    /api/collections/{c}/documents/{id}      replaces or adds; ?merge=true merges or adds -> {_id}
    PATCH  /api/collections/{c}/documents/{id}      merges fields; 404 if it is not here -> {_id}
    DELETE /api/collections/{c}/documents/{id}      -> {removed: 1}; 404 if it is not here

    GET    /api/distributions                       {distributions: [Listed...]}
    POST   /api/distributions                       {token | hash, scope, priority?, expires_in?, supersedes?}
                                                    -> 201 {handle, token, nodes_in_scope}
    POST   /api/distributions/dry-run               {scope} -> {node_ids: [...]}
    GET    /api/distributions/{id}                  Listed
    POST   /api/distributions/{id}/cancel           -> {distribution_id}
    POST   /api/distributions/{id}/retry            -> {distribution_id}

        Listed: {status: DistributionStatus, name, size_bytes, publisher, heard_at}. Scopes as in documents:
        {"type": "all"}, {"type": "formation", "formation_id"}, {"type": "nodes", "node_ids"},
        {"type": "capable", "min_gpu_gb"?, "cpu_arch"?, "min_storage_mb"?, "tags"?}; node names will do for
        ids. Priorities: "critical", "high", "normal", "low".

    PUT    /blobs                                   the bytes; ?name=; Content-Type is kept -> 201 BlobToken
    PUT    /blobs/{hash}                            the same; 422 if the bytes have another hash
    GET    /blobs/{hash}                            the bytes; Range, If-Range, ETag, If-None-Match, HEAD.
                                                    ?token=JSON fetches it from the mesh first, if need be,
                                                    for ?timeout=60 seconds
    GET    /blobs/{hash}/progress?token=JSON        server-sent events: joins, or starts, the fetch of a
                                                    token; "progress" events, each a BlobProgress; the last
                                                    one's state is "completed" or "failed"

    GET    /healthz                                 {"status": "ok"}
    GET    /metrics                                 Prometheus text
    GET    /api/openapi.json                        OpenAPI 3.1

Live: ``GET /api/live?subscribe=JSON&subscribe=JSON...`` answers server-sent events. Each ``subscribe`` is

    {"kind": "documents", "collection": "cars", "selector"?: {...}, "sort"?: [...], "limit"?: 100}
    {"kind": "distributions"}
    {"kind": "distribution", "id": "..."}
    {"kind": "presence", "every"?: 2.0}             every: seconds, for RTT and byte counts
    {"kind": "stats", "every"?: 2.0}

    and is answered by events whose ``data`` says with ``of`` which one they are about (0 is the first):

    event: snapshot  data: {of, documents: [...]}                         in order
                           {of, distributions: [Listed...]}
                           {of, status: DistributionStatus}
                           {of, presence: Presence}     {of, stats: Stats}
    event: change    data: {of, inserted: [...], updated: [...], removed: [ids], order?: [ids]}
                           {of, changed: [Listed...], removed: [distribution ids]}
                           {of, status} {of, presence} {of, stats}
    event: end       data: {of}                         nothing follows, e.g. a distribution is complete
    event: error     data: {of, error: {...}}           nothing follows of this one
    event: bye       data: {}                           the gateway closes; an EventSource comes back itself

    The snapshot comes first, then what changes: what a slow reader has not taken yet is merged. ``order`` is
    there if ``sort`` or ``limit`` is. In silence a comment comes every 15 seconds.

Yjs: ``ws://.../yjs/{collection}/{id}`` speaks y-websocket (sync and awareness): ``new WebsocketProvider(
"ws://127.0.0.1:8080/yjs/notes", "n1", doc, {params: {access_token}})``. The root map ``doc`` holds the
fields under JSON Pointers (``doc.getMap("doc").set("/title", "Plan")``); texts and arrays of other names
are for collaborative editing. See :mod:`mesh.gateway.yjs` for its close codes; a browser that is told 4410
holds a document that was removed, and starts afresh with a new ``Y.Doc``.
"""

from __future__ import annotations

from mesh.gateway.gateway import Gateway

__all__ = ["Gateway"]
