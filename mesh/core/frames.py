"""Frames: how messages become the binary WebSocket messages of a link, and messages again.

A frame has at most ``MAX_FRAME_BYTES``. Its first byte says what follows:

    0  one msgpack-encoded message
    1  one zlib-compressed msgpack-encoded message
    2  a fragment: stream number (u32), flags (u8: 1 = last, 2 = compressed), then a piece of a message

Large messages are cut into fragments that interleave with small ones, so that one large document does not
hold up the others. Chunks of blobs travel outside this codec (see :mod:`mesh.core.chunks`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from mesh.core.structs import UNREADABLE
from mesh.core.wire import (
    MAX_ENTRIES,
    Ack,
    BlobHave,
    BlobNews,
    Changes,
    ChunkList,
    ChunkPiece,
    Differences,
    DirectOffer,
    DirectReceipt,
    Interest,
    Message,
    Pull,
    Resume,
    Revocations,
    Routes,
)
from mesh.errors import ProtocolViolation

MAX_FRAME_BYTES = 256 * 1024
"""Largest frame on a document link."""

MAX_MESSAGE_BYTES = 5 * 1024 * 1024
"""Largest message after reassembly and decompression: a document of 4 MiB, and what is around it."""

MAX_PLAIN_BYTES = 1024 * 1024
"""Largest message of the kinds that need be no larger, such as what says what is wanted."""

MAX_SELECTORS_BYTES = 256 * 1024
"""Selectors of one message: they may become even more of them."""

MAX_OPEN_FRAGMENTS = 16
"""Messages that may be in pieces at once on one link."""

COMPRESS_FROM_BYTES = 1024
"""Messages from this size on are compressed one by one; a compressor held per link would cost 34 kB."""

_PLAIN, _COMPRESSED, _FRAGMENT = 0, 1, 2
_LAST, _PIECES_COMPRESSED = 1, 2
_FRAGMENT_HEAD = struct.Struct("!BIB")


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """A message that is compressed already: the zlib stream of its msgpack bytes."""

    body: bytes


class _Tag(msgspec.Struct, array_like=True, gc=False):
    """Any message: what follows the tag is skipped over, and never becomes objects."""

    tag: int


class _Entry(msgspec.Struct, array_like=True, gc=False):
    """An entry of an interest, whose selector stays bytes."""

    collection: msgspec.Raw
    selector: msgspec.Raw = msgspec.Raw(b"\x80")


class _Interest(msgspec.Struct, array_like=True, gc=False, tag=Interest.__struct_config__.tag):
    origin: msgspec.Raw
    sequence: msgspec.Raw
    hops: msgspec.Raw
    entries: Annotated[list[_Entry], Meta(max_length=MAX_ENTRIES)]


class _Resume(msgspec.Struct, array_like=True, gc=False, tag=Resume.__struct_config__.tag):
    number: msgspec.Raw
    log_id: msgspec.Raw
    after: msgspec.Raw
    empty: msgspec.Raw
    entries: Annotated[list[_Entry], Meta(max_length=MAX_ENTRIES)]


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_tag_decoder = msgspec.msgpack.Decoder(_Tag)
_asking_decoder = msgspec.msgpack.Decoder(_Interest | _Resume)
_tags = frozenset(m.__struct_config__.tag for m in Message.__args__)
_SELECTING = frozenset(kind.__struct_config__.tag for kind in (Interest, Resume))
_DOCUMENTS = (Ack, Changes, Differences, Pull, Routes, Revocations, DirectOffer, DirectReceipt)
_BLOBS = (BlobHave, BlobNews, ChunkList, ChunkPiece)
_SMALL = _tags - {kind.__struct_config__.tag for kind in (*_DOCUMENTS, *_BLOBS)}
_HARMLESS_BYTES = 16 * 1024


def encode_message(message: Message) -> bytes:
    """The msgpack bytes of one message."""
    return _encoder.encode(message)


def decode_message(data: bytes | bytearray | memoryview) -> Message | None:
    """The message in ``data``; ``None`` for a tag that this version does not know.

    Raises:
        ProtocolViolation: ``data`` is not a well-formed message.
    """
    try:
        if len(data) > _HARMLESS_BYTES:
            _check(data)
        return _decoder.decode(data)
    except UNREADABLE as error:
        if _tag_of(data) not in (None, *_tags):
            return None
        raise ProtocolViolation(f"malformed message: {error}") from error


def _check(data: bytes | bytearray | memoryview) -> None:
    """Refuse a message of which too many objects would be made. Lists are checked as they are decoded.

    Raises:
        ProtocolViolation: it is one.
    """
    tag = _tag_of(data)
    if tag in _SMALL and len(data) > MAX_PLAIN_BYTES:
        raise ProtocolViolation(f"a message of {len(data)} bytes that may have {MAX_PLAIN_BYTES}")
    if tag in _SELECTING:
        size = sum(len(memoryview(entry.selector)) for entry in _asking_decoder.decode(data).entries)
        if size > MAX_SELECTORS_BYTES:
            raise ProtocolViolation(f"selectors of {size} bytes, over {MAX_SELECTORS_BYTES}")


def _tag_of(data: bytes | bytearray | memoryview) -> int | None:
    try:
        return _tag_decoder.decode(data).tag
    except UNREADABLE:
        return None


def frames_of(
    message: Message | Encoded, stream: int, *, max_frame: int = MAX_FRAME_BYTES
) -> Iterator[bytes]:
    """The frames that carry ``message``. ``stream`` numbers it among the messages in pieces.

    Raises:
        ProtocolViolation: the message is over ``MAX_MESSAGE_BYTES``; nothing was produced.
    """
    kind, body = _packed(message)
    if len(body) < max_frame:
        yield bytes((kind,)) + body
        return
    room = max_frame - _FRAGMENT_HEAD.size
    flags = _PIECES_COMPRESSED if kind == _COMPRESSED else 0
    for start in range(0, len(body), room):
        last = _LAST if start + room >= len(body) else 0
        yield _FRAGMENT_HEAD.pack(_FRAGMENT, stream, flags | last) + body[start : start + room]


def _packed(message: Message | Encoded) -> tuple[int, bytes]:
    """The kind of frame that a message takes, and its bytes."""
    if isinstance(message, Encoded):
        return _COMPRESSED, message.body
    body = encode_message(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(
            f"a {type(message).__name__} of {len(body)} bytes, but a message has at most {MAX_MESSAGE_BYTES}"
        )
    if len(body) >= COMPRESS_FROM_BYTES and not isinstance(message, ChunkPiece):
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body):
            return _COMPRESSED, smaller
    return _PLAIN, body


class FrameReader:
    """Turns frames back into messages, within the stated limits."""

    def __init__(self, *, max_frame: int = MAX_FRAME_BYTES, max_message: int = MAX_MESSAGE_BYTES) -> None:
        self._max_frame = max_frame
        self._max_message = max_message
        self._pieces: dict[int, bytearray] = {}

    def feed(self, frame: bytes | bytearray | memoryview) -> Message | None:
        """The message that ``frame`` completes; ``None`` if it completes none or an unknown one.

        Raises:
            ProtocolViolation: the frame is malformed or over a limit. The link must be closed.
        """
        if not 1 < len(frame) <= self._max_frame:
            raise ProtocolViolation(f"a frame of {len(frame)} bytes (allowed: 2 to {self._max_frame})")
        kind = frame[0]
        if kind == _PLAIN:
            return decode_message(memoryview(frame)[1:])
        if kind == _COMPRESSED:
            return decode_message(self._inflate(memoryview(frame)[1:]))
        if kind == _FRAGMENT:
            return self._feed_fragment(frame)
        raise ProtocolViolation(f"unknown kind of frame: {kind}")

    def _feed_fragment(self, frame: bytes | bytearray | memoryview) -> Message | None:
        if len(frame) <= _FRAGMENT_HEAD.size:
            raise ProtocolViolation("an empty fragment")
        _, stream, flags = _FRAGMENT_HEAD.unpack_from(frame)
        if stream not in self._pieces and len(self._pieces) >= MAX_OPEN_FRAGMENTS:
            raise ProtocolViolation(f"more than {MAX_OPEN_FRAGMENTS} messages in pieces at once")
        whole = self._pieces.setdefault(stream, bytearray())
        whole += memoryview(frame)[_FRAGMENT_HEAD.size :]
        if sum(map(len, self._pieces.values())) > 2 * self._max_message:
            raise ProtocolViolation(f"fragments of more than {2 * self._max_message} bytes in all")
        if not flags & _LAST:
            return None
        del self._pieces[stream]
        return decode_message(self._inflate(whole) if flags & _PIECES_COMPRESSED else whole)

    def _inflate(self, data: bytearray | memoryview) -> bytes:
        inflater = zlib.decompressobj()
        try:
            body = inflater.decompress(data, self._max_message)
        except zlib.error as error:
            raise ProtocolViolation(f"a compressed frame that does not decompress: {error}") from error
        if inflater.unconsumed_tail or not inflater.eof:
            raise ProtocolViolation(
                f"a compressed message of more than {self._max_message} bytes, or cut short"
            )
        return body
