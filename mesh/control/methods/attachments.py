"""Control methods about blobs."""

from __future__ import annotations

import os
from pathlib import Path

from mesh.attachments.verifying import VerifyReport
from mesh.control.lookup import unique
from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served
from mesh.core.tokens import BlobToken
from mesh.errors import BlobNotFound, MeshError


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
async def tokens(served: Served) -> list[BlobToken]:
    """``Attachments.tokens()``."""
    return await served.node.attachments.tokens()


@METHODS.add("attachments.export")
async def export(served: Served, *, hash: Text, path: Text, force: bool = False) -> BlobToken:
    """Copy a blob that is held here to the absolute ``path``; it appears there whole or not at all.

    What is there already is replaced with ``force`` only.
    """
    token = await held(served, hash)
    if not force and os.path.lexists(path):
        raise MeshError(f"{path} exists already: choose another name, or replace it with --force")
    try:
        await served.node.attachments.export(token.hash, path)
    except OSError as error:
        raise MeshError(f"cannot write {path}: {error.strerror}") from error
    return token


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
