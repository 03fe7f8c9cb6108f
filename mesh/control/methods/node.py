"""Control methods about the node: who it is, its links, its life."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from msgspec import Meta

from mesh.control.lookup import find_node
from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served
from mesh.errors import MeshError
from mesh.node.missing_blobs import MissingBlob
from mesh.node.presence import Presence, Stats
from mesh.node.probe import declaring
from mesh.version import VERSION


@METHODS.add("node.info")
async def info(served: Served) -> dict[str, Any]:
    """Who the node is and where it listens."""
    node = served.node
    return {
        "node_id": node.node_id,
        "name": node.name,
        "address": node.address,
        "mesh_id": node.mesh_id,
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


@METHODS.add("node.missing_blobs")
async def missing_blobs(served: Served) -> list[MissingBlob]:
    """``Node.missing_blobs()``."""
    return await served.node.missing_blobs()


@METHODS.add("node.limits")
async def limits(served: Served) -> dict[str, float | None]:
    """``Node.limits``."""
    return served.node.limits._asdict()


@METHODS.add("node.set_limits")
async def set_limits(
    served: Served, *, upload: float | None = None, download: float | None = None, link: float | None = None
) -> None:
    """``Node.set_limits()``."""
    served.node.set_limits(upload=upload, download=download, link=link)


@METHODS.add("node.set_formations")
async def set_formations(served: Served, *, formations: Annotated[list[Text], Meta(max_length=64)]) -> None:
    """``Node.set_formations()``."""
    await served.node.set_formations(formations)


@METHODS.add("node.set_capabilities")
async def set_capabilities(served: Served, *, declared: dict[str, Any]) -> None:
    """``Node.set_capabilities()``: what is declared, over what is detected; ``{}``: all is detected."""
    await served.node.set_capabilities(declaring(declared) if declared else None)


@METHODS.add("node.connect")
async def connect(served: Served, *, url: Text) -> str:
    """``Node.connect()``: the peer's node id."""
    return await served.node.connect(url)


@METHODS.add("node.disconnect")
async def disconnect(served: Served, *, node_id: Text) -> str:
    """``Node.disconnect()`` of a linked or dialled node, by the start of its id or its name; the whole id."""
    presence = served.node.presence()
    names = [(peer.node_id, peer.name) for peer in presence.peers]
    names += [(dial.node_id, "") for dial in presence.dials if dial.node_id is not None]
    whole = find_node(node_id, names)
    if whole is None:
        raise MeshError(f"no peer {node_id!r} is connected or dialled: `mesh peers` lists who is")
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


@METHODS.add("node.settled")
async def settled(served: Served, *, timeout: Annotated[float, Meta(gt=0)]) -> None:
    """``Node.settled()``."""
    await served.node.settled(timeout)


@METHODS.add("node.shutdown")
async def shutdown(served: Served) -> None:
    """Ask the node's process to end; the connection is closed when everything is released."""
    served.shutdown()
