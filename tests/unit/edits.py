"""Local writes, said as fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mesh.core.plans import Writes, merge_registers, replace_registers
from mesh.core.registers import Registers, flatten
from mesh.storage.rows import Rows
from mesh.storage.writes import Edit


def plan_merge(held: Mapping[str, Any], fields: Mapping[str, Any]) -> Writes:
    return merge_registers(held, flatten(fields))


def plan_replace(held: Mapping[str, Any], fields: Mapping[str, Any]) -> Writes:
    return replace_registers(held, flatten(fields))


def edit(
    rows: Rows,
    collection: str,
    document_id: str,
    plan: Callable[[Registers], Writes],
    *,
    exists: bool | None = None,
) -> bool:
    return Edit(collection, document_id, lambda held, _: plan(held), None, exists)(rows)
