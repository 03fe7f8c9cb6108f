"""What one transfer has asked of whom."""

from __future__ import annotations

from mesh.attachments.pending import Receiver
from mesh.attachments.surroundings import Surroundings


class Asking:
    """Asks for chunks over lanes, and takes that back. A peer that there is no link with is left alone: the
    end of its link is about to be told.
    """

    def __init__(self, around: Surroundings, receiver: Receiver) -> None:
        self._around = around
        self._receiver = receiver
        self._peers: set[str] = set()

    def ask(self, peer: str, indices: list[int]) -> bool:
        """Ask a peer for chunks; whether there is a link with it."""
        if lane := self._around.lane(peer):
            self._peers.add(peer)
            lane.ask(self._receiver, indices)
        return lane is not None

    def withdraw(self, peer: str, indices: list[int]) -> None:
        """These chunks are not needed of a peer any more."""
        if lane := self._around.lane(peer):
            lane.cancel(self._receiver, indices)

    def forget(self) -> None:
        """Nothing is needed of anybody any more."""
        for peer in self._peers:
            if lane := self._around.lane(peer):
                lane.forget(self._receiver)
