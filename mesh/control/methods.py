"""The control methods: what another process of this user can ask a running node to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from mesh.control.lookup import unique
from mesh.control.registry import MethodTable, Served
from mesh.core.scopes import DistributionScope, Nodes, parse_scope
from mesh.core.status import DistributionStatus, TransferPriority
from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.errors import BlobNotFound, MeshError
from mesh.node.presence import Presence, Stats
from mesh.version import VERSION

if TYPE_CHECKING:
    from mesh import Change, Delivery, Stream

Text = Annotated[str, Meta(max_length=4096)]
Selector = dict[str, Any] | None
Priority = Literal["critical", "high", "normal", "low"]

METHODS = MethodTable()


# --- the node ---------------------------------------------------------------------------------


@METHODS.add("node.info")
async def info(served: Served) -> dict[str, Any]:
    """Who the node is and where it listens."""
    node = served.node
    return {
        "node_id": node.node_id,
        "name": node.name,
        "address": node.address,
        "pid": os.getpid(),
        "version": VERSION,
    }


@METHODS.add("node.stats")
async def stats(served: Served) -> Stats:
    """``Node.stats()``."""
    return served.node.stats()


@METHODS.add("node.presence")
async def presence(served: Served) -> Presence:
    """``Node.presence()``."""
    return served.node.presence()


@METHODS.add("node.observe_presence")
async def observe_presence(
    served: Served, *, every: Annotated[float, Meta(ge=0.1)] | None = None
) -> AsyncIterator[Presence]:
    """``Node.observe_presence()``; with ``every``, also each so many seconds: round-trip times and byte
    counts move although no link comes or goes."""
    loop = asyncio.get_running_loop()
    async with served.node.observe_presence() as stream:
        timer: asyncio.TimerHandle | None = None

        def sample() -> None:
            nonlocal timer
            stream.push(served.node.presence())
            timer = loop.call_later(every or 0, sample)

        if every is not None:
            timer = loop.call_later(every, sample)
        try:
            async for each in stream:
                yield each
        finally:
            if timer is not None:
                timer.cancel()


@METHODS.add("node.members")
async def members(served: Served) -> list[dict[str, Any]]:
    """``Node.members()``."""
    return await served.node.members()


@METHODS.add("node.connect")
async def connect(served: Served, *, url: Text) -> str:
    """``Node.connect()``: the peer's node id."""
    return await served.node.connect(url)


@METHODS.add("node.disconnect")
async def disconnect(served: Served, *, node_id: Text) -> str:
    """``Node.disconnect()`` of a node id or the start of one; the whole id."""
    whole = unique(node_id, [peer.node_id for peer in served.node.presence().peers], "peer")
    await served.node.disconnect(whole)
    return whole


@METHODS.add("node.pause")
async def pause(served: Served) -> None:
    """``Node.pause()``."""
    await served.node.pause()


@METHODS.add("node.resume")
async def resume(served: Served) -> None:
    """``Node.resume()``."""
    await served.node.resume()


@METHODS.add("node.shutdown")
async def shutdown(served: Served) -> None:
    """Ask the node's process to end; the connection is closed when everything is released."""
    served.shutdown()


# --- documents --------------------------------------------------------------------------------


@METHODS.add("collections.list")
async def collections(served: Served) -> dict[str, int]:
    """``Node.collections()``: how many documents each has."""
    return await served.node.collections()


@METHODS.add("documents.find")
async def find(
    served: Served,
    *,
    collection: Text,
    selector: Selector = None,
    sort: list[dict[str, Literal["asc", "desc"]]] | None = None,
    limit: Annotated[int, Meta(ge=0)] | None = None,
    fields: list[Text] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """``Collection.find()``, a document at a time."""
    found = await served.node.collection(collection).find(selector, sort=sort, limit=limit, fields=fields)
    for document in found:
        yield document


@METHODS.add("documents.observe")
async def observe(
    served: Served, *, collection: Text, selector: Selector = None
) -> AsyncIterator[dict[str, Any]]:
    """``Collection.observe()``, a document at a time: ``{"change": "present"}`` for what is there at
    first, then ``inserted``, ``updated`` and ``removed`` (which has only the ``_id``)."""
    async with served.node.collection(collection).observe(selector) as changes:
        first = await anext(changes)
        for document in first.documents:
            yield {"change": "present", "document": document}
        async for change in changes:
            for document in change.inserted:
                yield {"change": "inserted", "document": document}
            for document in change.updated:
                yield {"change": "updated", "document": document}
            for id in change.removed:
                yield {"change": "removed", "document": {"_id": id}}


@METHODS.add("documents.upsert")
async def upsert(served: Served, *, collection: Text, document: dict[str, Any]) -> str:
    """``Collection.upsert()``: the document's id."""
    return await served.node.collection(collection).upsert(document)


@METHODS.add("documents.remove")
async def remove(served: Served, *, collection: Text, id: Text) -> int:
    """``Collection.remove()`` of one document: how many were removed."""
    return await served.node.collection(collection).remove(id)


@METHODS.add("documents.subscribe")
async def subscribe(served: Served, *, collection: Text, selector: Selector = None) -> None:
    """``Collection.subscribe()``; remembered across restarts."""
    await served.node.collection(collection).subscribe(selector)


# --- attachments ------------------------------------------------------------------------------


@METHODS.add("attachments.add")
async def add(served: Served, *, path: Text, name: Text | None = None) -> BlobToken:
    """``Attachments.add()`` of a file, by its absolute path."""
    return await served.node.attachments.add(Path(path), name=name)


@METHODS.add("attachments.list")
async def tokens(served: Served) -> list[BlobToken]:
    """``Attachments.tokens()``."""
    return await served.node.attachments.tokens()


@METHODS.add("attachments.export")
async def export(served: Served, *, hash: Text, path: Text) -> BlobToken:
    """Copy a blob that is held here to the absolute ``path``; it appears there whole or not at all."""
    token = await _held(served, hash)
    try:
        await served.node.attachments.export(token.hash, path)
    except OSError as error:
        raise MeshError(f"cannot write {path}: {error.strerror}") from error
    return token


async def _held(served: Served, hash: str) -> BlobToken:
    attachments = served.node.attachments
    whole = unique(hash, [token.hash for token in await attachments.tokens()], "blob")
    token = await attachments.info(whole)
    if token is None:
        raise BlobNotFound(whole)
    return token


# --- distributions ----------------------------------------------------------------------------


class Listed(Struct, frozen=True):
    """A distribution in a list: its status, and its file's name and size where they are known here."""

    status: DistributionStatus
    name: str | None
    size_bytes: int | None


@METHODS.add("distributions.create")
async def distribute(
    served: Served,
    *,
    path: Text | None = None,
    hash: Text | None = None,
    scope: dict[str, Any],
    priority: Priority = "normal",
    expires_in: Annotated[float, Meta(gt=0)] | None = None,
    supersedes: Text | None = None,
) -> dict[str, Any]:
    """Add the file at ``path`` (or take the held blob ``hash``) and distribute it: its handle and token."""
    if (path is None) == (hash is None):
        raise MeshError("distribute either a path or a hash")
    checked = await _scope(served, scope)
    if supersedes is not None:
        supersedes = await _distribution(served, supersedes)
    attachments = served.node.attachments
    token = await _held(served, hash) if hash is not None else await attachments.add(Path(path or ""))
    handle = await served.node.distributions.distribute(
        token, checked, TransferPriority[priority.upper()], expires_in=expires_in, supersedes=supersedes
    )
    return {"handle": handle, "token": token}


@METHODS.add("distributions.list")
async def distributions(served: Served) -> list[Listed]:
    """Every distribution known here, with its status."""
    return await _listed(served)


@METHODS.add("distributions.watch")
async def watch_distributions(served: Served) -> AsyncIterator[list[Listed]]:
    """``distributions.list`` now and after every change."""
    observed = [served.node.collection(name).observe() for name in ("distributions", "receipts")]
    async with _changes(observed) as changed:
        while True:
            yield await _listed(served)
            await changed.wait()
            changed.clear()


@METHODS.add("distributions.status")
async def status(served: Served, *, id: Text) -> Listed:
    """``FileDistribution.status()``."""
    return await _with_token(served, await served.node.distributions.status(await _distribution(served, id)))


@METHODS.add("distributions.progress")
async def progress(served: Served, *, id: Text) -> AsyncIterator[DistributionStatus]:
    """``FileDistribution.subscribe_progress()``."""
    whole = await _distribution(served, id)
    await served.node.distributions.status(whole)  # an unknown one is an error here, not a silent stream
    async with served.node.distributions.subscribe_progress(whole) as statuses:
        async for each in statuses:
            yield each


@METHODS.add("distributions.cancel")
async def cancel(served: Served, *, id: Text) -> str:
    """``FileDistribution.cancel()``: the whole id."""
    whole = await _distribution(served, id)
    await served.node.distributions.cancel(whole)
    return whole


@METHODS.add("distributions.retry")
async def retry(served: Served, *, id: Text) -> str:
    """``FileDistribution.retry()``: the whole id."""
    whole = await _distribution(served, id)
    await served.node.distributions.retry(whole)
    return whole


async def _scope(served: Served, plain: dict[str, Any]) -> DistributionScope:
    """The scope, with abbreviated node ids made whole: short ones would wait for ever for nobody."""
    scope = parse_scope(plain)
    if not isinstance(scope, Nodes):
        return scope
    known = [member["_id"] for member in await served.node.members()]
    return Nodes([unique(id, known, "node") for id in scope.node_ids])


async def _distribution(served: Served, id: str) -> str:
    handles = await served.node.distributions.handles()
    return unique(id, [handle.distribution_id for handle in handles], "distribution")


async def _listed(served: Served) -> list[Listed]:
    distributions = served.node.distributions
    found = sorted(await distributions.handles(), key=lambda handle: handle.started_at)
    return [await _with_token(served, await distributions.status(handle)) for handle in found]


async def _with_token(served: Served, status: DistributionStatus) -> Listed:
    document = await served.node.collection("distributions").get(status.handle.distribution_id) or {}
    if "token" not in document:
        return Listed(status, None, None)
    token = BlobToken.from_dict(document["token"])
    return Listed(status, token.metadata.name, token.size_bytes)


@contextlib.asynccontextmanager
async def _changes(observed: Iterable[Stream[Change]]) -> AsyncIterator[asyncio.Event]:
    """An event that is set whenever one of the streams has something new."""
    changed = asyncio.Event()

    async def follow(stream: Stream[Change]) -> None:
        async with stream:
            async for _ in stream:
                changed.set()

    followers = [asyncio.create_task(follow(stream)) for stream in observed]
    try:
        yield changed
    finally:
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)


# --- deliveries -------------------------------------------------------------------------------


@METHODS.add("deliveries.watch")
async def deliveries(served: Served) -> AsyncIterator[dict[str, Any]]:
    """``Node.deliveries()``: what waits for this node's decision, and what comes in later."""
    async with served.node.deliveries() as stream:
        async for delivery in stream:
            yield {
                "distribution_id": delivery.distribution_id,
                "publisher": delivery.publisher,
                "token": delivery.token,
                "priority": delivery.priority,
            }


@METHODS.add("deliveries.accept")
async def accept(served: Served, *, id: Text) -> str:
    """``Delivery.accept()``: the whole distribution id."""
    delivery = _delivery(served, id)
    await delivery.accept()
    served.deliveries.pop(delivery.distribution_id, None)
    return delivery.distribution_id


@METHODS.add("deliveries.reject")
async def reject(served: Served, *, id: Text, reason: Text) -> str:
    """``Delivery.reject()``: the whole distribution id."""
    delivery = _delivery(served, id)
    await delivery.reject(reason)
    served.deliveries.pop(delivery.distribution_id, None)
    return delivery.distribution_id


def _delivery(served: Served, id: str) -> Delivery:
    whole = unique(id, served.deliveries, "delivery")
    if whole not in served.deliveries:
        raise MeshError(f"no delivery {id} waits for a decision here")
    return served.deliveries[whole]
