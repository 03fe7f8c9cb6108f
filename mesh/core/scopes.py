"""Scopes: for which nodes a distribution is meant. Every node judges itself, from its own facts.

A scope that is not understood matches nobody, never everybody: unknown types, unknown fields and
conditions that do not hold together are all refused, because a part that was ignored could be the one
that keeps a node out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mesh.core.structs import Struct
from mesh.errors import InvalidScope

MAX_NODE_IDS = 1024
"""How many nodes one scope may name."""

MAX_NAME_CHARS = 128
"""Length of a formation's name."""

FORMATION_RULE = f"has a name of 1 to {MAX_NAME_CHARS} printable characters, such as north"

MAX_SELECTED_ID_BYTES = 6 * 1024
"""Over this many bytes of named ids the node documents are subscribed to whole (selectors are bounded)."""

_WORD = r"^[^\s,:]+$(?!\n)"
Word = Annotated[str, Meta(min_length=1, max_length=128, pattern=_WORD)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"\S")]
Tags = Annotated[Sequence[Word], Meta(max_length=64)]

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def _freeze(value: Struct, field: str) -> None:
    """Make a list that was given a tuple, so that the value can be hashed and does not change."""
    given = getattr(value, field)
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        msgspec.structs.force_setattr(value, field, tuple(given))


class _Scope(Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Base of the scopes: JSON with a ``type``."""


class AllNodes(_Scope, frozen=True, tag="all"):
    """Every member of the mesh but the publisher."""


class Formation(_Scope, frozen=True, tag="formation"):
    """The nodes that say they belong to a formation, but the publisher."""

    formation_id: Name


class Nodes(_Scope, frozen=True, tag="nodes"):
    """The nodes with these ids (whole ones, at most 1024), whether they are known yet or not; the publisher
    only if it is among them."""

    node_ids: Annotated[Sequence[Word], Meta(min_length=1, max_length=MAX_NODE_IDS)]

    def __post_init__(self) -> None:
        _freeze(self, "node_ids")


class Capable(_Scope, frozen=True, tag="capable"):
    """The nodes that meet every condition that is given, but the publisher. What a node does not know
    of itself it does not meet.

    Attributes:
        min_gpu_gb: at least this much GPU memory, in GB.
        cpu_arch: this processor architecture; ``amd64`` is ``x86_64`` and ``arm64`` is ``aarch64``.
        min_storage_mb: at least this much free storage, in MB.
        tags: all of these.
    """

    min_gpu_gb: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    cpu_arch: Word | None = None
    min_storage_mb: Annotated[int, Meta(gt=0, le=10**15)] | None = None
    tags: Tags = ()

    def __post_init__(self) -> None:
        _freeze(self, "tags")


DistributionScope = AllNodes | Formation | Nodes | Capable


class Capabilities(Struct, frozen=True):
    """What a node can do. ``None``: it does not know."""

    gpu_gb: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    cpu_arch: Word | None = None
    storage_mb: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    tags: Tags = ()

    def __post_init__(self) -> None:
        _freeze(self, "tags")


class NodeFacts(Struct, frozen=True):
    """What a node says of itself and is matched by."""

    formations: Annotated[Sequence[Name], Meta(max_length=64)] = ()
    capabilities: Capabilities = Capabilities()

    def __post_init__(self) -> None:
        _freeze(self, "formations")


def matches(scope: DistributionScope, node_id: str, publisher: str, facts: NodeFacts) -> bool:
    """Whether the node with these facts is in the scope of what ``publisher`` distributes."""
    if isinstance(scope, Nodes):
        return node_id in scope.node_ids
    if node_id == publisher:
        return False
    if isinstance(scope, Formation):
        return scope.formation_id in facts.formations
    return isinstance(scope, AllNodes) or _meets(scope, facts.capabilities)


def _meets(wanted: Capable, has: Capabilities) -> bool:
    return (
        (wanted.min_gpu_gb is None or (has.gpu_gb is not None and has.gpu_gb >= wanted.min_gpu_gb))
        and (wanted.cpu_arch is None or _architecture(has.cpu_arch) == _architecture(wanted.cpu_arch))
        and (
            wanted.min_storage_mb is None
            or (has.storage_mb is not None and has.storage_mb >= wanted.min_storage_mb)
        )
        and set(wanted.tags) <= set(has.tags)
    )


def _architecture(name: str | None) -> str | None:
    lower = name.lower() if name is not None else None
    return _ARCHITECTURES.get(lower, lower) if lower is not None else None


def is_formation_name(name: object) -> bool:
    """Whether this node calls a formation that. What comes from others may have characters that cannot be
    printed, as it could in earlier versions."""
    return isinstance(name, str) and len(name) <= MAX_NAME_CHARS and name.isprintable() and bool(name.strip())


_RULES = {
    "all": "all has no fields",
    "formation": f"a formation {FORMATION_RULE}",
    "nodes": f"node_ids is a list of 1 to {MAX_NODE_IDS} ids of nodes",
    "capable": "min_gpu_gb is a number above 0, cpu_arch a word, min_storage_mb a whole number above 0, and "
    "tags a list of words; there are no other fields",
}
"""By the type of a scope: what it has to be like."""


def parse_scope(plain: object) -> DistributionScope:
    """The scope whose JSON form is ``plain``.

    Raises:
        InvalidScope: it is of an unknown type, malformed, or says nothing.
    """
    try:
        scope: DistributionScope = msgspec.convert(plain, DistributionScope)
    except msgspec.ValidationError as error:
        kind = plain.get("type") if isinstance(plain, dict) else None
        rule = _RULES.get(kind) if isinstance(kind, str) else None
        rule = rule or f"its type is one of {', '.join(_RULES)}"
        raise InvalidScope(
            f"this scope is not understood, so it matches nobody: {rule}, unlike {plain!r:.200}"
        ) from error
    if isinstance(scope, Capable) and scope == Capable():
        raise InvalidScope("a Capable scope needs at least one condition: AllNodes() is every node")
    return scope


def check_scope(scope: object) -> DistributionScope:
    """``scope``, as a peer would read it.

    Raises:
        InvalidScope: it is no scope, or one that nobody would understand.
    """
    if not isinstance(scope, DistributionScope):
        raise InvalidScope(f"a scope is AllNodes, Formation, Nodes or Capable, not {scope!r}")
    if isinstance(scope, Formation) and not is_formation_name(scope.formation_id):
        raise InvalidScope(f"a formation {FORMATION_RULE}, not {scope.formation_id!r:.60}")
    try:
        read = parse_scope(scope.to_dict())
    except (TypeError, ValueError) as error:
        raise InvalidScope(f"this scope cannot be written down: {error}") from error
    if read != scope:
        raise InvalidScope(f"{scope!r} would be read as {read!r}: numbers must be finite")
    return read


def parse_scope_text(text: str) -> DistributionScope:
    """The scope that a person typed: ``all``, ``formation:NAME``, ``nodes:ID,ID`` or
    ``capable:min_gpu_gb=4,cpu_arch=x86_64,min_storage_mb=500,tags=camera,tags=gps``.

    Raises:
        InvalidScope: it is none of these.
    """
    kind, _, rest = text.partition(":")
    if kind == "all" and not rest:
        return AllNodes()
    if kind == "formation":
        return parse_scope({"type": kind, "formation_id": rest})
    if kind == "nodes":
        return parse_scope({"type": kind, "node_ids": [part.strip() for part in rest.split(",")]})
    if kind == "capable":
        return parse_scope(_conditions(rest))
    raise InvalidScope(
        f"{text!r} is no scope: use all, formation:NAME, nodes:ID,ID or "
        "capable:min_gpu_gb=4,cpu_arch=x86_64,min_storage_mb=500,tags=NAME"
    )


def _conditions(text: str) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": "capable"}
    for condition in filter(None, text.split(",")):
        field, equals, value = (part.strip() for part in condition.partition("="))
        if not equals or field in plain:
            raise InvalidScope(
                f"{condition!r} is no condition of a capable scope: use FIELD=VALUE, each once"
            )
        try:
            if field == "tags":
                plain["tags_"] = [*plain.get("tags_", []), value]
            elif field == "min_gpu_gb":
                plain[field] = float(value)
            elif field == "min_storage_mb":
                plain[field] = int(value)
            else:
                plain[field] = value
        except ValueError as error:
            raise InvalidScope(f"{field} must be a number, not {value!r}") from error
    if "tags_" in plain:
        plain["tags"] = plain.pop("tags_")
    return plain


def scope_text(scope: DistributionScope) -> str:
    """The scope as a person would type it."""
    if isinstance(scope, AllNodes):
        return "all"
    if isinstance(scope, Formation):
        return f"formation:{scope.formation_id}"
    if isinstance(scope, Nodes):
        return f"nodes:{','.join(scope.node_ids)}"
    plain = scope.to_dict()
    conditions = [
        f"{field}={plain[field]}"
        for field in ("min_gpu_gb", "cpu_arch", "min_storage_mb")
        if plain[field] is not None
    ]
    return f"capable:{','.join([*conditions, *(f'tags={tag}' for tag in scope.tags)])}"


def nodes_selector(scope: DistributionScope) -> dict[str, Any]:
    """Selects the node documents that may match: at least those that do."""
    if isinstance(scope, Formation):
        return {"formations": {"$elemMatch": {"$eq": scope.formation_id}}}
    if isinstance(scope, Nodes) and sum(len(n.encode()) + 3 for n in scope.node_ids) <= MAX_SELECTED_ID_BYTES:
        return {"_id": {"$in": list(scope.node_ids)}}
    return {}
