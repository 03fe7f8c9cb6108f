"""Answers: values as JSON, errors as JSON with the status that says whose they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import structs
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mesh.control.error_mapping import to_body
from mesh.control.protocol import ErrorBody
from mesh.core.structs import Struct
from mesh.errors import (
    BlobNotFound,
    BlobTooLarge,
    DocumentExists,
    DocumentNotFound,
    DocumentTooLarge,
    FetchFailed,
    FetchTimeout,
    InvalidCollectionName,
    InvalidSelector,
    InvalidToken,
    MeshError,
    NotStarted,
    PermissionDenied,
    StorageFull,
    StoreCorrupt,
    UnknownDistribution,
)

JSON = "application/json"

Part = bytes | memoryview
"""Of a body."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "x-content-type-options": "nosniff",
}
"""Of every answer: it is data, whatever a browser takes it for."""


class BadRequest(MeshError):
    """The request itself is malformed."""


class TooLarge(MeshError):
    """The body of a request is over a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is over the limit of {limit} bytes: large content is for /blobs")
        self.limit = limit


class TooMany(MeshError):
    """There are as many already as there may be."""


class ErrorAnswer(Struct, frozen=True):
    """The answer to what failed: the class of the error, what it says, and what it carries."""

    error: ErrorBody


_STATUSES: list[tuple[type[MeshError] | tuple[type[MeshError], ...], int]] = [
    ((BadRequest, InvalidCollectionName, InvalidSelector, InvalidToken), 400),
    (PermissionDenied, 403),
    ((DocumentNotFound, BlobNotFound, UnknownDistribution), 404),
    (DocumentExists, 409),
    ((TooLarge, DocumentTooLarge, BlobTooLarge), 413),
    (FetchFailed, 502),
    ((NotStarted, TooMany), 503),
    (FetchTimeout, 504),
    (StorageFull, 507),
    (StoreCorrupt, 500),
]


def status_of(error: MeshError) -> int:
    """The HTTP status for an error; 422 where nothing else fits: understood, but it cannot be done."""
    return next((status for kinds, status in _STATUSES if isinstance(error, kinds)), 422)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` as JSON."""
    return Response(
        msgspec.json.encode(value), status, headers={**HEADERS, **(headers or {})}, media_type=JSON
    )


def told(error: MeshError) -> ErrorBody:
    """What is sent for ``error``, with requests where it speaks of Python's methods."""
    body = to_body(error)
    match error:
        case DocumentExists(collection=collection, document_id=id):
            path = _path("api", "collections", collection, "documents", id)
            text = f"{collection}/{id} exists already: PATCH {path} merges into it, and PUT replaces it"
        case DocumentNotFound(collection=collection, document_id=id):
            path = _path("api", "collections", collection, "documents", id)
            text = f"there is no {collection}/{id} here: PUT {path} creates it"
        case BlobNotFound(hash=hash):
            text = f"blob {hash} is not here whole: GET {_path('blobs', hash)}?token=JSON fetches it"
        case NotStarted():
            text = "the node of this gateway does not run"
        case _:
            return body
    return structs.replace(body, message=text.encode(errors="replace").decode())


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part.encode(errors='replace'), safe='')}" for part in parts)


def failure(error: MeshError) -> Response:
    """The answer to a request that failed."""
    return answer(ErrorAnswer(told(error)), status_of(error))


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is not let in, or that there is nothing for."""
    return answer(ErrorAnswer(ErrorBody("MeshError", message)), status, headers)


class Streamed(StreamingResponse):
    """Sends what a generator gives, which ends with the connection."""

    def __init__(self, parts: AsyncGenerator[Part], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(parts, status, headers)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "HEAD":
                await Response(None, self.status_code, dict(self.headers))(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()
