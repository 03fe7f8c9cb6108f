"""The table that the control methods register in."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mesh.control.registry import MethodTable

Text = Annotated[str, Meta(max_length=4096)]

METHODS = MethodTable()
