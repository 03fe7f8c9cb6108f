"""Who looks at a document, and what each of them says of itself: cursors, names, colours. Never stored.

A state lives as long as the connection that told it: there is no clock to tell that a client is gone.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from mesh.core.yjs_messages import Awareness
from mesh.errors import ProtocolViolation

MAX_CLIENTS = 1024
"""Clients whose states are known for one document, those that have left included."""

MAX_STATE_CHARS = 16 * 1024
"""What one client may say of itself, as JSON."""

GONE = "null"


class AwarenessTable:
    """The states of the clients that look at one document."""

    def __init__(self) -> None:
        self._told: dict[int, Awareness] = {}
        self._by: dict[int, Hashable] = {}  # who told of the clients that are here

    def take(self, teller: Hashable, told: list[Awareness]) -> list[Awareness]:
        """What is new in what ``teller`` says.

        Raises:
            ProtocolViolation: it is too much, or no JSON. Nothing has changed.
        """
        if len(self._by.keys() | {one.client for one in told}) > MAX_CLIENTS:
            raise ProtocolViolation(f"more than {MAX_CLIENTS} clients look at this document")
        for one in told:
            _check(one)
        news = []
        for one in told:
            known = self._told.get(one.client)
            gone_now = known is not None and one.clock == known.clock and one.state == GONE != known.state
            if known is not None and one.clock <= known.clock and not gone_now:
                continue
            if known is None and one.state == GONE:
                continue
            self._put(one, teller)
            news.append(one)
        return news

    def leave(self, teller: Hashable) -> list[Awareness]:
        """What becomes of the clients that ``teller`` told of, now that it is gone."""
        left = [self._told[client] for client, by in self._by.items() if by is teller]
        news = [Awareness(one.client, one.clock + 1, GONE) for one in left]
        for one in news:
            self._put(one, teller)
        return news

    def here(self) -> list[Awareness]:
        """The states of all that are here."""
        return [self._told[client] for client in self._by]

    def _put(self, one: Awareness, teller: Hashable) -> None:
        self._told.pop(one.client, None)
        self._told[one.client] = one
        if one.state == GONE:
            self._by.pop(one.client, None)
        else:
            self._by[one.client] = teller
        while len(self._told) > MAX_CLIENTS:
            del self._told[next(client for client in self._told if client not in self._by)]


def _check(one: Awareness) -> None:
    if len(one.state) > MAX_STATE_CHARS:
        raise ProtocolViolation(f"an awareness state over the limit of {MAX_STATE_CHARS} characters")
    try:
        msgspec.json.decode(one.state)
    except (msgspec.MsgspecError, RecursionError):
        raise ProtocolViolation("an awareness state that is not JSON") from None
