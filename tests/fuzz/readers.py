"""Everything that reads what others send, each with inputs that it takes and the errors that it may raise."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from mesh.control import protocol
from mesh.core import records
from mesh.core.awareness import AwarenessTable
from mesh.core.certificates import grant_of, issue, revoke
from mesh.core.chunks import ChunkMap, pack_head, unpack_head
from mesh.core.direct import offered_by, receipt_of
from mesh.core.document import ABSENT, single_value_state
from mesh.core.enrolment import Invitation, enrol, enrolled, read_answer, read_request, read_token, renew
from mesh.core.frames import FrameReader, decode_message, encode_message, frames_of
from mesh.core.handshake import INSTANCE_BYTES, NONCE_BYTES, Handshake
from mesh.core.identity import Identity
from mesh.core.library import EMPTY_UPDATE, registers_of
from mesh.core.membership import Membership
from mesh.core.receipts import distribution_id_of, new_receipt
from mesh.core.reconcile import KeySet, Listing, Range, Summary, answer, differing, summary
from mesh.core.scopes import NodeFacts, matches, parse_scope
from mesh.core.selector import compile_selector
from mesh.core.tokens import BlobToken
from mesh.core.values import normalized
from mesh.core.versions import check_version
from mesh.core.wire import Change, DirectOffer, DirectReceipt, Hello, Message, Proof, Revocations, Version
from mesh.core.yjs_messages import (
    AWARENESS,
    QUERY_AWARENESS,
    STEP_1,
    SYNC,
    UPDATE,
    Awareness,
    decode_awareness,
    encode_awareness,
    encode_sync,
)
from mesh.core.yjs_messages import decode_message as decode_yjs
from mesh.errors import (
    HandshakeFailed,
    InvalidDocument,
    InvalidScope,
    InvalidSelector,
    InvalidToken,
    InvitationRefused,
    MembershipRefused,
    MeshError,
    PermissionDenied,
    ProtocolViolation,
)
from tests.adversary.adversary import MESSAGES, made_up
from tests.fuzz.bytes_of import damaged
from tests.unit.owned_bodies import distribution_body, node_body

SLOW_SECONDS = 0.25
"""CPU time that one input may take: the loop stands still for so long."""

NOW = 1_800_000_000
CHANNEL = b"channel"
ROOT, ADMIN, ME, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 5))
ADMINS = issue(ROOT, [], ADMIN.public_key, grant_of("admin"), NOW)
MINE, THEIRS = (issue(ADMIN, ADMINS, who.public_key, grant_of("publish"), NOW) for who in (ME, OTHER))


class Reader(NamedTuple):
    """What reads one sort of input.

    Attributes:
        inputs: some that it takes.
        read: raises one of ``refusals`` if it does not take an input. What it takes it has to spell in the
            same way, where there is but one.
        nested: whether an input is text that nests.
    """

    inputs: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[MeshError], ...]
    nested: bool = False


# --- inputs -----------------------------------------------------------------------------------

_RNG = random.Random(0)


def _is_message(message: Message) -> bool:
    try:
        return decode_message(encode_message(message)) is not None
    except ProtocolViolation:
        return False


_SAID: list[Message] = [
    *filter(_is_message, (made_up(_RNG, kind) for kind in MESSAGES for _ in range(10))),
]

_ODD = (
    *("null", "true", "-0", "1e999", "-1", "18446744073709551616", "1" * 400, "1.5", "[]", "{}", '""'),
    *(
        '"\\ud800"',
        '"\\u0000"',
        "[" * 2000,
        '{"a":' * 2000,
        "[" * 40 + "]" * 40,
        '"' + "x" * 70_000 + '"',
        "NaN",
    ),
)


def _as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def made(rng: random.Random, reader: Reader) -> bytes:
    """An input: one that is taken, damaged."""
    data = rng.choice(reader.inputs)
    if rng.random() < 0.02:
        return data
    if reader.nested and rng.random() < 0.4:
        text = data.decode(errors="replace")
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 4, 20)))
        if rng.random() < 0.5 and (colon := text.find(":", at)) >= 0:
            at = colon + 1
            end = min(n for n in (text.find(",", at), text.find("}", at), len(text)) if n >= 0)
        return (text[:at] + rng.choice(_ODD) + text[end:]).encode()
    if rng.random() < 0.05:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.choice((b"\x91", b"\x81\xa0", b"[", b'{"":')) * 3000 + data[at:]
    return damaged(rng, data, reader.inputs)


def try_one(reader: Reader, data: bytes) -> bool:
    """Let a reader have one input; whether it takes it. Any other error than its own comes out."""
    started = time.process_time()
    try:
        reader.read(data)
        return True
    except reader.refusals:
        return False
    finally:
        took = time.process_time() - started
        assert took < SLOW_SECONDS, f"{data[:200]!r} takes {took:.2f} s"


# --- the wire ---------------------------------------------------------------------------------


def _frames(data: bytes) -> None:
    frames = FrameReader()
    for start in range(0, len(data), 200):
        message = frames.feed(data[start : start + 200])
        assert message is None or encode_message(message)


def _frame(data: bytes) -> None:
    message = FrameReader().feed(data)
    if message is not None:
        assert FrameReader().feed(next(frames_of(message, 0))) is not None


def _message(data: bytes) -> None:
    message = decode_message(data)
    if message is not None:
        spelled = encode_message(message)
        again = decode_message(spelled)
        assert again is not None
        assert encode_message(again) == spelled


def _handshake(dialler: bool, closed: bool) -> Handshake:
    return Handshake(
        ME,
        dialler=dialler,
        nonce=b"n" * NONCE_BYTES,
        membership=Membership(MINE) if closed else None,
        now=NOW,
        binding=CHANNEL,
        instance=b"i" * INSTANCE_BYTES,
    )


def _hello(closed: bool) -> Hello:
    mesh_id, chain = (ROOT.node_id, THEIRS) if closed else ("", [])
    return Hello(
        1,
        1,
        ["direct"],
        OTHER.public_key,
        b"o" * NONCE_BYTES,
        "link",
        "van",
        None,
        mesh_id,
        chain=chain,
        at=NOW,
    )


def _shake(data: bytes) -> None:
    for closed in (False, True):
        for dialler in (False, True):
            try:
                handshake = _handshake(dialler, closed)
                handshake.start()
                handshake.receive(data)
                handshake.receive(data)
            except HandshakeFailed:
                continue
            raise AssertionError("authenticated")
    handshake = _handshake(dialler=False, closed=False)
    handshake.receive(next(frames_of(_hello(closed=False), 0)))
    handshake.receive(data)
    raise AssertionError("authenticated")


_FACT = revoke(ADMIN, ADMINS, OTHER.node_id, 1, NOW)


def _facts(data: bytes) -> None:
    message = decode_message(data)
    if isinstance(message, Revocations):
        learned = Membership(MINE).learn(message.facts)
        assert all(fact.node_id == OTHER.node_id for fact in learned), "a fact that nobody signed"


def _admitted(data: bytes) -> None:
    message = decode_message(data)
    if isinstance(message, Hello):
        member = Membership(MINE).admit(message.chain, message.public_key, NOW)
        assert member.node_id == OTHER.node_id, "a member whom nobody admitted"


def _token(data: bytes) -> None:
    text = data.decode(errors="replace")
    assert read_token(text).token() == text.strip()


_INVITATION = Invitation(ROOT.node_id, ["wss://192.0.2.1:7700"], b"p" * 32, b"s" * 20)


# --- records ----------------------------------------------------------------------------------


def _signed_by_other(collection: str, document_id: str, body: str, chain: bytes) -> Change:
    """Whoever has a key may sign anything."""
    signed = records._signed_bytes(collection, document_id, (0, 1), body, chain)
    record = records.SignedRecord(OTHER.public_key, 0, 1, body, OTHER.sign(signed), chain)
    return _change_of(collection, document_id, msgspec.json.encode(record).decode())


def _change_of(collection: str, document_id: str, record: str) -> Change:
    update = single_value_state("record", record, records.CLIENT_ID)
    return Change(collection, document_id, (0, 1), {}, {b"c" * 8: 1}, update)


def _arrived(change: Change, *, closed: bool) -> None:
    membership = Membership(MINE) if closed else None
    merged = records.arrive(ABSENT, change, membership)
    assert merged is not None
    again = records.arrive(ABSENT, msgspec.structs.replace(change, update=merged.state.update), membership)
    assert again is not None
    assert again.state.update == merged.state.update, "the record is kept in two ways"
    assert records.body_of(merged.state.update) == merged.fields


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


_NODE = _as_json(node_body(name="van", formations=["vans"], capabilities={"disk": 3, "os": "linux"}))
_NONCE = "n" * 16
_DISTRIBUTION = distribution_body(OTHER.node_id, _NONCE, scope={"type": "nodes", "node_ids": [ME.node_id]})
_DISTRIBUTION_ID = distribution_id_of(OTHER.node_id, _NONCE)
_OFFER = _as_json({**_DISTRIBUTION, "_id": _DISTRIBUTION_ID})
_RECEIPT = msgspec.json.encode(
    new_receipt(
        offered_by(OTHER.node_id, DirectOffer(_OFFER)), OTHER.node_id, NodeFacts(["vans"]), float(NOW)
    )
)
_RECORD = registers_of(
    _signed_by_other("nodes", OTHER.node_id, _NODE.decode(), Membership(THEIRS).packed()).update
)["record"].encode()


def _packed(data: bytes) -> None:
    _arrived(_signed_by_other("nodes", OTHER.node_id, _NODE.decode(), data), closed=True)


def _parsed(data: bytes) -> Any:
    """JSON as it comes out of a document."""
    try:
        return normalized(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not JSON: {error}") from error


def _blob_token(data: bytes) -> None:
    try:
        token = BlobToken.from_dict(_parsed(data))
    except msgspec.ValidationError as error:
        raise InvalidToken(str(error)) from error
    token.check()
    assert BlobToken.from_dict(token.to_dict()) == token


def _scope(data: bytes) -> None:
    scope = parse_scope(_parsed(data))
    matches(scope, ME.node_id, OTHER.node_id, NodeFacts(["vans"]))


_DOCUMENT = {"_id": "a", "color": "red", "name": "aaaaaaaaab" * 20, "tags": [1, "x", None], "at": {"x": 1.5}}


def _selector(data: bytes) -> None:
    try:
        parsed = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSelector(f"not JSON: {error}") from error
    assert compile_selector(parsed)(_DOCUMENT) in (True, False)


_SELECTORS: Sequence[object] = (
    {"color": "red", "at.x": {"$gt": 1, "$lte": 2}},
    {"$or": [{"color": {"$in": ["red", None]}}, {"$not": {"tags": {"$elemMatch": {"$eq": 1}}}}]},
    {"name": {"$regex": "^(a|b)+[a-z]{2,5}\\d?$"}, "gone": {"$exists": False}},
    {"$nor": [{"a": {"$nin": [1]}}, {"a": {"$ne": {"b": 1}}}]},
)

# --- sets, chunks -----------------------------------------------------------------------------

_SET = KeySet([(n << 55, n * 7919 << 20, n) for n in range(200)])


def _summaries(data: bytes) -> None:
    answer(_SET, msgspec.msgpack.decode(data, type=list[Summary]) if _is(data, list[Summary]) else [])


def _listings(data: bytes) -> None:
    listings = msgspec.msgpack.decode(data, type=list[Listing]) if _is(data, list[Listing]) else []
    differing(_SET, [listing for listing in listings if 0 <= listing.bits <= 32 and listing.prefix >= 0])


def _is(data: bytes, kind: Any) -> bool:
    try:
        msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _version(data: bytes) -> None:
    if _is(data, Version):
        version = msgspec.msgpack.decode(data, type=Version)
        check_version(version.rank, version.vector)


def _chunk(data: bytes) -> None:
    blob, index, offset = unpack_head(data)
    head = bytearray(16)
    pack_head(head, blob, index, len(data) - 16, offset)
    assert bytes(head) == data[:16]


def _chunk_map(data: bytes) -> None:
    chunks = ChunkMap.from_bytes(100, data)
    assert chunks.to_bytes() == data.rstrip(b"\0")
    assert len(list(chunks)) == len(chunks) <= 100


def _chunk_message(body: bytes) -> bytes:
    head = bytearray(16)
    pack_head(head, 7, 3, len(body), 5)
    return bytes(head) + body


# --- Yjs clients ------------------------------------------------------------------------------


def _yjs(data: bytes) -> None:
    message = decode_yjs(data)
    if message.about == SYNC:
        assert encode_sync(message.step, message.payload) == data
    elif message.about == AWARENESS:
        told = decode_awareness(message.payload)
        assert encode_awareness(told) == data
        table = AwarenessTable()
        table.take("client", told)
        table.leave("client")


READERS = {
    "frames": Reader(
        [b"".join(frames_of(m, 7, max_frame=200)) for m in _SAID], _frames, (ProtocolViolation,)
    ),
    "frame": Reader([next(frames_of(message, 0)) for message in _SAID], _frame, (ProtocolViolation,)),
    "message": Reader([encode_message(message) for message in _SAID], _message, (ProtocolViolation,)),
    "handshake": Reader(
        [next(frames_of(m, 0)) for m in (_hello(closed=True), _hello(closed=False), Proof(bytes(64)))],
        _shake,
        (HandshakeFailed,),
    ),
    "certificates": Reader(
        [encode_message(_hello(closed=True))], _admitted, (ProtocolViolation, MembershipRefused)
    ),
    "revocations": Reader(
        [encode_message(Revocations([_FACT]))], _facts, (ProtocolViolation, MembershipRefused)
    ),
    "enrolment": Reader(
        [enrol(OTHER, b"s" * 20, CHANNEL), renew(OTHER, THEIRS, CHANNEL)],
        lambda data: read_request(data, CHANNEL),
        (InvitationRefused,),
    ),
    "enrolled": Reader([enrolled(THEIRS)], read_answer, (InvitationRefused,)),
    "invitation": Reader([_INVITATION.token().encode()], _token, (InvitationRefused,)),
    "packed chain": Reader([Membership(THEIRS).packed()], _packed, (InvalidDocument, PermissionDenied)),
    "record": Reader(
        [_RECORD],
        lambda data: _arrived(_change_of("nodes", OTHER.node_id, _text(data)), closed=True),
        (InvalidDocument, PermissionDenied),
        nested=True,
    ),
    "node": Reader(
        [_NODE],
        lambda data: _arrived(_signed_by_other("nodes", OTHER.node_id, _text(data), b""), closed=False),
        (InvalidDocument, PermissionDenied),
        nested=True,
    ),
    "distribution": Reader(
        [_as_json(_DISTRIBUTION)],
        lambda data: _arrived(
            _signed_by_other("distributions", _DISTRIBUTION_ID, _text(data), b""), closed=False
        ),
        (InvalidDocument, PermissionDenied),
        nested=True,
    ),
    "offer": Reader(
        [_OFFER], lambda data: offered_by(OTHER.node_id, DirectOffer(data)), (InvalidDocument,), nested=True
    ),
    "receipt": Reader(
        [_RECEIPT],
        lambda data: receipt_of(OTHER.node_id, DirectReceipt(data)),
        (InvalidDocument,),
        nested=True,
    ),
    "token": Reader(
        [_as_json(_DISTRIBUTION["token"])], _blob_token, (InvalidToken, InvalidDocument), nested=True
    ),
    "scope": Reader(
        [_as_json(_DISTRIBUTION["scope"]), b'{"type":"all"}', b'{"type":"formation","formation_id":"vans"}'],
        _scope,
        (InvalidScope, InvalidDocument),
        nested=True,
    ),
    "selector": Reader([_as_json(s) for s in _SELECTORS], _selector, (InvalidSelector,), nested=True),
    "summaries": Reader(
        [msgspec.msgpack.encode([summary(_SET, Range(0, 0))])], _summaries, (ProtocolViolation,)
    ),
    "listings": Reader(
        [msgspec.msgpack.encode([Listing(4, 1, 3, b"x" * 60)])], _listings, (ProtocolViolation,)
    ),
    "version": Reader(
        [msgspec.msgpack.encode(Version("c", "d", (1, 0), {b"c" * 8: 5, b"d" * 8: 1}))],
        _version,
        (InvalidDocument,),
    ),
    "chunk": Reader([_chunk_message(b"x" * 20)], _chunk, (ProtocolViolation,)),
    "chunk map": Reader([bytes(range(1, 13)), b"\xff"], _chunk_map, (ProtocolViolation,)),
    "Yjs message": Reader(
        [
            encode_sync(STEP_1, b"\1\7\5"),
            encode_sync(UPDATE, EMPTY_UPDATE),
            encode_awareness([Awareness(5, 300, '{"user":{"name":"x"}}'), Awareness(6, 1, "null")]),
            bytes((QUERY_AWARENESS,)),
        ],
        _yjs,
        (ProtocolViolation,),
    ),
    "control request": Reader(
        [b'{"id":1,"method":"status","params":{"a":[1]}}', b'{"id":1,"cancel":true}'],
        protocol.decode_request,
        (ProtocolViolation,),
        nested=True,
    ),
}
