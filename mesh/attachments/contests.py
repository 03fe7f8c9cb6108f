"""Tokens of one blob that contradict each other: they are tried in turn, as who is right shows only when the
bytes are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator

from mesh.attachments.waiters import Waiter
from mesh.core.demand import Identity
from mesh.core.tokens import BlobToken
from mesh.errors import InvalidToken

TURN_SECONDS = 2.0
MAX_TURN_SECONDS = 600.0
"""The length of a turn; it doubles with every round."""

Rival = tuple[BlobToken, list[Waiter]]


class Contests:
    """The tokens whose turn it is not, with those here who wait for them, and the ends of turns."""

    def __init__(self, end_turn: Callable[[bytes], None]) -> None:
        """``end_turn`` is called with a blob when the turn of the token that is tried is over."""
        self._end_turn = end_turn
        self._rivals: dict[str, dict[Identity, Rival]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._rounds: dict[str, int] = {}

    def __contains__(self, hash: str) -> bool:
        return hash in self._rivals

    def rivals(self, hash: str) -> dict[Identity, Rival]:
        """The tokens of a blob that wait for their turn."""
        return dict(self._rivals.get(hash, {}))

    def add(self, token: BlobToken, waiters: Collection[Waiter]) -> None:
        """These wait for the turn of ``token``."""
        rivals = self._rivals.setdefault(token.hash, {})
        rivals.setdefault(identity_of(token), (token, []))[1].extend(waiters)

    def remove(self, token: BlobToken) -> None:
        """It is the turn of ``token``, or nobody waits for it any more."""
        rivals = self._rivals.get(token.hash, {})
        rivals.pop(identity_of(token), None)
        if not rivals:
            self._rivals.pop(token.hash, None)

    def leave(self, token: BlobToken, waiter: Waiter) -> bool:
        """``waiter`` wants the blob no more; whether it was waiting here."""
        _, waiters = self._rivals.get(token.hash, {}).get(identity_of(token), (token, []))
        if waiter not in waiters:
            return False
        waiters.remove(waiter)
        if not waiters:
            self.remove(token)
        return True

    def end(self, hash: str) -> Iterator[tuple[Identity, list[Waiter]]]:
        """Nothing of a blob has to be tried any more; who was waiting, and for which token."""
        for identity, (_, waiters) in self._rivals.pop(hash, {}).items():
            yield identity, waiters

    def time(self, hash: str, *, contested: bool) -> None:
        """While there is more than one token, each gets its turn."""
        timer = self._timers.get(hash)
        if contested and timer is None:
            count = self._rounds[hash] = self._rounds.get(hash, 0) + 1
            seconds = min(MAX_TURN_SECONDS, TURN_SECONDS * 2 ** min((count - 1) // 2, 16))
            self._timers[hash] = asyncio.get_running_loop().call_later(seconds, self._over, hash)
        elif not contested:
            self._rounds.pop(hash, None)
            if timer is not None:
                timer.cancel()
                del self._timers[hash]

    def close(self) -> list[Waiter]:
        """End them all; who was waiting."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        return [waiter for hash in list(self._rivals) for _, waiters in self.end(hash) for waiter in waiters]

    def _over(self, hash: str) -> None:
        del self._timers[hash]
        self._end_turn(bytes.fromhex(hash))


def identity_of(token: BlobToken) -> Identity:
    """What a token says of its blob besides the hash."""
    return token.size_bytes, bytes.fromhex(token.chunks_hash)


def identity_after(candidates: Collection[Identity], tried: Identity | None) -> Identity:
    """Whose turn comes after that of ``tried``: the next in the order of identities."""
    after = tried if tried is not None else (-1, b"")
    return min(candidates, key=lambda other: (other < after, other))


def refuted(held: BlobToken) -> InvalidToken:
    """What a token gets that contradicts ``held``, whose bytes are here."""
    return InvalidToken(
        f"{held.hash} is here with {held.size_bytes} bytes, and the token says otherwise "
        "or has another chunks_hash: its maker must make it again"
    )
