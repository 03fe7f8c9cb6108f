"""What travels on a control connection: JSON text messages, typed and bounded.

The client sends ``{"id", "method", "params"}`` and gets ``{"id", "result"}`` or ``{"id", "error"}``; for
a streaming method any number of ``{"id", "item"}`` and then ``{"id", "end": true}`` or an error. It may
give up any of them with ``{"id", "cancel": true}``, which is answered by ``{"id", "end": true}``.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mesh.core.structs import UNREADABLE
from mesh.errors import ProtocolViolation

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message: a document of 1 MiB can take six times that as escaped JSON."""

MAX_OPEN_REQUESTS = 64
"""Requests that one connection may have open at once."""

RequestId = Annotated[int, Meta(ge=0, le=2**53)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Asks for a method, or (with ``cancel``) gives up what was asked for under ``id``."""

    id: RequestId
    method: Annotated[str, Meta(max_length=64)] = ""
    params: dict[str, Any] = {}
    cancel: bool = False


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """A :class:`~mesh.errors.MeshError` on its way: class name, message, and its plain attributes."""

    type: str
    message: str
    attributes: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer to the request ``id``; exactly one of the other fields is set."""

    id: RequestId
    result: Any = UNSET
    item: Any = UNSET
    error: ErrorBody | UnsetType = UNSET
    end: bool = False


_encoder = msgspec.json.Encoder()
_request = msgspec.json.Decoder(Request)
_reply = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> str:
    """The text of one message.

    Raises:
        ProtocolViolation: it is over ``MAX_MESSAGE_BYTES``, or not Unicode.
    """
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolViolation(f"{error.object!r} is not Unicode text, so JSON cannot carry it") from error
    if len(body) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(
            f"{len(body)} bytes are over the {MAX_MESSAGE_BYTES} bytes of a control message: ask for less"
        )
    return body.decode()


def decode_request(text: str | bytes) -> Request:
    """The request in ``text``.

    Raises:
        ProtocolViolation: it is not a well-formed request.
    """
    try:
        return _request.decode(text)
    except UNREADABLE as error:
        raise ProtocolViolation(f"malformed control request: {error}") from error


def decode_reply(text: str | bytes) -> Reply:
    """The reply in ``text``.

    Raises:
        ProtocolViolation: it is not a well-formed reply.
    """
    try:
        return _reply.decode(text)
    except UNREADABLE as error:
        raise ProtocolViolation(f"malformed control reply: {error}") from error
