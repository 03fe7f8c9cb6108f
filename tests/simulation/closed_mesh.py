"""Members of a closed mesh with rights of their own, and what is overheard of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from mesh import Credentials, Node
from mesh.core.certificates import grant_of, issue
from mesh.core.wire import (
    Change,
    Changes,
)
from mesh.network.link import Link
from tests.simulation.test_membership import admin, key
from tests.simulation.test_membership import linked as wait_for_link
from tests.simulation.world import EPOCH, World

HQ = admin()


def member(
    name: str, read: Iterable[str] = ("*",), write: Iterable[str] | None = None, role: str = "member"
) -> Credentials:
    grant = grant_of(role, read, write)
    chain = issue(HQ.identity, HQ.membership.chain, key(name).public_key, grant, EPOCH)
    return Credentials(key(name), chain)


async def linked(a: Node, b: Node, *, yes: bool = True) -> None:
    async with asyncio.timeout(60):
        await wait_for_link(a, b, yes=yes)


async def apart(a: Node, b: Node) -> None:
    await linked(a, b, yes=False)


def listen(link: Link) -> list[object]:
    """Everything that comes on a link from now on."""
    heard: list[object] = []
    deliver = link._deliver

    def overhear(where: Link, message: object) -> object:
        heard.append(message)
        return deliver(where, message)  # type: ignore[arg-type]

    link._deliver = overhear  # type: ignore[assignment]
    return heard


def said(messages: Iterable[object]) -> bytes:
    return b"".join(msgspec.msgpack.encode(message) for message in messages)


async def ids(node: Node, collection: str) -> set[str]:
    return {document["_id"] for document in await node.collection(collection).find()}


async def send_as(world: World, name: str, to: str, *changes: Change) -> None:
    """Let a node send what it does not hold."""
    parts = world.nodes[name]._parts
    assert parts is not None
    link = world.link(name, to)
    link._deliver = lambda *_: None
    frame = parts.replicator._syncs[world.nodes[to].node_id].serving._window.last
    link.send(Changes(frame + 1, 0, 0, list(changes)))
    await asyncio.sleep(1)
