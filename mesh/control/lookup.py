"""What people type for an id: its first characters, as far as they tell which one is meant, or a name."""

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
        raise MeshError(f"{typed!r} is the start of {len(found)} {what}s ({_listed(found)}): give more of it")
    return found[0]


def find_node(typed: str, names: Iterable[tuple[str, str]]) -> str | None:
    """The node whose id is or starts with ``typed``, or whose name it is; ``None`` if there is none.

    Args:
        names: the ids and the names of the nodes in question.

    Raises:
        MeshError: it stands for more than one.
    """
    nodes = list(names)
    found = sorted({id for id, name in nodes if typed and (id.startswith(typed) or name == typed)})
    if typed in found or not found:
        return typed if found else None
    if len(found) > 1:
        raise MeshError(f"{typed!r} stands for {len(found)} nodes ({_listed(found)}): give more of the id")
    return found[0]


def _listed(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
