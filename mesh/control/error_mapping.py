"""Errors over the control connection: out by class name, back as the same class."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh import errors
from mesh.control.protocol import ErrorBody
from mesh.errors import MeshError

_CLASSES: dict[str, type[MeshError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, MeshError)
}


def to_body(error: MeshError) -> ErrorBody:
    """What is sent for ``error``. Attributes that JSON cannot hold stay behind."""
    message = str(error).encode(errors="replace").decode()  # a file name need not be Unicode
    return ErrorBody(type(error).__name__, message, _plain_attributes(error))


def from_body(body: ErrorBody) -> MeshError:
    """The error that :func:`to_body` was given; a plain ``MeshError`` for a class not known here."""
    cls = _CLASSES.get(body.type, MeshError)
    error = cls.__new__(cls)
    error.args = (body.message,)  # constructors compose messages; this one is composed already
    vars(error).update(body.attributes)
    return error


def _plain_attributes(error: MeshError) -> dict[str, Any]:
    plain = {}
    for name, value in vars(error).items():
        if name.startswith("_"):
            continue
        try:
            plain[name] = msgspec.json.decode(msgspec.json.encode(value))
        except (TypeError, ValueError, msgspec.MsgspecError):
            continue
    return plain
