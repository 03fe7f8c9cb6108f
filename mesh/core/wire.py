"""The wire: every message that travels on a link, and how it becomes bytes.

A link carries binary WebSocket messages ("frames") of at most ``MAX_FRAME_BYTES``. The first byte
of a frame says what follows:

    0  one msgpack-encoded message
    1  one zlib-compressed msgpack-encoded message
    2  a fragment: stream number (u32), flags (u8: 1 = last, 2 = compressed), then a piece of a message

A message is a msgpack array whose first element is its tag, an integer that is never reused. An
unknown tag is skipped, so that a newer peer may say more (DESIGN.md, section 5). Large messages are cut into
fragments that interleave with small ones, so that one large document does not hold up the others.

Chunks of blobs travel outside this codec (see :mod:`mesh.core.chunks`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from mesh.errors import ProtocolViolation

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

MAX_FRAME_BYTES = 256 * 1024
"""Largest frame on a document link."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Largest message after reassembly and decompression."""

MAX_OPEN_FRAGMENTS = 16
"""Messages that may be in pieces at once on one link."""

COMPRESS_FROM_BYTES = 1024
"""Messages from this size on are compressed one by one; a compressor held per link would cost 34 kB."""

_PLAIN, _COMPRESSED, _FRAGMENT = 0, 1, 2
_LAST, _PIECES_COMPRESSED = 1, 2
_FRAGMENT_HEAD = struct.Struct("!BIB")


class _Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of every message: a msgpack array that starts with the tag."""


# --- handshake (tags 1-9) ---------------------------------------------------------------------


class Hello(_Message, tag=1, frozen=True):
    """First on every connection, from both sides, before anything is trusted.

    ``purpose`` is ``"link"`` for documents or ``"bulk"`` for blob chunks. ``listen`` is where the
    sender accepts connections (``None``: nowhere), so that the other side may dial a bulk connection.
    """

    protocol_min: int
    protocol_max: int
    features: list[str]
    public_key: bytes
    nonce: bytes
    purpose: str
    name: str
    listen: str | None
    mesh_id: str


class Proof(_Message, tag=2, frozen=True):
    """Signature over both hellos, by the key in the sender's hello."""

    signature: bytes


class Goodbye(_Message, tag=3, frozen=True):
    """The sender closes the link, and says why."""

    reason: str


class Ping(_Message, tag=4, frozen=True):
    """Answered by a :class:`Pong` with the same number: proves that the peer lives, measures the RTT."""

    number: int


class Pong(_Message, tag=5, frozen=True):
    """Answer to a :class:`Ping`."""

    number: int


# --- documents (tags 10-29) -------------------------------------------------------------------


class InterestEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One collection that an origin wants, whole (``selector`` empty) or in part."""

    collection: str
    selector: dict[str, Any] = {}


class Interest(_Message, tag=10, frozen=True):
    """What ``origin`` wants to be kept up to date with; replaces its entries of a lower ``sequence``."""

    origin: str
    sequence: int
    hops: int
    entries: list[InterestEntry]


class Resume(_Message, tag=11, frozen=True):
    """Where the sender stands in the receiver's log: send what came after ``after``.

    ``log_id`` is the log that the sender remembers (empty: none) and ``interest`` the digest of the
    interest under which it got there; where either does not fit, the receiver starts a reconciliation.
    """

    log_id: bytes
    interest: bytes
    after: int


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One document's change.

    It applies where the held version covers ``since``; afterwards the held version is held ∪ ``until``.
    ``rank`` orders whole states: (incarnation, dead) for a merged document, (epoch, sequence) for an
    owned one. An empty ``since`` means that ``update`` is the whole state.
    """

    collection: str
    id: str
    rank: tuple[int, int]
    since: dict[bytes, int]
    until: dict[bytes, int]
    update: bytes


class Changes(_Message, tag=12, frozen=True):
    """A batch of changes, applied in one commit. Afterwards the receiver holds everything of the
    sender's log ``log_id`` up to ``upto`` that it asked for. Answered by :class:`Ack`."""

    number: int
    log_id: bytes
    upto: int
    changes: list[Change]


class Ack(_Message, tag=13, frozen=True):
    """The receiver holds :class:`Changes` ``number`` durably; the sender's window moves on."""

    number: int


class Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The version of one document, without its content."""

    collection: str
    id: str
    rank: tuple[int, int]
    vector: dict[bytes, int]


class Offer(_Message, tag=14, frozen=True):
    """Versions that the sender holds and the receiver may lack; it pulls what it wants."""

    versions: list[Version]


class Want(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One document that the sender lacks, and what it holds of it (a Yjs state vector)."""

    collection: str
    id: str
    rank: tuple[int, int]
    vector: dict[bytes, int]
    state_vector: bytes


class Pull(_Message, tag=15, frozen=True):
    """Send me the difference for these documents."""

    wants: list[Want]


class Fingerprint(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Digest of all (document, version) pairs whose key hash starts with ``prefix``."""

    prefix: bytes
    digest: bytes
    count: int


class Reconcile(_Message, tag=16, frozen=True):
    """Fingerprints of key ranges of the sender, within the receiver's view of ``interest``."""

    round: int
    interest: bytes
    fingerprints: list[Fingerprint]
    listed: list[tuple[bytes, list[Version]]]


class Barrier(_Message, tag=17, frozen=True):
    """Answer with :class:`BarrierReached` once everything for me has been sent and acknowledged."""

    number: int


class BarrierReached(_Message, tag=18, frozen=True):
    """Everything that the sender had for the receiver when it got the barrier is durable there."""

    number: int


# --- attachments (tags 30-49) -----------------------------------------------------------------


class BlobAsk(_Message, tag=30, frozen=True):
    """``origin`` wants a blob: tell the sender what you hold of it, now and whenever that grows.

    Soft state: repeated while it lasts, forgotten when it is not. A node that holds nothing asks on.
    """

    origin: str
    hash: bytes
    size_bytes: int
    chunks_hash: bytes
    priority: int
    hops: int


class BlobForget(_Message, tag=31, frozen=True):
    """``origin`` no longer wants the blob."""

    origin: str
    hash: bytes


class BlobHave(_Message, tag=32, frozen=True):
    """What the sender holds: ``None`` for everything, else a bit per chunk (lowest bit first)."""

    hash: bytes
    chunks: bytes | None


class BulkDial(_Message, tag=33, frozen=True):
    """Please dial a bulk connection to me at ``address`` (or at the address you dialled me under):
    I want chunks from you and cannot reach you."""

    address: str | None


class ChunkListGet(_Message, tag=34, frozen=True):
    """Send the chunk hashes of a blob."""

    hash: bytes


class ChunkList(_Message, tag=35, frozen=True):
    """The 32-byte chunk hashes of a blob from chunk ``start`` on, a piece at a time. Verified whole
    against the token's ``chunks_hash``. ``total`` 0 with no hashes: the sender does not have the list."""

    hash: bytes
    start: int
    total: int
    hashes: bytes


class ChunkGet(_Message, tag=36, frozen=True):
    """Send these chunks of a blob, in this order."""

    hash: bytes
    indices: list[int]
    priority: int


class ChunkCancel(_Message, tag=37, frozen=True):
    """These chunks are no longer wanted from you."""

    hash: bytes
    indices: list[int]


class ChunkRefused(_Message, tag=38, frozen=True):
    """The sender cannot serve this chunk, and why."""

    hash: bytes
    index: int
    reason: str


class ChunkPiece(_Message, tag=39, frozen=True):
    """A piece of a chunk on the shared link, where no bulk connection can be made."""

    hash: bytes
    index: int
    offset: int
    data: bytes


Message = (
    Hello | Proof | Goodbye | Ping | Pong
    | Interest | Resume | Changes | Ack | Offer | Pull | Reconcile | Barrier | BarrierReached
    | BlobAsk | BlobForget | BlobHave | BulkDial
    | ChunkListGet | ChunkList | ChunkGet | ChunkCancel | ChunkRefused | ChunkPiece
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_any_decoder = msgspec.msgpack.Decoder(tuple[Any, ...])
_tags = frozenset(m.__struct_config__.tag for m in Message.__args__)


def encode_message(message: Message) -> bytes:
    """The msgpack bytes of one message."""
    return _encoder.encode(message)


def decode_message(data: bytes | bytearray | memoryview) -> Message | None:
    """The message in ``data``; ``None`` for a tag that this version does not know.

    Raises:
        ProtocolViolation: ``data`` is not a well-formed message.
    """
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        try:
            unknown = _any_decoder.decode(data)
        except msgspec.MsgspecError:
            unknown = ()
        if unknown and type(unknown[0]) is int and unknown[0] not in _tags:
            return None
        raise ProtocolViolation(f"malformed message: {error}") from error


def frames_of(message: Message, stream: int, *, max_frame: int = MAX_FRAME_BYTES) -> Iterator[bytes]:
    """The frames that carry ``message``. ``stream`` numbers it among the messages in pieces.

    Raises:
        ProtocolViolation: the message is over ``MAX_MESSAGE_BYTES``; nothing was produced.
    """
    body = encode_message(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(
            f"a {type(message).__name__} of {len(body)} bytes is over the {MAX_MESSAGE_BYTES} bytes of a message"
        )
    kind = _PLAIN
    if len(body) >= COMPRESS_FROM_BYTES and not isinstance(message, ChunkPiece):
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body):
            body, kind = smaller, _COMPRESSED
    if len(body) < max_frame:
        yield bytes((kind,)) + body
        return
    room = max_frame - _FRAGMENT_HEAD.size
    flags = _PIECES_COMPRESSED if kind == _COMPRESSED else 0
    for start in range(0, len(body), room):
        last = _LAST if start + room >= len(body) else 0
        yield _FRAGMENT_HEAD.pack(_FRAGMENT, stream, flags | last) + body[start : start + room]


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
            raise ProtocolViolation(f"a compressed message of more than {self._max_message} bytes, or cut short")
        return body
