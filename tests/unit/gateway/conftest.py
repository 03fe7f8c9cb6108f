from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from mesh import Node
from mesh.gateway import Gateway


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with Node(name="hub") as node:
        yield node


@pytest.fixture
async def gateway(node: Node) -> AsyncIterator[Gateway]:
    async with Gateway(node) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        yield client
