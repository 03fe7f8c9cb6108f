"""What it costs the CRDT library to cut items into pieces, and to join those again.

An item that something stands in the middle of is cut in two, and all that is behind the cut is moved. At the
end of a transaction the pieces that still stand side by side are joined, the last ones first: what is behind
the beginning of each is copied once more, and the copies are kept up to the end. Ten thousand values of a
list, one by one, would take two gigabytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mesh.core.update_reader import ANY, STRING, Id, Item
from mesh.errors import InvalidDocument

MAX_CUTTING = 1 << 26
"""Values behind all the places at which an update cuts lists in two: the library moves them one by one."""

MAX_CUTTING_TEXTS = 1 << 34
"""Elements behind those at which it cuts texts: that takes up to some seconds."""

MAX_JOINING = 1 << 26
"""Bytes that the library may copy to join pieces: some 100 ms."""

MAX_MOVES = 1 << 30
"""Items that the library may move in its rows of those of each client, to put in what it cuts."""

MAX_JOINING_MOVES = 1 << 28
"""Those that it may move to take out what it joins, at the end of a transaction: some 100 ms."""

_BYTES = {STRING: 1, ANY: 16}
"""Of an element: no other items grow as they are joined."""


def check_pieces(
    items: Mapping[int, Sequence[Item]], cuts: Iterable[Id], deletions: Iterable[tuple[int, int, int]]
) -> None:
    """Refuse what is in too many pieces.

    Args:
        items: those of each client, in order.
        cuts: elements before which something may cut an item in two.
        deletions: (client, from, up to) of what is deleted.

    Raises:
        InvalidDocument: it is.
    """
    within: defaultdict[int, list[int]] = defaultdict(list)
    for client, clock in sorted(cuts):
        within[client].append(clock)
    gone: defaultdict[int, list[int]] = defaultdict(list)  # from and up to where, in turn
    for client, start, end in sorted(deletions):
        ends = gone[client]
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            ends += (start, end)
    apart = {item.right for those in items.values() for item in those if parts(item)}
    cutting = dict.fromkeys(_BYTES, 0)
    joining = 0
    for client, those in items.items():
        following: Item | None = None
        end = 0  # of what will be one item
        for item in reversed(those):
            if item.kind not in _BYTES:
                following = None
                continue
            places = inside(item, within)
            cutting[item.kind] += len(places) * item.end - sum(places)
            if following is None or not _goes_on(item, following):
                end = item.end
            else:
                places = [*places, item.end]
            for clock in reversed(places):
                deleted = bisect_right(gone[client], clock - 1) % 2 or bisect_right(gone[client], clock) % 2
                if deleted or (client, clock) in apart:
                    end = clock
                joining += (end - clock) * _BYTES[item.kind]
            following = item
    if cutting[ANY] > MAX_CUTTING or cutting[STRING] > MAX_CUTTING_TEXTS:
        raise InvalidDocument("a long list or text that is cut into too many pieces")
    if joining > MAX_JOINING:
        raise InvalidDocument("a long list or text that comes in too many pieces: send it as one")


def cuts_of(items: Iterable[Item], deletions: Iterable[tuple[int, int, int]] = ()) -> dict[int, list[int]]:
    """Where something may cut the items of each client in two, in order: before those elements."""
    cuts: defaultdict[int, set[int]] = defaultdict(set)
    for item in items:
        if item.left is not None:
            cuts[item.left[0]].add(item.left[1] + 1)
        if item.right is not None:
            cuts[item.right[0]].add(item.right[1])
    for client, start, end in deletions:
        cuts[client] |= {start, end}
    return {client: sorted(clocks) for client, clocks in cuts.items()}


def inside(item: Item, cuts: Mapping[int, Sequence[int]]) -> Sequence[int]:
    """Those of ``cuts`` that are in the middle of ``item``."""
    clocks = cuts.get(item.client, ())
    return clocks[bisect_right(clocks, item.clock) : bisect_left(clocks, item.end)]


def parts(item: Item) -> bool:
    """Whether it surely stands between two elements that follow each other."""
    left, right = item.left, item.right
    return left is not None and right is not None and left == (right[0], right[1] - 1)


def _goes_on(item: Item, following: Item) -> bool:
    """Whether the library joins the two, if they stand side by side."""
    return (
        item.kind == following.kind
        and item.right == following.right
        and following.left == (item.client, item.end - 1)
    )


def check_moves(items: Sequence[Item], deletions: Iterable[tuple[int, int, int]]) -> int:
    """Refuse what makes the library move too many items: it keeps those of a client in a row, into which it
    puts what it cuts, and out of which it takes what it joins. How many it moves for what it cuts.

    Raises:
        InvalidDocument: that is so.
    """
    cuts = cuts_of(items, deletions)
    moves = joins = behind = 0
    following: Item | None = None
    joined = False
    for item in sorted(items, reverse=True):
        if following is None or following.client != item.client:
            behind = 0
            following = None
        count = len(inside(item, cuts))
        moves += count * behind + count * (count - 1) // 2
        behind += count + 1
        joining = following is not None and _goes_on(item, following)
        if joining and not joined:
            joins += behind
        joined = joining
        following = item
    if moves > MAX_MOVES or joins > MAX_JOINING_MOVES:
        raise InvalidDocument(
            "too many pieces that have to be cut or joined: send them as they are at the end"
        )
    return moves
