"""One small blob on its way in, as long as all goes well: asked of one holder, verified and written by the
store together with others, without a task or a file of its own."""

from __future__ import annotations

import asyncio

from mesh.attachments.downlink import IN_TURN
from mesh.attachments.lanes import Lane
from mesh.attachments.surroundings import Surroundings
from mesh.attachments.transfers import STUCK_SECONDS
from mesh.attachments.wanted import Wanted
from mesh.core.chunks import Buffer, ChunkMap, hash_chunk
from mesh.core.fetching import SILENCE
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import MeshError

LATE_SECONDS = 5.0
"""What one holder was asked for so long ago is asked of others, where there are any."""


class SmallTransfer(Wanted):
    """Does for a blob of one small chunk what :class:`~mesh.attachments.transfers.Transfer` does for any; at
    the first sign of trouble it gives its place to one.

    Attributes:
        held: nothing is held until it is whole.
    """

    held: ChunkMap | None = None

    def __init__(self, around: Surroundings, token: BlobToken) -> None:
        super().__init__(token)
        self._around = around
        self._moved_at = asyncio.get_running_loop().time()
        self._claimed = False
        self._granted = False
        self._asked: str | None = None
        self._lane: Lane | None = None  # that it was asked over
        self._writing: asyncio.Future[None] | None = None
        self._ended = False

    def name(self, token: BlobToken) -> None:
        """Keep the metadata of ``token``, which is of the same blob."""
        self.token = token

    def stop(self) -> None:
        """Stop."""
        self._end()

    def fail(self, error: MeshError) -> None:
        """End with an error."""
        if not self._ended:
            self._end()
            progress = BlobProgress("failed", 0, self.token.size_bytes, [], str(error))
            for waiter in self.waiters:
                waiter.tell(progress)
            self._around.ended(self, error)

    def retry(self) -> None:
        """There may be room now: it does not wait for any."""

    # --- what is learnt of holders ------------------------------------------------------------------

    def holder(self, peer: str, have: ChunkMap | None) -> None:
        """A peer says what it holds (``None``: everything)."""
        self.known[peer] = have
        if not self._claimed and self._holders():
            self._claimed = True
            self._around.slots.claim(self, self._begin)
        else:
            self.go_on()

    def gone(self, peer: str) -> None:
        """A peer is not a source any more."""
        self.known.pop(peer, None)
        if self._asked == peer or (self._granted and not self._holders()):
            self._falter()

    def give_way(self) -> None:
        """See :class:`~mesh.attachments.downlink.Fetcher`."""
        if self._asked is not None and self._lane is not None:
            self._lane.cancel(self, [0])
            self._asked = None
            self.go_on()

    def go_on(self) -> None:
        """See :class:`~mesh.attachments.downlink.Fetcher`."""
        if self._granted and not self._ended and self._asked is None and self._writing is None:
            self._ask()

    def refresh(self) -> None:
        """Who wants it has changed, or something that progress tells."""
        if self._granted and not self._ended:
            self._around.downlink.enter(self)
        if self._claimed:
            self._around.slots.raised(self)
        self._report()

    # --- what lanes report -----------------------------------------------------------------------------

    def wants(self, index: int) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        return index == 0 and self._asked is not None and not self._ended

    def take_small(self, peer: str, data: Buffer) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        if not self._ended and self._writing is None:
            self._asked = None
            self._around.downlink.got_on(self)
            self._writing = self._around.store.take(self.token, bytes(data), cached=not self.waiters)
            self._writing.add_done_callback(self._written)
        return True

    async def take_chunk(self, peer: str, index: int, data: Buffer) -> None:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        self.take_small(peer, data)

    async def take_list(self, peer: str, hashes: bytes) -> None:
        """See :class:`~mesh.attachments.pending.Receiver`: it asks for none."""

    def refused(self, peer: str, index: int) -> None:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        self._asked = None
        self._falter()

    def alive(self, peer: str, index: int, size: int) -> None:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        self._around.downlink.got_on(self)

    def ends(self, index: int, data: Buffer) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`: an ordinary transfer finds out."""
        if hash_chunk(data).hex() != self.token.hash:
            return False
        self._asked = None
        self._falter()
        return True

    def lacks_end(self, index: int, data: Buffer) -> bool:
        """See :class:`~mesh.attachments.pending.Receiver`: an ordinary transfer finds out."""
        return False

    def lost(self, peer: str) -> None:
        """See :class:`~mesh.attachments.pending.Receiver`."""
        self._asked = None
        self._falter()

    # --- its course ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._granted = True
        self._around.downlink.enter(self)
        self._ask()

    def _ask(self) -> None:
        holders = self._holders()
        if not holders:
            self._falter()
            return
        # The last byte of the hash spreads many blobs over the holders.
        peer = holders[int(self.token.hash[-2:], 16) % len(holders)]
        lane = self._around.lane(peer)
        if lane is not None and self._around.downlink.take(self, peer, self.token.size_bytes):
            self._asked, self._moved_at = peer, asyncio.get_running_loop().time()
            self._lane = lane
            lane.ask(self, [0])
            self._around.downlink.got_on(self)
        self._report()

    def _holders(self) -> list[str]:
        return [peer for peer, have in self.known.items() if have is None or have]

    def _written(self, writing: asyncio.Future[None]) -> None:
        if writing.cancelled() or self._ended:
            return
        if writing.exception() is not None:
            self._falter()
            return
        self._end()
        self.tell_completed()
        self._around.ended(self, None)

    def look(self, now: float) -> None:
        """Whether it gets on. Called every few seconds."""
        if self._asked is not None:
            patience = LATE_SECONDS if len(self.known) > 1 else SILENCE
            if now >= self._moved_at + patience:
                self._falter()
        elif self._claimed and not self._granted:
            self._moved_at = now  # it waits for its turn only
        elif self._writing is None and self.waiters and now >= self._moved_at + STUCK_SECONDS:
            self._moved_at = now
            self._around.stuck(self)

    def _falter(self) -> None:
        if not self._ended and (self._writing is None or self._writing.done()):
            self._end()
            self._around.falter(self)

    def _end(self) -> None:
        self._ended = True
        if self._granted:
            self._around.downlink.leave(self)
        if self._claimed:
            self._around.slots.give_back(self)
        if self._lane is not None:
            self._lane.forget(self)
        if self._writing is not None:
            self._writing.cancel()
        self._asked = None

    # --- progress --------------------------------------------------------------------------------------

    def progress(self) -> BlobProgress:
        """How far it is."""
        size = self.token.size_bytes
        if self._asked is not None or self._writing is not None:
            return BlobProgress("transferring", 0, size, [self._asked] if self._asked is not None else [])
        if self._granted:
            return BlobProgress("stalled", 0, size, [], self._around.downlink.held_back(self))
        if self._claimed:
            return BlobProgress("waiting", 0, size, [], IN_TURN)
        asked = sorted(self._around.asked(self.token.hash))
        why = f"no source: asked {', '.join(asked)}" if asked else "no peers are connected"
        return BlobProgress("waiting", 0, size, [], why)

    def _report(self) -> None:
        if not self._ended:
            for waiter in self.waiters:
                waiter.look(self.progress)
