"""Control methods about blobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from mesh.attachments.holding import Holding
from mesh.attachments.verifying import VerifyReport
from mesh.control.lookup import unique
from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import BlobNotFound, MeshError
from mesh.streams import Stream


@METHODS.add("attachments.add")
async def add(
    served: Served, *, path: Text, name: Text | None = None, link: bool = False, pin: bool = False
) -> BlobToken:
    """``Attachments.add()`` of a file, by its absolute path; with ``pin``, it is pinned at once."""
    token = await served.node.attachments.add(Path(path), name=name, link=link)
    if pin:
        await served.node.attachments.pin(token.hash)
    return token


@METHODS.add("attachments.list")
async def holdings(served: Served) -> list[Holding]:
    """``Attachments.holdings()``."""
    return await served.node.attachments.holdings()


@METHODS.add("attachments.export")
async def export(served: Served, *, hash: Text, path: Text, force: bool = False) -> BlobToken:
    """Copy a blob that is held here to the absolute ``path``; it appears there whole or not at all.

    What is there already is replaced with ``force`` only.
    """
    token = await held(served, hash)
    _check_free(path, force)
    await _export(served, token, path)
    return token


@METHODS.add("attachments.fetch")
async def fetch(
    served: Served,
    *,
    token: BlobToken,
    path: Text | None = None,
    force: bool = False,
    timeout: Annotated[float, Meta(gt=0)] | None = None,
) -> AsyncIterator[BlobProgress]:
    """``Attachments.fetch()``: how far it is, until the blob is here; then copied to ``path``, as by
    ``attachments.export``. To leave the stream is to cancel the fetch."""
    if path is not None:
        _check_free(path, force)
    told: Stream[BlobProgress] = Stream(merge=lambda older, newer: newer)
    fetching = asyncio.create_task(
        served.node.attachments.fetch(token, on_progress=told.push, timeout=timeout)
    )
    fetching.add_done_callback(lambda _: told.finish())
    try:
        async for progress in told:
            yield progress
        handle = await fetching  # which keeps the blob here until it is copied
        if path is not None:
            await _export(served, handle.token, path)
    finally:
        fetching.cancel()
        await asyncio.wait([fetching])


@METHODS.add("attachments.delete")
async def delete(served: Served, *, hash: Text) -> str:
    """``Attachments.delete()``, also of a partial blob: the whole hash."""
    attachments = served.node.attachments
    whole = unique(hash, [one.hash for one in await attachments.holdings()], "blob")
    await attachments.delete(whole)
    return whole


@METHODS.add("attachments.pin")
async def pin(served: Served, *, hash: Text) -> BlobToken:
    """``Attachments.pin()``."""
    token = await held(served, hash)
    await served.node.attachments.pin(token.hash)
    return token


@METHODS.add("attachments.unpin")
async def unpin(served: Served, *, hash: Text) -> BlobToken:
    """``Attachments.unpin()``."""
    token = await held(served, hash)
    await served.node.attachments.unpin(token.hash)
    return token


@METHODS.add("attachments.verify")
async def verify(served: Served) -> VerifyReport:
    """``Attachments.verify()``."""
    return await served.node.attachments.verify()


def _check_free(path: str, force: bool) -> None:
    if not force and os.path.lexists(path):
        raise MeshError(f"{path} exists already: choose another name, or replace it with --force")


async def _export(served: Served, token: BlobToken, path: str) -> None:
    try:
        await served.node.attachments.export(token.hash, path)
    except OSError as error:
        raise MeshError(f"cannot write {path}: {error.strerror}") from error


async def held(served: Served, hash: str) -> BlobToken:
    """The token of the blob whose hash is or starts with ``hash``.

    Raises:
        BlobNotFound: none is held here.
    """
    attachments = served.node.attachments
    whole = unique(hash, [token.hash for token in await attachments.tokens()], "blob")
    token = await attachments.info(whole)
    if token is None:
        raise BlobNotFound(whole)
    return token
