"""Control methods about distributions: those of others, too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mesh.control.lookup import find_node, unique
from mesh.control.methods.attachments import held
from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served
from mesh.core.identity import is_node_id
from mesh.core.scopes import DistributionScope, Nodes, parse_scope
from mesh.core.status import DistributionStatus, TransferPriority
from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.errors import InvalidScope, MeshError

if TYPE_CHECKING:
    from mesh import Change, Stream

Priority = Literal["critical", "high", "normal", "low"]


class Listed(Struct, frozen=True):
    """A distribution in a list: its status; who published it, and its file's name and size, if known here;
    asked for by itself, also when its targets were last heard of, by the clock here."""

    status: DistributionStatus
    name: str | None
    size_bytes: int | None
    publisher: str | None
    heard_at: dict[str, float] = {}


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
    """Add the file at ``path`` (or take the held blob ``hash``) and distribute it: its handle and token,
    and how many of the nodes known here are in the scope now."""
    if (path is None) == (hash is None):
        raise MeshError("distribute either a path or a hash")
    checked = await whole_scope(served, scope)
    if supersedes is not None:
        supersedes = await _distribution(served, supersedes)
    attachments = served.node.attachments
    token = await held(served, hash) if hash is not None else await attachments.add(Path(path or ""))
    handle = await served.node.distributions.distribute(
        token, checked, TransferPriority[priority.upper()], expires_in=expires_in, supersedes=supersedes
    )
    in_scope = await served.node.distributions.dry_run(checked)
    return {"handle": handle, "token": token, "nodes_in_scope": len(in_scope)}


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
    distributions, whole = served.node.distributions, await _distribution(served, id)
    listed = await _with_token(served, await distributions.status(whole))
    return msgspec.structs.replace(listed, heard_at=await distributions.heard_at(whole))


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


async def whole_scope(served: Served, plain: dict[str, Any]) -> DistributionScope:
    """The scope, with names and abbreviated ids of nodes made whole: they would wait for ever for nobody.

    A whole id may be of a node that is not known here yet.
    """
    scope = parse_scope(plain)
    if not isinstance(scope, Nodes):
        return scope
    names = [(member["_id"], member.get("name", "")) for member in await served.node.members()]
    return Nodes(list(dict.fromkeys(_node(typed, names) for typed in scope.node_ids)))


def _node(typed: str, names: list[tuple[str, str]]) -> str:
    found = find_node(typed, names)
    if found is None and not is_node_id(typed):
        raise InvalidScope(
            f"no node {typed!r} is known here: give the name or the id of one that `mesh members` lists, "
            "or the whole id (52 characters) of one that is still to come"
        )
    return found or typed


async def _distribution(served: Served, id: str) -> str:
    handles = await served.node.distributions.handles()
    return unique(id, [handle.distribution_id for handle in handles], "distribution")


async def _listed(served: Served) -> list[Listed]:
    distributions = served.node.distributions
    found = sorted(await distributions.handles(), key=lambda handle: handle.started_at)
    return [await _with_token(served, await distributions.status(handle)) for handle in found]


async def _with_token(served: Served, status: DistributionStatus) -> Listed:
    document = await served.node.collection("distributions").get(status.handle.distribution_id) or {}
    publisher = document.get("publisher")
    if "token" not in document:
        return Listed(status, None, None, publisher)
    token = BlobToken.from_dict(document["token"])
    return Listed(status, token.metadata.name, token.size_bytes, publisher)


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
