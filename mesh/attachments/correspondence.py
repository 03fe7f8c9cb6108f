"""What nodes tell each other of blobs: who wants which, and who holds what of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from mesh.attachments.announcing import Announcer
from mesh.attachments.contests import identity_of
from mesh.attachments.letters import Letters, token_of
from mesh.attachments.oversize import Oversize, RelayBytes
from mesh.attachments.readers import Readers
from mesh.attachments.running import Running
from mesh.core.demand import Demands, Identity, Send
from mesh.core.tokens import BlobToken
from mesh.core.wire import BlobAsk, BlobForget, BlobHave, BlobServed, BlobTooLarge
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.storage.blobs import BlobStore

TICK_SECONDS = 5.0
"""How often demands are looked through for what is due, while there are any."""

MayRelay = Callable[[BlobToken, str], bool]


class Correspondence:
    """The demand for blobs, here and elsewhere, with the messages that it travels in.

    Whatever changes the demand for a blob is followed by ``on_change``, which calls :meth:`update`.
    """

    def __init__(
        self,
        peers: Peers,
        store: BlobStore,
        transfers: Running,
        *,
        node_id: str,
        clock: Callable[[], float],
        may_relay: MayRelay,
        relay_bytes: RelayBytes,
        readers: Readers,
        on_change: Callable[[bytes], None],
        on_asked: Callable[[bytes], None],
        on_have: Callable[[Link, BlobHave], None],
    ) -> None:
        """
        Args:
            relay_bytes: what bounds the size of blobs that are relayed.
            readers: who may have what.
            on_change: told of a blob that the demand for may have changed.
            on_asked: told of a blob that somebody asks for, before that is answered.
            on_have: told what a peer that was asked for a blob holds of it.
        """
        self._store = store
        self._transfers = transfers
        self._clock = clock
        self._may_relay = may_relay
        self._readers = readers
        self._on_change = on_change
        self._on_asked = on_asked
        self._on_have = on_have
        self._demands = Demands(node_id)
        self._letters = Letters(peers)
        self._announcer = Announcer(self._tell)
        self._oversize = Oversize(peers, relay_bytes)
        self._last_sequence = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._running = False
        self._letters.on(BlobAsk, self._ask_came)
        self._letters.on(BlobForget, self._forgotten)
        self._letters.on(BlobServed, self._served)
        self._letters.on(BlobHave, self._have_came)
        peers.handle(BlobTooLarge, self._too_large_came)

    def start(self) -> None:
        """Take part from now on."""
        self._running = True

    def close(self) -> None:
        """Say nothing more by itself, and answer nobody."""
        self._running = False
        if self._ticking is not None:
            self._ticking.cancel()
        self._announcer.close()

    # --- what this node says ----------------------------------------------------------------------------

    def want(self, token: BlobToken, priority: int) -> None:
        """Ask for a blob."""
        hash, (size_bytes, chunks_hash) = bytes.fromhex(token.hash), identity_of(token)
        self._send(self._demands.want(hash, size_bytes, chunks_hash, priority, self._sequence(), _now()))

    def want_widely(self, hash: bytes) -> None:
        """Ask again for a blob, over every path."""
        self._send(self._demands.repeat(hash, self._sequence(), _now(), wide=True))

    def unwant(self, hash: bytes) -> None:
        """Nobody here wants a blob any more."""
        self._send(self._demands.unwant(hash))

    def set_whole(self, hash: bytes, whole: bool) -> None:
        """Tell that a blob has become whole here, or is gone."""
        self._send(self._demands.set_whole(hash, whole))
        self._announcer.tell_all(hash)

    def grew(self, hash: bytes) -> None:
        """Tell of a chunk that arrived, soon."""
        self._announcer.grew(hash)

    def update(self, hash: bytes) -> None:
        """Tell those, and only those, who are to be told of a blob what is held of it."""
        self._announcer.set_listeners(hash, self._demands.listeners(hash))
        if hash in self._oversize:
            self._oversize.keep(hash, self._demands.asked_of(hash))
        self._watch()

    def judge_again(self, hash: bytes) -> None:
        """A blob that was refused to be relayed may be now."""
        for origin, (size_bytes, chunks_hash) in self._demands.refused(hash).items():
            if self._may_relay(BlobToken(hash.hex(), size_bytes, chunks_hash.hex()), origin):
                self._send(self._demands.relay(hash, origin))
        self._on_asked(hash)
        self._on_change(hash)

    # --- what is known of the demand --------------------------------------------------------------------

    def listeners(self, hash: bytes) -> set[str]:
        """See :meth:`~mesh.core.demand.Demands.listeners`."""
        return self._demands.listeners(hash)

    def relayed(self, hash: bytes) -> dict[Identity, int]:
        """See :meth:`~mesh.core.demand.Demands.relayed`."""
        return self._demands.relayed(hash)

    def asked_of(self, hash: bytes) -> set[str]:
        """See :meth:`~mesh.core.demand.Demands.asked_of`."""
        return self._demands.asked_of(hash)

    def said_of(self, hash: bytes, peer: str) -> str:
        """See :meth:`~mesh.attachments.oversize.Oversize.of`."""
        return self._oversize.of(hash, peer)

    # --- what links bring -------------------------------------------------------------------------------

    def link_up(self, peer: str) -> None:
        """A link came up."""
        if self._running:
            self._send(self._demands.link_up(peer))
            self._changed(self._demands.blobs)

    def link_down(self, peer: str) -> None:
        """A link ended."""
        self._letters.forget(peer)
        self._readers.forget(peer)
        self._announcer.forget(peer)
        before = self._demands.blobs
        self._send(self._demands.link_down(peer))
        self._changed(before)

    def _ask_came(self, link: Link, ask: BlobAsk) -> None:
        token_of(ask)  # refused at once, if it cannot be
        self._readers.ask(link, ask, self._asked, self._refused)

    def _refused(self, link: Link, ask: BlobAsk) -> None:
        """Answer as if the blob were not here."""
        self._letters.say(link.node_id, BlobHave(ask.hash, b""))

    def _asked(self, link: Link, ask: BlobAsk) -> None:
        hash, token = ask.hash, token_of(ask)
        if not self._running:
            return
        relay = self._may_relay(token, ask.origin)
        if not relay:
            self._oversize.refused(link, token, ask.origin)
        self._send(self._demands.set_whole(hash, self._store.exists(token.hash)))
        self._send(self._demands.asked(link.node_id, ask, relay=relay, now=_now()))
        self._on_asked(hash)
        if not self._announcer.listens(hash, link.node_id):
            self._on_change(hash)  # which tells it
        elif link.node_id in self._demands.listeners(hash):
            self._tell(link.node_id, hash)
            self._on_change(hash)

    def _forgotten(self, link: Link, forget: BlobForget) -> None:
        self._readers.taken_back(link.node_id, forget.hash, forget.origin)
        self._send(self._demands.forgotten(link.node_id, forget, _now()))
        self._on_change(forget.hash)

    def _served(self, link: Link, message: BlobServed) -> None:
        self._send(self._demands.served(link.node_id, message))
        self._on_change(message.hash)

    def _have_came(self, link: Link, message: BlobHave) -> None:
        if self._running and self._demands.accepted(link.node_id, message.hash):
            self._on_have(link, message)

    def _too_large_came(self, link: Link, message: BlobTooLarge) -> None:
        if self._running and link.node_id in self._demands.asked_of(message.hash):
            self._oversize.heard(link.node_id, message)
            self._on_change(message.hash)

    def _changed(self, blobs: Collection[bytes]) -> None:
        """The demand may have changed for those that there is one for, and for these."""
        for hash in {*self._demands.blobs, *blobs}:
            self._on_change(hash)

    # --- time -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._ticking is None and self._running and self._demands.blobs:
            self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = _now()
        sends, changed, due = self._demands.expire(now)
        for hash in due:
            sends += self._demands.repeat(hash, self._sequence(), now, wide=False)
        self._send(sends)
        for hash in changed:
            self._on_change(hash)
        self._transfers.look(now)
        self._watch()

    def _sequence(self) -> int:
        """Grows, over restarts too."""
        self._last_sequence = max(self._last_sequence + 1, int(self._clock() * 1000))
        return self._last_sequence

    # --- letters ----------------------------------------------------------------------------------------

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            self._letters.say(send.link, send.message)

    def _tell(self, peer: str, hash: bytes) -> None:
        self._letters.say(peer, self._transfers.have(hash))


def _now() -> float:
    return asyncio.get_running_loop().time()
