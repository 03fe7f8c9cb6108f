"""Abbreviated ids: people type the first characters, as far as they tell which one is meant."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.errors import MeshError


def unique(typed: str, ids: Iterable[str], what: str) -> str:
    """The one of ``ids`` that is or starts with ``typed``; ``typed`` itself if there is none.

    Raises:
        MeshError: more than one starts so.
    """
    found = sorted({id for id in ids if typed and id.startswith(typed)})
    if typed in found or not found:
        return typed
    if len(found) > 1:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise MeshError(f"{typed!r} is the start of {len(found)} {what}s ({listed}): give more of it")
    return found[0]
