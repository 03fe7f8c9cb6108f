"""Reads server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

Event = tuple[str, dict[str, Any]]


@asynccontextmanager
async def events(
    client: httpx.AsyncClient, path: str, params: Mapping[str, Any] | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    async with client.stream("GET", path, params=params) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        yield _read(response)


async def _read(response: httpx.Response) -> AsyncIterator[Event]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@asynccontextmanager
async def live(client: httpx.AsyncClient, *subscribe: dict[str, Any]) -> AsyncIterator[AsyncIterator[Event]]:
    async with events(client, "/api/live", {"subscribe": [json.dumps(one) for one in subscribe]}) as found:
        yield found
