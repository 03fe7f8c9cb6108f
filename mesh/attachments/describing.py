"""What people are told of an attachment."""

from __future__ import annotations

from os import PathLike, fsdecode, fsencode
from pathlib import PurePath
from typing import Any

import msgspec

from mesh.core.tokens import BlobMetadata
from mesh.errors import InvalidMetadata


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
