"""The base of every public type: frozen, comparable, and the same as JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound="Struct")

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What is raised when bytes from elsewhere are decoded and are not what they should be."""


class Struct(msgspec.Struct, frozen=True, kw_only=False):
    """A frozen value with ``to_dict()`` and ``from_dict()``."""

    def to_dict(self) -> dict[str, Any]:
        """This value as plain JSON types."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @classmethod
    def from_dict(cls: type[T], plain: Mapping[str, Any]) -> T:
        """The value that ``to_dict()`` gave ``plain``.

        Raises:
            msgspec.ValidationError: ``plain`` does not have the shape of this type.
        """
        return msgspec.convert(plain, cls)
