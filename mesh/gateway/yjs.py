"""Yjs clients: ``/yjs/{collection}/{id}`` speaks y-websocket, so that browsers edit documents of the mesh.

The clients of one document share a room, which lives as long as there are any. Nothing of the document is
kept in it: what a client lacks is read from the store, and what is committed to it, by whomever, is passed on
to all of them, the writer included. So what comes back to a client is durable. Awareness stays in the room,
and is passed on to all of them as well; to a y-websocket client that is the sign that it is still connected.

Connections are closed with a code that says whether to come back: those from 4500 on are for now, those below
for good, which y-websocket clients respect.

    4400  nothing can be called so, or what came is not of this protocol
    4401  a token is needed
    4403  the client wrote what can only be read here: a document that belongs to a node, or one of a
          collection that this node may not write; or it is a page of another origin
    4410  the client holds an incarnation of the document that was removed (of a document that belongs to a
          node: a record that was replaced): start afresh with a new Y.Doc, and clear what was kept of it
    4413  the document would be too large
    4422  no document of the mesh can hold what the client wrote; the reason says why
    4429  the client says more of itself, to all that look at the document, than anybody follows
    4503  later: the client was too slow, knows more than this node does, or this node has a problem
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from mesh.collections.yjs_documents import YjsDocuments
from mesh.core import browsers
from mesh.core.awareness import AwarenessTable
from mesh.core.commits import Commit
from mesh.core.document import Name
from mesh.core.library import EMPTY_UPDATE
from mesh.core.limits import peer_log
from mesh.core.rates import TokenBucket
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.updates import Incomplete
from mesh.core.yjs_messages import (
    AWARENESS,
    QUERY_AWARENESS,
    STEP_1,
    STEP_2,
    SYNC,
    UPDATE,
    Awareness,
    Message,
    decode_awareness,
    decode_message,
    encode_awareness,
    encode_sync,
)
from mesh.errors import (
    DocumentTooLarge,
    InvalidCollectionName,
    InvalidDocument,
    MeshError,
    PermissionDenied,
    ProtocolViolation,
)

log = peer_log(__name__)

MAX_UNSENT_BYTES = 4 << 20
"""What may wait for a slow client, beside one answer to it; then it has to come back and ask."""

MAX_ALL_UNSENT_BYTES = 64 << 20
"""What may wait for all of them; then the one for which most waits has to."""

AWARENESS_BYTES_PER_SECOND = 128 << 10
"""What one client may say of itself in the long run: as much goes to each of those that look."""

AWARENESS_BYTES_AT_ONCE = 1 << 20

_AWARENESS_COST = 256  # of a message beside its bytes

MAX_REASON_BYTES = 123
"""What a close frame has room for."""

CLOSING = 1001

_LATER = 4503
_TOO_SLOW = "too slow: come back and ask for what is lacking"
_FLOOD = 4429
_CODES: list[tuple[type[MeshError], int]] = [
    (ProtocolViolation, 4400),
    (InvalidCollectionName, 4400),
    (PermissionDenied, 4403),
    (DocumentTooLarge, 4413),
    (Incomplete, _LATER),
    (InvalidDocument, 4422),
]
_STANDINGS = {
    "gone": (4410, "this document was removed or replaced: start afresh with a new Y.Doc"),
    "ahead": (_LATER, "this node has not heard of what you hold yet: come back later"),
}


class Rooms:
    """The rooms of one gateway."""

    def __init__(self, documents: YjsDocuments) -> None:
        self.documents = documents
        self._rooms: dict[Name, _Room] = {}
        self._unsent = 0

    @property
    def clients(self) -> int:
        """How many there are."""
        return sum(len(room.clients) for room in self._rooms.values())

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client until either side closes."""
        name = (websocket.path_params["collection"], websocket.path_params["id"])
        await websocket.accept()
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room()
            self.documents.follow(name, room.committed)
        client = _Client(websocket, name, room, self.documents, self._waits)
        room.clients.add(client)
        try:
            await client.run()
        finally:
            room.leave(client)
            if not room.clients:
                del self._rooms[name]
                self.documents.follow(name, None)

    def _waits(self, size: int) -> None:
        """So much more waits for a client, or so much less."""
        self._unsent += size
        if size > 0 and self._unsent > MAX_ALL_UNSENT_BYTES:
            clients = (client for room in self._rooms.values() for client in room.clients)
            max(clients, key=lambda client: client.unsent_bytes).end(_LATER, _TOO_SLOW)

    def close(self) -> None:
        """Send every client away; it may come back at once."""
        for room in self._rooms.values():
            for client in room.clients:
                client.end(CLOSING, "the gateway closes")


class _Room:
    """The clients of one document."""

    def __init__(self) -> None:
        self.clients: set[_Client] = set()
        self.awareness = AwarenessTable()

    def committed(self, commit: Commit) -> None:
        update = encode_sync(UPDATE, commit.change.update)  # once: slow clients hold the same
        for client in self.clients:
            client.committed(commit, update)

    def tell(self, news: list[Awareness]) -> None:
        if news:
            message = encode_awareness(news)
            for client in self.clients:
                client.send(message)

    def leave(self, client: _Client) -> None:
        self.clients.discard(client)
        self.tell(self.awareness.leave(client))


class _Client:
    """One connection.

    1. A client says first what it holds (sync step 1), and is told then what it lacks and, if it may write,
       what it has to tell (sync step 1 in turn). Before that nothing is said of the document.
    2. From then on it is told of every commit; those that come while the document is read are kept, and told
       afterwards unless they were in it.
    3. ``incarnation`` is what it holds: it has been sent the mark of it, or has come with it.
    """

    def __init__(
        self,
        websocket: WebSocket,
        name: Name,
        room: _Room,
        documents: YjsDocuments,
        waits: Callable[[int], None],
    ) -> None:
        self._websocket = websocket
        self._name = name
        self._room = room
        self._documents = documents
        self._follows = False
        self._missed: list[tuple[Commit, bytes]] | None = None  # while the document is read
        self._incarnation: int | None = None
        self._unsent: deque[bytes] = deque()
        self.unsent_bytes = 0
        self._waits = waits
        self._ending: tuple[int, str] | None = None
        self._wakeup = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._rate = TokenBucket(AWARENESS_BYTES_PER_SECOND, self._loop.time(), AWARENESS_BYTES_AT_ONCE)

    async def run(self) -> None:
        """Serve it until either side closes."""
        receiving = asyncio.create_task(self._receive())
        try:
            await self._send()
        finally:
            receiving.cancel()
            await asyncio.wait([receiving])
            self.end(CLOSING, "")

    def send(self, message: bytes) -> None:
        """Send ``message`` when it is its turn."""
        if self.unsent_bytes > MAX_UNSENT_BYTES:
            self.end(_LATER, _TOO_SLOW)
        if self._ending is None:
            self._unsent.append(message)
            self._wakeup.set()
            self._count(len(message))

    def _count(self, size: int) -> None:
        self.unsent_bytes += size
        self._waits(size)

    def end(self, code: int, reason: str) -> None:
        """Close the connection; what has not been sent yet is dropped."""
        if self._ending is None:
            self._ending = (code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))
            self._unsent.clear()
            self._count(-self.unsent_bytes)
            self._wakeup.set()

    async def _send(self) -> None:
        try:
            while self._ending is None:
                if self._unsent:
                    message = self._unsent.popleft()
                    self._count(-len(message))
                    await self._websocket.send_bytes(message)
                else:
                    self._wakeup.clear()
                    await self._wakeup.wait()
            if self._websocket.client_state is WebSocketState.CONNECTED:
                await self._websocket.close(*self._ending)
        except WebSocketDisconnect:
            pass  # it is gone: nobody is left to be told

    # --- what the client says ---------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            while self._ending is None:
                received = await self._websocket.receive()
                if received["type"] == "websocket.disconnect":
                    self.end(CLOSING, "")
                elif received.get("bytes") is None:
                    raise ProtocolViolation("a message that is text")
                else:
                    await self._heard(decode_message(received["bytes"]))
        except MeshError as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), _LATER)
            log.info("the Yjs client of %s/%s is sent away: %s", *self._name, error)
            self.end(code, str(error))
        except Exception:
            log.exception("serving a Yjs client of %s/%s failed", *self._name)
            self.end(_LATER, "the gateway failed: see its log")

    async def _heard(self, message: Message) -> None:
        if message.about == SYNC and message.step == STEP_1:
            await self._show(message.payload)
        elif message.about == SYNC:
            await self._write(message.payload)
        elif not self._is_flood(len(message.payload) + _AWARENESS_COST):
            self._heard_awareness(message)

    def _is_flood(self, size: int) -> bool:
        """Whether the client has gone too far, and is sent away."""
        now = self._loop.time()
        self._rate.take(size, now)
        if self._rate.ready_at(0, now) <= now:
            return False
        log.info("a Yjs client of %s/%s is sent away: it floods the others", *self._name)
        self.end(_FLOOD, "too much awareness: the other clients could not follow")
        return True

    def _heard_awareness(self, message: Message) -> None:
        if message.about == AWARENESS:
            self._room.tell(self._room.awareness.take(self, decode_awareness(message.payload)))
        elif message.about == QUERY_AWARENESS:
            self.send(encode_awareness(self._room.awareness.here()))

    async def _show(self, state_vector: bytes) -> None:
        first, self._follows = not self._follows, True
        self._missed = []
        view = await self._documents.view(self._name, state_vector)
        missed, self._missed = self._missed, None
        if view.standing != "current":
            self.end(*_STANDINGS[view.standing])
            return
        self._incarnation = view.incarnation
        if view.mark is not None:
            self.send(encode_sync(UPDATE, view.mark))
        self.send(encode_sync(STEP_2, view.lacking))
        if view.state_vector is not None:
            self.send(encode_sync(STEP_1, view.state_vector))
        if first and (here := self._room.awareness.here()):
            self.send(encode_awareness(here))
        for commit, update in missed:
            if commit.seq > view.seq:
                self.committed(commit, update)

    async def _write(self, update: bytes) -> None:
        if not self._follows:
            raise ProtocolViolation("a client has to say first what it holds (sync step 1)")
        if update == EMPTY_UPDATE:
            return
        standing = await self._documents.contribute(self._name, self._incarnation, update)
        if standing != "current":
            self.end(*_STANDINGS[standing])

    # --- what is committed ------------------------------------------------------------------------

    def committed(self, commit: Commit, update: bytes) -> None:
        """The document has changed; ``update`` says how."""
        if not self._follows:
            return
        if self._missed is not None:
            self._missed.append((commit, update))
            return
        incarnation = commit.change.rank[0] % browsers.MARKS
        if self._name[0] in OWNED_COLLECTIONS:
            self.end(*_STANDINGS["ahead" if self._incarnation is None else "gone"])
        elif commit.evicted:
            self.end(_LATER, "this node has dropped the document: come back for what others hold")
        elif self._incarnation is not None and (commit.after is None or incarnation > self._incarnation):
            self.end(*_STANDINGS["gone"])
        elif commit.after is not None and incarnation >= (self._incarnation or 0):
            if self._incarnation is None:
                self._incarnation = incarnation
                self.send(encode_sync(UPDATE, browsers.marking(browsers.mark_of(self._name, incarnation))))
            self.send(update)
