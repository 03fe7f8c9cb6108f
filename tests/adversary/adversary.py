"""A peer that shakes hands as it should and then sends what it likes, and the messages that it makes up."""

from __future__ import annotations

import asyncio
import random
import types
import typing
from typing import Any

import msgspec

from mesh.core.frames import MAX_FRAME_BYTES, FrameReader, encode_message, frames_of
from mesh.core.handshake import INSTANCE_BYTES, NONCE_BYTES, Handshake
from mesh.core.identity import Identity
from mesh.core.wire import Ack, Change, Changes, Message, Ping, Pong
from mesh.errors import LinkClosed
from mesh.network.transport import Connection, Transport
from tests.fuzz.bytes_of import damaged

MESSAGES = Message.__args__

_NUMBERS = (0, 1, 2, 3, 255, 2**31, 2**53 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**63))
_TEXTS = ("", "cars", "*", "nodes", "receipts", "distributions", "x" * 200, "\0", "../../etc", "é😀", "van")
_SELECTORS: tuple[dict[str, Any], ...] = (
    {},
    {"color": "red"},
    {"$or": [{"a": 1}] * 300},
    {"a": {"$regex": "(a+)+$"}},
    {"a": {"$like": "*a" * 60}},
    {"$not": {"$not": {"$not": {}}}},
    {"a": {"$in": list(range(1000))}},
    {"": {"": {"": None}}},
)


class Adversary:
    """One connection with a node.

    Attributes:
        heard: what the node has said, in order.
        ended: why the node ended it; ``None``: it has not.
    """

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self.connection = connection
        self.identity = identity
        self.heard: list[Message] = []
        self.ended: str | None = None
        self._news = asyncio.Event()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @staticmethod
    async def dial(transport: Transport, url: str, rng: random.Random) -> Adversary:
        """An adversary with an identity of its own, which is linked with the node at ``url``."""
        identity = Identity(rng.randbytes(32))
        connection = await transport.dial(url)
        handshake = Handshake(
            identity,
            dialler=True,
            nonce=rng.randbytes(NONCE_BYTES),
            instance=rng.randbytes(INSTANCE_BYTES),
            binding=connection.binding,
        )
        frames = handshake.start()
        while handshake.peer is None:
            for frame in frames:
                await connection.send(frame)
            frames = handshake.receive(bytes(await connection.receive()))
        connection.trust()
        for frame in frames:
            await connection.send(frame)
        adversary = Adversary(connection, identity)
        await adversary.until(object)  # until then, the node takes no large messages
        return adversary

    async def send(self, *messages: Message) -> None:
        """Say something in the way that it should be said."""
        for message in messages:
            for frame in frames_of(message, 0):
                await self.connection.send(frame)

    async def until(self, kind: type) -> Any:
        """The first message of a kind that the node sends or has sent.

        Raises:
            LinkClosed: the node has ended it instead.
        """
        while True:
            for message in self.heard:
                if isinstance(message, kind):
                    return message
            if self.ended is not None:
                raise LinkClosed(self.ended)
            await self.news()

    async def until_ended(self) -> str:
        """Why the node has ended the link."""
        while self.ended is None:
            await self.news()
        return self.ended

    async def news(self) -> None:
        """Wait until the node says something, or ends it."""
        self._news.clear()
        await self._news.wait()

    async def close(self) -> None:
        """Be gone."""
        await self.connection.close()
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        frames = FrameReader()
        try:
            while True:
                message = frames.feed(await self.connection.receive())
                if isinstance(message, Ping):
                    await self.send(Pong(message.number))
                elif message is not None:
                    self.heard.append(message)
                    self._news.set()
        except LinkClosed as error:
            self.ended = error.reason
            self._news.set()


# --- what it says -----------------------------------------------------------------------------


def made_up(rng: random.Random, kind: Any) -> Any:
    """A value of a type, or of nearly that type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(*(made_up(rng, hints[name]) for name in kind.__struct_fields__))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return made_up(rng, rng.choice(arguments))
    if origin is list:
        return [made_up(rng, arguments[0]) for _ in range(rng.choice((0, 1, 1, 2, 5)))]
    if origin is tuple:
        return tuple(made_up(rng, argument) for argument in arguments)
    if origin is dict:
        if arguments[0] is str:
            return rng.choice(_SELECTORS)
        return {made_up(rng, arguments[0]): made_up(rng, arguments[1]) for _ in range(rng.choice((0, 1, 2)))}
    if kind is bytes:
        return rng.randbytes(rng.choice((0, 1, 8, 8, 16, 32, 32, 100)))
    if kind is int:
        return rng.choice(_NUMBERS)
    if kind is str:
        return rng.choice(_TEXTS)
    if kind is bool:
        return rng.random() < 0.5
    return None


def some_message(rng: random.Random) -> Message:
    """A message of any kind, with anything in it."""
    message: Message = made_up(rng, rng.choice(MESSAGES))
    return message


def some_frames(rng: random.Random) -> list[bytes]:
    """Frames of all sorts: well formed, damaged, cut short, repeated, too large, in pieces without end."""
    body = b"\0" + encode_message(some_message(rng))
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            return [body]
        case 4:
            return [body] * 50
        case 5:
            return [damaged(rng, body, [body])]
        case 6:
            return [body[: rng.randrange(len(body))]]
        case 7:
            size = rng.choice((MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 1 << 20))
            return [b"\2\0\0\0\1\0" + bytes(size - 6)]
        case 8:
            return [b"\2" + stream.to_bytes(4) + b"\0x" for stream in range(rng.choice((10, 17)))]
        case _:
            return [rng.randbytes(rng.choice((1, 2, 100)))]


def change(id: str, update: bytes, collection: str = "cars", clock: bytes = b"evilevil") -> Change:
    """A document's first change."""
    return Change(collection, id, (0, 0), {}, {clock: 1}, update)


async def offer(adversary: Adversary, *changes: Change) -> None:
    """Send documents, and wait until they are stored or refused."""
    await adversary.send(Changes(1, 0, 0, list(changes)))
    await adversary.until(Ack)
