"""Queries that clients follow: what asks the same is observed once, and encoded once for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from weakref import ref

import msgspec

from mesh.core.changes import Change, merge_changes, snapshot
from mesh.errors import MeshError
from mesh.gateway.answers import TooMany
from mesh.node.node import Node
from mesh.streams import Stream

MAX_FOLLOWED_BYTES = 128 << 20
"""Results that are followed, as JSON when they were last sent whole: the node has them in memory."""


class _News:
    """A change, as JSON without its opening brace; put together once for all that are told just this."""

    def __init__(self, change: Change, *, first: bool, in_order: bool) -> None:
        self.change = change
        self.first = first
        self._in_order = in_order
        self._is_merged = False
        self._body: ref[memoryview] | None = None

    @property
    def body(self) -> memoryview:
        """Kept for as long as it is on its way to anybody."""
        body = self._body() if self._body is not None else None
        if body is None:
            body = memoryview(msgspec.json.encode(self._plain()))[1:]
            self._body = ref(body)
        return body

    def _plain(self) -> dict[str, Any]:
        change = self.change
        if self.first:
            return {"documents": change.documents}
        told: dict[str, Any] = {
            "inserted": change.inserted,
            "updated": change.updated,
            "removed": change.removed,
        }
        if self._in_order:
            told["order"] = [document["_id"] for document in change.documents]
        return told

    def followed_by(self, newer: _News) -> _News | None:
        """What takes a client where both would have; this one may be on its way to others, too."""
        merged = self
        if not self._is_merged:
            merged = _News(self.change.copy(), first=self.first, in_order=self._in_order)
            merged._is_merged = True
        return None if merge_changes(merged.change, newer.change) is None else merged


class _Query:
    """One query, and the clients that follow it."""

    def __init__(self, changes: Stream[Change], *, in_order: bool) -> None:
        self._changes = changes
        self._in_order = in_order
        self.size = 0
        self._clients: set[Stream[_News]] = set()
        self._now: Change | None = None
        self._snapshot: _News | None = None
        self._failure: MeshError | None = None
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            async for change in self._changes:
                first, self._now, self._snapshot = self._now is None, change, None
                news = _News(change, first=first, in_order=self._in_order)
                for client in self._clients:
                    client.push(news)
        except MeshError as error:
            self._failure = error
        for client in self._clients:
            client.finish(self._failure)

    def join(self) -> Stream[_News]:
        """Tells one client: the snapshot, then every change, coalesced if it is slow."""
        client: Stream[_News] = Stream(merge=_News.followed_by)
        if self._now is not None:
            if self._snapshot is None:
                self._snapshot = _News(snapshot(self._now.documents), first=True, in_order=self._in_order)
            client.push(self._snapshot)
        if self._following.done():
            client.finish(self._failure)
        self._clients.add(client)
        return client

    def leave(self, client: Stream[_News]) -> bool:
        """One goes; whether nobody is left."""
        self._clients.discard(client)
        return not self._clients

    async def close(self) -> None:
        """Stop."""
        self._following.cancel()
        await asyncio.wait([self._following])
        await self._changes.aclose()


class SharedQueries:
    """The queries that the clients of one gateway follow."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._queries: dict[bytes, _Query] = {}

    async def follow(
        self,
        collection: str,
        selector: dict[str, Any] | None,
        sort: list[str | dict[str, str]] | None,
        limit: int | None,
    ) -> AsyncGenerator[memoryview]:
        """The result of a query, then every change of it, each as JSON without its opening brace.

        Raises:
            MeshError: it cannot be followed.
        """
        key = msgspec.json.encode((collection, selector, sort, limit))
        query = self._queries.get(key)
        if query is None:
            changes = self._node.collection(collection).observe(selector, sort=sort, limit=limit)
            query = self._queries[key] = _Query(changes, in_order=sort is not None or limit is not None)
        client = query.join()
        try:
            async for news in client:
                body = news.body
                if news.first:
                    query.size = len(body)
                    self._check()
                yield body
                del news, body  # while nothing happens, nothing is kept of what did
        finally:
            await client.aclose()
            if query.leave(client):
                del self._queries[key]
                await query.close()

    def _check(self) -> None:
        if sum(query.size for query in self._queries.values()) > MAX_FOLLOWED_BYTES:
            raise TooMany(
                f"over {MAX_FOLLOWED_BYTES} bytes are followed here: follow less, with a limit or a narrower "
                "selector, or come back later"
            )
