"""What an application hands in, checked."""

from __future__ import annotations

from os import PathLike, fsdecode, fsencode
from pathlib import PurePath
from typing import Any

import msgspec

from mesh.core.chunks import derived_hashes
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.errors import BlobTooLarge, InvalidFetch, InvalidMetadata, InvalidToken

MAX_TIMEOUT_SECONDS = 1e11
"""Thousands of years: no clock of an event loop fails at that."""


def described(source: object, name: object, content_type: object, custom: Any) -> BlobMetadata:
    """The metadata of what is added from ``source``; a path names it, unless ``name`` does.

    Raises:
        InvalidMetadata: name, content type or custom metadata are not text.
    """
    if name is None and isinstance(source, str | PathLike):
        # The name of a file is bytes, which need not be text.
        name = fsencode(PurePath(fsdecode(source)).name).decode(errors="replace") or None
    try:
        given = {"name": name, "content_type": content_type, "custom": dict(custom or {})}
        metadata = msgspec.convert(given, BlobMetadata)
        msgspec.json.encode(metadata)  # refuses halves of surrogate pairs
    except (msgspec.ValidationError, UnicodeEncodeError, TypeError, ValueError) as error:
        raise InvalidMetadata(
            "an attachment", f"its name, content type or custom metadata: {error}"
        ) from error
    return metadata


def check_token(token: object, max_blob_bytes: int) -> None:
    """Refuse what nothing can be fetched by.

    Raises:
        InvalidToken: it cannot be true.
        BlobTooLarge: the blob has more than ``max_blob_bytes``.
    """
    if not isinstance(token, BlobToken):
        raise InvalidToken(f"a BlobToken is needed, as add() gives it, not {token!r}")
    try:
        token.check()
    except TypeError as error:
        raise InvalidToken(f"a token with fields of wrong types: {error}") from error
    derived_hashes(token)
    if token.size_bytes > max_blob_bytes:
        raise BlobTooLarge(token.hash, token.size_bytes, max_blob_bytes)


def check_timeout(timeout: object) -> None:
    """Refuse what cannot be waited for.

    Raises:
        InvalidFetch: it is neither ``None`` nor a usable number of seconds.
    """
    if timeout is None or (isinstance(timeout, int | float) and 0 <= timeout <= MAX_TIMEOUT_SECONDS):
        return
    raise InvalidFetch(
        f"timeout is a number of seconds from 0 to {MAX_TIMEOUT_SECONDS:g}, or None, not {timeout!r}"
    )
