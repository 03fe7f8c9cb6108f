"""Which blobs a document refers to: by the tokens in it, wherever they are."""

from __future__ import annotations

import re
from typing import Any

TOKEN_MARK = '"chunks_hash":'
"""In the JSON of every document with a token in it, and of few others."""

_HASH = re.compile(r"[0-9a-f]{64}")


def referred_blobs(document: object) -> set[str]:
    """The hashes of the blobs whose tokens are in ``document``, at any depth, lists included."""
    found: set[str] = set()
    parts: list[Any] = [document]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if _is_token(part):
                found.add(part["hash"])
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return found


def _is_token(part: dict[str, Any]) -> bool:
    size = part.get("size_bytes")
    return (
        isinstance(size, int | float)
        and not isinstance(size, bool)
        and all(
            isinstance(part.get(key), str) and _HASH.fullmatch(part[key]) for key in ("hash", "chunks_hash")
        )
    )
