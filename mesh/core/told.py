"""What a peer is told of origins, within bounds: each neighbour that they were heard from has an equal share.

So one that makes up origins takes its own share, and what is left of the others', but never crowds them out.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.core.interest import entry_bytes
from mesh.core.wire import Interest


class _One(NamedTuple):
    interest: Interest
    via: str
    size: int


class Told:
    """What one peer is told, and who told this node.

    Args:
        max_origins: so many of them ...
        max_bytes: ... and so much to say of them all.
    """

    def __init__(self, max_origins: int, max_bytes: int) -> None:
        self._max_origins = max_origins
        self._max_bytes = max_bytes
        self._told: dict[str, _One] = {}
        self._heard_from: dict[str, dict[str, None]] = {}  # neighbour -> origins, the last told last
        self._costs: dict[str, int] = {}
        self._bytes = 0
        self.has_room = False
        """Whether there may be room that there was not, until somebody has looked."""

    def get(self, origin: str) -> Interest | None:
        """What was told of ``origin``."""
        one = self._told.get(origin)
        return one.interest if one is not None else None

    def origins(self) -> set[str]:
        """Of whom something was told."""
        return set(self._told)

    def add(self, interest: Interest, via: str) -> list[str] | None:
        """Tell what was heard from ``via``.

        Returns:
            The origins that are not told any more, to make room: others' that take more than their share.
            ``None``: that there is no room, and what was told before still stands.
        """
        new = _One(interest, via, sum(map(entry_bytes, interest.entries)))
        before = self._told.get(interest.origin)
        if before is not None:
            self._remove(before)
        self._insert(new)
        gone: list[_One] = []
        while len(self._told) > self._max_origins or self._bytes > self._max_bytes:
            greediest = max(self._costs, key=self._costs.__getitem__)
            last = self._told[next(reversed(self._heard_from[greediest]))]
            # Strictly, so that they do not take turns for ever.
            if greediest == via or self._costs[greediest] - self._cost(last) < self._costs[via]:
                self._remove(new)
                for one in (*reversed(gone), before):
                    if one is not None:
                        self._insert(one)
                return None
            self._remove(last)
            gone.append(last)
        if before is not None and before.size > new.size:
            self.has_room = True
        return [one.interest.origin for one in gone]

    def remove(self, origin: str) -> bool:
        """It is told no longer; whether it was."""
        one = self._told.get(origin)
        if one is not None:
            self._remove(one)
            self.has_room = True
        return one is not None

    def _remove(self, one: _One) -> None:
        origin = one.interest.origin
        del self._told[origin]
        self._bytes -= one.size
        self._costs[one.via] -= self._cost(one)
        del self._heard_from[one.via][origin]
        if not self._heard_from[one.via]:
            del self._heard_from[one.via], self._costs[one.via]

    def _insert(self, one: _One) -> None:
        self._told[one.interest.origin] = one
        self._bytes += one.size
        self._costs[one.via] = self._costs.get(one.via, 0) + self._cost(one)
        self._heard_from.setdefault(one.via, {})[one.interest.origin] = None

    def _cost(self, one: _One) -> int:
        return one.size + self._max_bytes // self._max_origins
