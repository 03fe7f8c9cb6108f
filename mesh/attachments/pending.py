"""What a holder was asked for and has not sent, and for whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mesh.core.chunks import Buffer
from mesh.core.tokens import BlobToken


class Receiver(Protocol):
    """A transfer, as a lane sees it."""

    token: BlobToken

    @property
    def priority(self) -> int:
        """The highest priority of anybody who wants it."""

    def wants(self, index: int) -> bool:
        """Whether a chunk (or the list) is still missing."""

    def take_small(self, peer: str, data: Buffer) -> bool:
        """The only chunk of a blob came: take it, if that needs no waiting; whether it did."""

    async def take_chunk(self, peer: str, index: int, data: Buffer) -> None:
        """A chunk came; returns when it has been verified and written, or not."""

    async def take_list(self, peer: str, hashes: bytes) -> None:
        """A chunk list came."""

    def refused(self, peer: str, index: int) -> None:
        """The holder does not serve a chunk (or the list)."""

    def alive(self, peer: str, index: int, size: int) -> None:
        """A part of a chunk (or of the list) came, ``size`` bytes."""

    def ends(self, index: int, data: Buffer) -> bool:
        """``data`` came of a chunk, and is not as long as the token says. Whether it is, by its hash, all
        there is of it: then the token is wrong, and the transfer has failed."""

    def lacks_end(self, index: int, data: Buffer) -> bool:
        """Whether ``data``, as much of a chunk as the token says, is not that chunk, but perhaps how it
        begins: then the token is wrong."""

    def lost(self, peer: str) -> None:
        """What the holder was asked for will not come: the connection broke."""


class Pending:
    """(hash, index) of chunks, in the order of asking."""

    def __init__(self) -> None:
        self._receivers: dict[tuple[bytes, int], Receiver] = {}
        self._indices: dict[bytes, set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._receivers)

    def add(self, key: tuple[bytes, int], receiver: Receiver) -> None:
        """(hash, index) was asked for."""
        self._receivers[key] = receiver
        self._indices.setdefault(key[0], set()).add(key[1])

    def get(self, key: tuple[bytes, int]) -> Receiver | None:
        """Who asked for it."""
        return self._receivers.get(key)

    def take(self, key: tuple[bytes, int]) -> Receiver | None:
        """It came, or is not wanted any more; who asked for it."""
        receiver = self._receivers.pop(key, None)
        if receiver is not None:
            indices = self._indices[key[0]]
            indices.discard(key[1])
            if not indices:
                del self._indices[key[0]]
        return receiver

    def indices_of(self, hash: bytes) -> list[int]:
        """What was asked for of one blob."""
        return list(self._indices.get(hash, ()))

    def items(self) -> Iterable[tuple[tuple[bytes, int], Receiver]]:
        """Everything."""
        return self._receivers.items()

    def clear(self) -> None:
        """Nothing of it will come."""
        self._receivers.clear()
        self._indices.clear()
