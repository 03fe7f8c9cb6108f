"""Texts that somebody types into: what is known of one from a keystroke to the next.

To check an update against all that is held of a document takes as long as it has pieces, and a text that was
typed by several has thousands. But where the document has one collaborative root, a text with nothing nested
in it, whatever stands next to an element of that text is in it as well: then the update alone tells. What is
let through here, :mod:`mesh.core.roots` would let through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from blake3 import blake3

from mesh.core.update_reader import EMBED, FORMAT, STRING, Id, Item

MAX_APART = 1000
"""Elements, or runs of them, that are not of the text."""

MAX_ITEMS = 1000
"""Of an update that is looked at here."""

BASIC = "\uffff"
"""Up to here a character is one element, which nothing can cut in two."""

_SLOTS = 64
_IN_TEXT = frozenset({STRING, EMBED, FORMAT})


class Typed(NamedTuple):
    """A document whose only collaborative root is a text of basic characters.

    Attributes:
        root: the name of the text.
        apart: (client, from, up to) of the elements that are not in it.
    """

    root: str
    apart: frozenset[tuple[int, int, int]]


_known: list[tuple[bytes, Typed] | None] = [None] * _SLOTS  # by the hash of a state


def remember(state: bytes, typed: Typed | None) -> None:
    """Keep what is known of a state, in the place of another one."""
    if typed is not None:
        digest = blake3(state).digest()
        _known[digest[0] % _SLOTS] = (digest, typed)


def recall(state: bytes) -> Typed | None:
    """What is known of a state; ``None``: nothing, or nothing any more."""
    digest = blake3(state).digest()
    known = _known[digest[0] % _SLOTS]
    return known[1] if known is not None and known[0] == digest else None


def only_types(typed: Typed, clocks: Mapping[int, int], items: Iterable[Item]) -> bool:
    """Whether all of some items surely stand in the text of a document.

    Args:
        typed: what is known of the document.
        clocks: up to where it holds the items of each client; the new ones go on from there.
        items: what comes new, in order.
    """
    reached = dict(clocks)

    def is_text(element: Id) -> bool:
        client, clock = element
        return clock < reached.get(client, 0) and not any(
            client == other and start <= clock < end for other, start, end in typed.apart
        )

    for count, item in enumerate(items):
        if count == MAX_ITEMS or item.kind not in _IN_TEXT or item.key is not None:
            return False
        if item.clock != reached.get(item.client, 0):
            return False
        if item.kind == STRING and max(item.detail, default="") > BASIC:
            return False
        near = [element for element in (item.left, item.right) if element is not None]
        if not (all(map(is_text, near)) if near else item.parent == typed.root):
            return False
        reached[item.client] = item.end
    return True
