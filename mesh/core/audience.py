"""Who is concerned by a change of a document: found by the field that each one's selector names, and not by
asking everybody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from mesh.core.selector import MISSING, Required, lookup

T = TypeVar("T")

_PARTS = (list, dict)


class Audience(Generic[T]):
    """Those who want to hear of some documents of a collection.

    Whoever a change concerns is found; the selectors of those who are found have the last word.
    """

    def __init__(self) -> None:
        # collection -> a field that somebody's selector names -> a value of it -> who wants that
        self._wanted: dict[str, dict[tuple[str, ...], dict[Any, dict[T, None]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, who: T, collection: str, required: Required) -> None:
        """``who`` wants to hear of what has ``required``."""
        values = self._wanted.setdefault(collection, {}).setdefault(required.segments, {})
        for value in required.values:
            values.setdefault(value, {})[who] = None

    def remove(self, who: T, collection: str, required: Required) -> None:
        """No more, if it did."""
        fields = self._wanted.get(collection, {})
        values = fields.get(required.segments, {})
        for value in required.values:
            listening = values.get(value, {})
            listening.pop(who, None)
            if not listening:
                values.pop(value, None)
        if not values:
            fields.pop(required.segments, None)
        if not fields:
            self._wanted.pop(collection, None)

    def concerned(self, collection: str, before: Any, after: Any) -> Iterable[T]:
        """Whom it may concern that a document has changed; ``None`` where it was not, or is not, there."""
        found: dict[T, None] = {}
        for segments, values in self._wanted.get(collection, {}).items():
            for document in (before, after):
                value = lookup(document, segments)
                found.update(values.get(MISSING if isinstance(value, _PARTS) else value, {}))
        return found
