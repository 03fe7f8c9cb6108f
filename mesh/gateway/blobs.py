"""Blobs over HTTP: uploads and downloads of any size in constant memory, and the progress of fetches."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from mesh.attachments.handles import BlobHandle
from mesh.control.registry import Served
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import BlobNotFound, MeshError
from mesh.gateway.answers import HEADERS, BadRequest, Part, Streamed, answer, refusal
from mesh.gateway.endpoints import queried
from mesh.gateway.events import Event, EventStreams
from mesh.streams import Stream

PART_BYTES = 256 * 1024
"""What is read at once."""

FETCH_SECONDS = 60.0
"""How long a download waits for a blob that has to be fetched first, unless it says so."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]

_HASH = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[\w.+-]+/[\w.+-]+( ?; ?[\w.+-]+=[\w.+-]+)*", re.ASCII)
_UNKNOWN = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class HashMismatch(MeshError):
    """What was uploaded under a hash has another one."""

    def __init__(self, hash: str, uploaded: str) -> None:
        super().__init__(f"what was uploaded as {hash} is {uploaded}: upload it to /blobs if that is meant")
        self.hash = hash
        self.uploaded = uploaded


class BlobEndpoints:
    """What answers requests for blobs; see :mod:`mesh.gateway` for what they are."""

    def __init__(self, served: Served, streams: EventStreams) -> None:
        self._served = served
        self._streams = streams

    async def put(self, request: Request) -> Response:
        """Add what is uploaded."""
        attachments = self._served.node.attachments
        wanted = _hash(request) if "hash" in request.path_params else None
        if wanted is not None and (held := await attachments.info(wanted)) is not None:
            return answer(held)
        token = await attachments.add(
            request.stream(),
            name=request.query_params.get("name"),
            content_type=request.headers.get("content-type"),
        )
        if wanted is not None and wanted != token.hash:
            raise HashMismatch(wanted, token.hash)
        return answer(token, 201, {"location": f"/blobs/{token.hash}", "etag": f'"{token.hash}"'})

    async def get(self, request: Request) -> Response:
        """Send a blob; with its token, fetch it first."""
        hash, attachments = _hash(request), self._served.node.attachments
        token = await attachments.info(hash) or _token(request)
        if token is None:
            raise BlobNotFound(hash)
        headers = _headers(token)
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        wanted = _range(request, token, headers["etag"])
        if wanted is None:
            beyond = {"content-range": f"bytes */{token.size_bytes}"}
            return refusal(416, f"the blob has {token.size_bytes} bytes", beyond)
        timeout = queried("timeout", request.query_params.get("timeout", str(FETCH_SECONDS)), Seconds)
        handle = await attachments.fetch(token, timeout=timeout)
        headers["content-length"] = str(len(wanted))
        status = 200
        if len(wanted) < token.size_bytes:
            status = 206
            headers["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{token.size_bytes}"
        return Streamed(_parts(handle, wanted), status, headers)

    async def progress(self, request: Request) -> Response:
        """Fetch a blob and tell how far that is."""
        token = _token(request) or await self._served.node.attachments.info(_hash(request))
        if token is None:
            raise BadRequest("token=JSON is needed: what PUT /blobs answered, and documents hold")
        return self._streams.response([self._progress(token)])

    async def _progress(self, token: BlobToken) -> AsyncGenerator[Event]:
        told: Stream[BlobProgress] = Stream(merge=lambda older, newer: newer)
        fetching = asyncio.create_task(self._served.node.attachments.fetch(token, on_progress=told.push))
        fetching.add_done_callback(lambda _: told.finish())
        last = BlobProgress("waiting", 0, token.size_bytes)
        try:
            async for last in told:
                yield "progress", last
            try:
                await fetching
            except MeshError as error:
                if last.state != "failed":
                    yield "progress", msgspec.structs.replace(last, state="failed", reason=str(error))
        finally:
            fetching.cancel()
            await asyncio.wait([fetching])


def _hash(request: Request) -> str:
    hash: str = request.path_params["hash"]
    if not _HASH.fullmatch(hash):
        raise BadRequest(f"{hash!r} is no hash of a blob: 64 lower-case hex digits")
    return hash


def _token(request: Request) -> BlobToken | None:
    """The token that the query holds."""
    text = request.query_params.get("token")
    if text is None:
        return None
    token: BlobToken = queried("token", text, BlobToken)
    token.check()
    if token.hash != _hash(request):
        raise BadRequest("this is the token of another blob")
    return token


def _headers(token: BlobToken) -> dict[str, str]:
    kind = token.metadata.content_type or _UNKNOWN
    headers = {
        **HEADERS,
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable",
        "content-type": kind if _KIND.fullmatch(kind) else _UNKNOWN,
        "etag": f'"{token.hash}"',
    }
    if token.metadata.name is not None:
        headers["content-disposition"] = f"attachment; filename*=utf-8''{quote(token.metadata.name, safe='')}"
    return headers


def _range(request: Request, token: BlobToken, etag: str) -> range | None:
    """The bytes that are asked for; ``None``: there are none. What is no single range asks for all."""
    size = token.size_bytes
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or found[0] == "bytes=-" or request.headers.get("if-range", etag) != etag:
        return range(size)
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return range(size)  # malformed
    return range(start, stop) if start < stop else None


async def _parts(handle: BlobHandle, wanted: range) -> AsyncGenerator[Part]:
    """The bytes of a blob, which stays meanwhile."""
    with handle.open() as file:
        file.seek(wanted.start)
        left = len(wanted)
        while left:
            part = await asyncio.to_thread(file.read, min(PART_BYTES, left))
            if not part:
                raise BlobNotFound(handle.token.hash)  # the file was cut short on disk
            left -= len(part)
            yield part
