"""The wire: every message that travels on a link. :mod:`mesh.core.frames` makes bytes of them.

A message is a msgpack array whose first element is its tag, an integer that is never reused. An
unknown tag is skipped, so that a newer peer may say more.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mesh.core.certificates import Certificate, Revocation
from mesh.core.identity import node_id_of, short_id

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

MAX_ITEMS = 4096
"""Of any list in a message that says nothing else: it is refused before its items become objects."""

MAX_ENTRIES = 65_536
"""Collections, and parts of them, that anybody may want."""

MAX_PULLED = 100_000
"""Documents in one message; one with fewer of them is the last of a pull."""

MAX_SEEN_LINKS = 1024
"""Of one node, in what it tells of them."""

Items = Meta(max_length=MAX_ITEMS)
Name = Annotated[str, Meta(max_length=256)]
"""A node id, or the name of a collection."""
Id = Annotated[str, Meta(max_length=512)]
Clock = Annotated[bytes, Meta(min_length=8, max_length=8)]
Vector = Annotated[dict[Clock, int], Items]

WITHDRAWN = 255
"""The hop count of an :class:`Interest` that is taken back."""


class _Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of every message: a msgpack array that starts with the tag."""


# --- handshake (tags 1-9) ---------------------------------------------------------------------


class Hello(_Message, tag=1, frozen=True):
    """First on every connection, from both sides, before anything is trusted.

    ``purpose`` is ``"link"`` for documents or ``"bulk"`` for blob chunks. ``listen`` is where the
    sender accepts connections (``None``: nowhere), so that the other side may dial a bulk connection.
    ``instance`` is random, and new with every start: it tells a restart from a clone. ``chain`` proves that
    the sender is a member of the mesh ``mesh_id`` (both empty: an open one), and ``revoked`` is the digest of
    the revocations that it knows. ``at`` is its clock, in seconds since the epoch; 0: it does not say.
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
    instance: bytes = b""
    chain: list[Certificate] = []
    revoked: bytes = b""
    at: int = 0


class Proof(_Message, tag=2, frozen=True):
    """Signature over both hellos and the channel, by the key in the sender's hello."""

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


class Enrol(_Message, tag=6, frozen=True):
    """First and only on a connection to join: the sender was invited with ``secret``. ``signature`` is over
    the secret and the channel (see :mod:`mesh.core.enrolment`). Answered by :class:`Enrolled`."""

    secret: bytes
    public_key: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"<Enrol of {short_id(node_id_of(self.public_key))}>"


class Renew(_Message, tag=7, frozen=True):
    """The sender's certificate ends soon: please make another. On a link as it is; else first and only on a
    connection to join, with its ``chain``, which may have expired, and a signature over the channel. With a
    ``retirement`` it is to be about the successor that this names, who signs as well: ``consent``."""

    chain: list[Certificate] = []
    signature: bytes = b""
    retirement: Revocation | None = None
    consent: bytes = b""


class Enrolled(_Message, tag=8, frozen=True):
    """The receiver's new chain of certificates."""

    chain: list[Certificate]


class Revocations(_Message, tag=9, frozen=True):
    """Who is no member any more, as far as the sender knows and the receiver may not."""

    facts: list[Revocation]


# --- documents (tags 10-29) -------------------------------------------------------------------


class InterestEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One collection that an origin wants, whole (``selector`` empty) or in part."""

    collection: Name
    selector: dict[str, Any] = {}


class Interest(_Message, tag=10, frozen=True):
    """What ``origin`` wants to be kept up to date with; replaces what the sender said of it before.

    ``hops`` is how many links it has crossed; ``WITHDRAWN`` says that the sender no longer vouches for it.
    """

    origin: Name
    sequence: int
    hops: int
    entries: Annotated[list[InterestEntry], Meta(max_length=MAX_ENTRIES)]


class Resume(_Message, tag=11, frozen=True):
    """Bring me up to date with ``entries``: I hold everything of them in your log ``log_id`` up to
    ``after``. ``empty``: I hold nothing of them at all, from whatever log. Without a position only."""

    number: int
    log_id: bytes
    after: int
    empty: bool
    entries: Annotated[list[InterestEntry], Meta(max_length=MAX_ENTRIES)]


class Resumed(_Message, tag=12, frozen=True):
    """Answer to :class:`Resume`: what is lacking follows, from the log ``log_id`` up to ``upto``.
    ``reconcile``: the position is of no use, so compare sets with :class:`Summaries`. ``shared``: there is no
    need to, as the sender is about to compare the same entries for itself, and learns what differs."""

    number: int
    log_id: bytes
    upto: int
    reconcile: bool
    shared: bool = False


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One document's change.

    It applies where the held version covers ``since``; afterwards the held version is held ∪ ``until``.
    ``rank`` orders whole states: (incarnation, dead) for a merged document, (epoch, sequence) for an
    owned one. An empty ``since`` means that ``update`` is the whole state.
    """

    collection: Name
    id: Id
    rank: tuple[int, int]
    since: Vector
    until: Vector
    update: bytes


class Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The version of one document, without its content."""

    collection: Name
    id: Id
    rank: tuple[int, int]
    vector: Vector


class Want(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One document that the sender lacks, and what it holds of it."""

    collection: Name
    id: Id
    rank: tuple[int, int]
    vector: Vector
    state_vector: bytes


class Grave(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The document with the hash ``key`` was removed in ``incarnation``, and nothing else is known of it any
    more: ``version`` is the hash of the version that its tombstone had, ``age`` the seconds since the
    burial."""

    collection: Name
    key: int
    version: int
    incarnation: int
    age: int


class Changes(_Message, tag=13, frozen=True):
    """A batch of changes, applied in one commit and answered by an :class:`Ack`.

    ``number`` counts from 1. Large ones give way to others and may arrive after what has a higher number.
    ``scan`` is 0 for what happens now, else the number of the :class:`Resume` that is being caught up.
    Once this is durable the receiver holds everything of that scan up to position ``upto`` (0: no news).
    ``offers`` are too large to send unasked; ``notices`` no longer match, and matter to who holds them;
    ``gone`` were asked for and are not held any more. ``graves`` stand where old tombstones did.
    """

    number: int
    scan: int
    upto: int
    changes: Annotated[list[Change], Items]
    offers: Annotated[list[Version], Items] = []
    notices: Annotated[list[Version], Items] = []
    gone: Annotated[list[tuple[Name, Id]], Items] = []
    graves: Annotated[list[Grave], Items] = []


class Ack(_Message, tag=14, frozen=True):
    """The receiver holds :class:`Changes` ``number`` durably, but for ``wants``, which it now asks for."""

    number: int
    wants: Annotated[list[Want], Items] = []


class Summaries(_Message, tag=15, frozen=True):
    """My digests, as (bits, prefix, digests), of the parts of ranges of the entries of :class:`Resume`
    ``number`` (see :mod:`mesh.core.reconcile`)."""

    number: int
    summaries: Annotated[list[tuple[int, int, bytes]], Items]


class Differences(_Message, tag=16, frozen=True):
    """Answer to :class:`Summaries`: the ranges that differ, to be divided (bits, prefix) or listed
    (bits, prefix, place of the first one, shortened version hashes)."""

    number: int
    divide: Annotated[list[tuple[int, int]], Items]
    listings: Annotated[list[tuple[int, int, int, bytes]], Items]


class Pull(_Message, tag=17, frozen=True):
    """The comparison is over: send me the documents at these places of the listings, and what became of
    those with these key hashes, then :class:`Pulled`."""

    number: int
    places: Annotated[list[int], Meta(max_length=MAX_PULLED)]
    keys: Annotated[list[int], Meta(max_length=MAX_PULLED)]


class Pulled(_Message, tag=18, frozen=True):
    """Everything that the comparison for :class:`Resume` ``number`` has found has been sent, in
    :class:`Changes` up to the number ``frame``."""

    number: int
    frame: int


class Barrier(_Message, tag=19, frozen=True):
    """Answer with :class:`BarrierReached` once everything for me has been sent and acknowledged."""

    number: int


class BarrierReached(_Message, tag=20, frozen=True):
    """Everything that the sender had for the receiver when it got the barrier is durable there."""

    number: int


class Routes(_Message, tag=21, frozen=True):
    """The sender's documents for the origins in ``added`` go by way of the receiver from now on, who may
    resume the entries that it passed on for them; those for ``removed`` no longer do."""

    added: Annotated[list[Name], Meta(max_length=MAX_ENTRIES)]
    removed: Annotated[list[Name], Meta(max_length=MAX_ENTRIES)]


# --- attachments (tags 30-49) -----------------------------------------------------------------


class BlobAsk(_Message, tag=30, frozen=True):
    """``origin`` wants a blob: tell the sender what you hold of it, now and whenever that grows.

    Soft state: the origin repeats it with a higher ``sequence`` while it lasts, and what is not repeated is
    forgotten. A node that does not hold the blob whole asks on. ``hops`` is how many nodes have passed
    it on; ``wide``: serve every path that this comes by, not only the shortest (see :mod:`mesh.core.demand`).
    """

    origin: Name
    sequence: int
    hash: bytes
    size_bytes: int
    chunks_hash: bytes
    priority: int
    hops: int
    wide: bool


class BlobForget(_Message, tag=31, frozen=True):
    """``ended`` is the sequence as of which ``origin`` no longer wants the blob, for everybody;
    0: the sender merely does not ask on behalf of that origin any more."""

    origin: Name
    hash: bytes
    ended: int


class BlobHave(_Message, tag=32, frozen=True):
    """What the sender holds: ``None`` for everything, else a bit per chunk (lowest bit first)."""

    hash: bytes
    chunks: bytes | None


class BulkDial(_Message, tag=33, frozen=True):
    """On a link: please dial a bulk connection to me, I want chunks from you and cannot reach you.
    First on a bulk connection: this is the one that you asked for."""


class ChunkListGet(_Message, tag=34, frozen=True):
    """Send the chunk hashes of a blob from chunk ``start`` on."""

    hash: bytes
    start: int


class ChunkList(_Message, tag=35, frozen=True):
    """The 32-byte chunk hashes of a blob from chunk ``start`` on, a piece at a time. Verified whole
    against the token's ``chunks_hash``. No hashes: the sender does not have the list."""

    hash: bytes
    start: int
    hashes: bytes


class ChunkGet(_Message, tag=36, frozen=True):
    """Send these chunks of a blob, in this order within a priority. Chunk frames on this connection name the
    blob by the number ``blob``, which the asker chose."""

    hash: bytes
    blob: int
    indices: Annotated[list[int], Items]
    priority: int


class ChunkCancel(_Message, tag=37, frozen=True):
    """These chunks are no longer wanted from you."""

    hash: bytes
    indices: Annotated[list[int], Items]


class ChunkRefused(_Message, tag=38, frozen=True):
    """The sender cannot serve this chunk, and why."""

    hash: bytes
    index: int
    reason: str


class ChunkPiece(_Message, tag=39, frozen=True):
    """A piece of a chunk, on the connection on which it was asked for."""

    hash: bytes
    index: int
    offset: int
    data: bytes


class BlobServed(_Message, tag=40, frozen=True):
    """I serve ``origin`` with this blob on another path: you get nothing from me on its behalf."""

    origin: Name
    hash: bytes


class PieceGet(_Message, tag=41, frozen=True):
    """Send this piece of a chunk: on a slow connection, or on the shared link."""

    hash: bytes
    index: int
    offset: int
    length: int
    priority: int


class BlobNews(_Message, tag=42, frozen=True):
    """What is said of blobs, many at once."""

    items: Annotated[list[BlobAsk | BlobForget | BlobHave | BlobServed], Items]


class BlobTooLarge(_Message, tag=43, frozen=True):
    """The sender does not ask on for a blob: it has more than ``limit_bytes``, which is all that the sender
    keeps for others."""

    hash: bytes
    limit_bytes: int


# --- direct distributions (tags 50-59), between nodes with the feature "direct" ---------------


class DirectOffer(_Message, tag=50, frozen=True):
    """A distribution of the sender, as JSON: the receiver judges whether it is meant, and fetches the blob.
    Said again when it was cancelled or is tried again, and on every new link until it is over."""

    record: bytes


class DirectReceipt(_Message, tag=51, frozen=True):
    """How far the sender is with a distribution of the receiver, as JSON. The last one says what is."""

    receipt: bytes


# --- presence (tags 60-69) --------------------------------------------------------------------


class SeenLink(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A link of the sender: with whom, and its round-trip time in seconds; ``None``: not measured yet."""

    node_id: Name
    rtt: float | None


class LinksAsk(_Message, tag=60, frozen=True):
    """Tell me your links, now and as they change; said again while that is wanted."""


class LinksTold(_Message, tag=61, frozen=True):
    """The links of the sender, the one with the receiver included: answers :class:`LinksAsk`."""

    links: Annotated[list[SeenLink], Meta(max_length=MAX_SEEN_LINKS)]


Message = (
    Hello | Proof | Goodbye | Ping | Pong | Enrol | Renew | Enrolled | Revocations
    | Interest | Resume | Resumed | Changes | Ack
    | Summaries | Differences | Pull | Pulled | Barrier | BarrierReached | Routes
    | BlobAsk | BlobForget | BlobHave | BulkDial
    | ChunkListGet | ChunkList | ChunkGet | ChunkCancel | ChunkRefused | ChunkPiece
    | BlobServed | PieceGet | BlobNews | BlobTooLarge
    | DirectOffer | DirectReceipt
    | LinksAsk | LinksTold
)  # fmt: skip
