"""The result of an observed query: documents in order, changed one at a time, with views that stay.

The documents are kept in short chunks, which are replaced and never changed: a change copies one of them, and
a view only the list of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

Document = dict[str, Any]
Chunk = list[Document]

CHUNK = 256
"""Documents in a chunk; one of twice as many is split."""


class Result:
    """Documents in the order of ``key``, which is different for any two of them.

    Args:
        ordered: the documents at first, in their order.
        key: sorts them.
    """

    def __init__(self, ordered: Sequence[Document], key: Callable[[Document], Any]) -> None:
        self._key = key
        self._chunks: list[Chunk] = [list(ordered[i : i + CHUNK]) for i in range(0, len(ordered), CHUNK)]

    def add(self, document: Document) -> None:
        """Put a document where it belongs."""
        if not self._chunks:
            self._chunks.append([document])
            return
        key = self._key(document)
        at = min(self._chunk_of(key), len(self._chunks) - 1)
        chunk = self._chunks[at]
        place = bisect_left(chunk, key, key=self._key)
        longer = [*chunk[:place], document, *chunk[place:]]
        if len(longer) < 2 * CHUNK:
            self._chunks[at] = longer
        else:
            self._chunks[at : at + 1] = [longer[:CHUNK], longer[CHUNK:]]

    def remove(self, document: Document) -> None:
        """Take out a document that is in it."""
        key = self._key(document)
        at = self._chunk_of(key)
        chunk = self._chunks[at] if at < len(self._chunks) else []
        place = bisect_left(chunk, key, key=self._key)
        if place == len(chunk) or chunk[place] is not document:  # a reader has altered it: it is elsewhere
            at, place = next(
                (at, place)
                for at, chunk in enumerate(self._chunks)
                for place, other in enumerate(chunk)
                if other is document
            )
            chunk = self._chunks[at]
        self._chunks[at : at + 1] = [rest] if (rest := [*chunk[:place], *chunk[place + 1 :]]) else []

    def _chunk_of(self, key: Any) -> int:
        return bisect_left(self._chunks, key, key=lambda chunk: self._key(chunk[-1]))

    def first(self, count: int) -> list[Document]:
        """The first ``count`` documents."""
        return list(islice(chain.from_iterable(self._chunks), count))

    def view(self) -> Callable[[], list[Document]]:
        """Gives the documents as they are now, whenever it is asked."""
        chunks: Iterable[Chunk] = tuple(self._chunks)
        return lambda: list(chain.from_iterable(chunks))
