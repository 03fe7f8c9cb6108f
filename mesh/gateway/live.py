"""What clients may follow live: the result of a query, distributions, presence and totals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from mesh.control.methods import distributions as control
from mesh.control.methods.distributions import Listed
from mesh.control.registry import Served
from mesh.core.structs import Struct
from mesh.errors import MeshError
from mesh.gateway.answers import BadRequest, told
from mesh.gateway.api import Sort
from mesh.gateway.events import Encoded, Event
from mesh.gateway.shared import SharedQueries
from mesh.node.presence import Presence, Stats
from mesh.streams import Stream

MAX_SUBSCRIPTIONS = 32
"""Of one stream."""

EXAMPLE = 'subscribe={"kind":"documents","collection":"cars","selector":{"year":{"$gt":2010}}}'

Every = Annotated[float, Meta(ge=0.1, le=3600)]


class _Kind(Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """What is followed."""


class FollowDocuments(_Kind, frozen=True, tag="documents"):
    """The result of a query."""

    collection: str
    selector: dict[str, Any] | None = None
    sort: Sort | None = None
    limit: Annotated[int, Meta(ge=0)] | None = None


class FollowDistributions(_Kind, frozen=True, tag="distributions"):
    """All distributions that are known here."""


class FollowDistribution(_Kind, frozen=True, tag="distribution"):
    """The status of one distribution, until nothing more happens."""

    id: str


class FollowPresence(_Kind, frozen=True, tag="presence"):
    """The links of the node. ``every``: also each so many seconds, as their figures move."""

    every: Every | None = None


class FollowNeighbours(_Kind, frozen=True, tag="neighbours"):
    """The links of the node's neighbours, which are asked for them."""


class FollowStats(_Kind, frozen=True, tag="stats"):
    """Totals, each so many seconds."""

    every: Every = 2.0


Subscribed = (
    FollowDocuments
    | FollowDistributions
    | FollowDistribution
    | FollowPresence
    | FollowNeighbours
    | FollowStats
)


def parse(texts: list[str]) -> list[Subscribed]:
    """What a client asks for.

    Raises:
        BadRequest: it is malformed, or too much.
    """
    if not 0 < len(texts) <= MAX_SUBSCRIPTIONS:
        raise BadRequest(f"subscribe=JSON is needed, 1 to {MAX_SUBSCRIPTIONS} times: {EXAMPLE}")
    try:
        return [msgspec.json.decode(text, type=Subscribed) for text in texts]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"subscribe: {error}; it is like {EXAMPLE}") from error


async def follow(
    served: Served, queries: SharedQueries, subscribed: Subscribed, of: int
) -> AsyncGenerator[Event]:
    """The events of one subscription: the snapshot, what changes, and how it ends."""
    name = "snapshot"
    try:
        async with aclosing(_changes(served, queries, subscribed)) as changes:
            async for change in changes:
                if isinstance(change, memoryview):
                    yield name, Encoded(b'{"of":%d,' % of, change)
                else:
                    yield name, {"of": of, **change}
                del change  # while nothing happens, nothing is kept of what did
                name = "change"
        yield "end", {"of": of}
    except MeshError as error:
        yield "error", {"of": of, "error": told(error)}


def _changes(
    served: Served, queries: SharedQueries, subscribed: Subscribed
) -> AsyncGenerator[dict[str, Any]] | AsyncGenerator[memoryview]:
    if isinstance(subscribed, FollowDocuments):
        asked = subscribed
        return queries.follow(asked.collection, asked.selector, asked.sort, asked.limit)
    if isinstance(subscribed, FollowDistributions):
        return _distributions(served)
    if isinstance(subscribed, FollowDistribution):
        return _distribution(served, subscribed.id)
    if isinstance(subscribed, FollowPresence):
        stream = served.node.observe_presence()
        return _sampled("presence", stream, served.node.presence, subscribed.every)
    if isinstance(subscribed, FollowNeighbours):
        return _neighbours(served)
    totals: Stream[Stats] = Stream(merge=lambda older, newer: newer)
    totals.push(served.node.stats())
    return _sampled("stats", totals, served.node.stats, subscribed.every)


async def _distributions(served: Served) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(cast(Any, control.watch_distributions(served))) as lists:
        told: dict[str, Listed] | None = None
        async for listed in lists:
            now = {one.status.handle.distribution_id: one for one in listed}
            if told is None:
                yield {"distributions": listed}
            else:
                changed = [one for id, one in now.items() if told.get(id) != one]
                removed = [id for id in told if id not in now]
                if changed or removed:
                    yield {"changed": changed, "removed": removed}
            told = now


async def _distribution(served: Served, id: str) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(cast(Any, control.progress(served, id=id))) as statuses:
        async for status in statuses:
            yield {"status": status}


async def _neighbours(served: Served) -> AsyncGenerator[dict[str, Any]]:
    async with served.node.observe_neighbours() as changes:
        async for neighbours in changes:
            links = {
                one.node_id: [{"node_id": link.node_id, "rtt": link.rtt} for link in one.links]
                for one in neighbours
            }
            yield {"neighbours": links}


async def _sampled(
    name: str, stream: Stream[Any], sample: Callable[[], Presence | Stats], every: float | None
) -> AsyncGenerator[dict[str, Any]]:
    """What a stream tells, and what ``sample`` gives each so many seconds, unless it is what was told."""
    loop = asyncio.get_running_loop()
    told: Presence | Stats | None = None
    timer: asyncio.TimerHandle | None = None

    def again(seconds: float) -> None:
        nonlocal timer
        timer = loop.call_later(seconds, take, seconds)

    def take(seconds: float) -> None:
        stream.push(sample())
        again(seconds)

    if every is not None:
        again(every)
    try:
        async with stream:
            async for one in stream:
                if one != told:
                    told = one
                    yield {name: one}
    finally:
        if timer is not None:
            timer.cancel()
