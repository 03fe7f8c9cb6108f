"""The codec: every message there and back, in pieces, and nothing but ProtocolViolation from rubbish."""

from __future__ import annotations

import random
import struct
import tracemalloc
import types
import typing
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.core import wire
from mesh.core.frames import (
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_OPEN_FRAGMENTS,
    FrameReader,
    decode_message,
    encode_message,
    frames_of,
)
from mesh.core.wire import Ack, BlobHave, ChunkPiece, Goodbye, Message
from mesh.errors import ProtocolViolation

TYPES: tuple[type[msgspec.Struct], ...] = typing.get_args(Message)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of an annotated type, as msgpack can carry them."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        if args[0] is bytes:
            return st.binary(min_size=args[1].min_length or 0, max_size=args[1].max_length or 3000)
        return values_of(args[0])  # which stay below what they may have
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values_of(arg) for arg in args])
    if origin is list:
        return st.lists(values_of(args[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(values_of, args))
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=4)
    if annotation is Any:
        return JSON
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return structs_of(annotation)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        str: st.text(max_size=40),
        bytes: st.binary(max_size=3000),
        type(None): st.none(),
    }
    return plain[annotation]


def structs_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})


MESSAGES = st.one_of([structs_of(kind) for kind in TYPES])
NOISE = random.Random(4)


def noise(size: int) -> BlobHave:
    """A message of about ``size`` bytes that does not compress."""
    return BlobHave(b"", NOISE.randbytes(size))


def read(frames: typing.Iterable[bytes], reader: FrameReader | None = None) -> list[Message | None]:
    reader = reader or FrameReader()
    return [reader.feed(frame) for frame in frames]


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_message_comes_back_as_it_was(kind: type[msgspec.Struct]) -> None:
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    @given(
        structs_of(kind), st.sampled_from([64, 1000, MAX_FRAME_BYTES]), st.sampled_from([bytes, bytearray])
    )
    def check(message: Any, max_frame: int, buffer: type) -> None:
        assert decode_message(encode_message(message)) == message
        frames = list(frames_of(message, 7, max_frame=max_frame))
        assert all(1 < len(frame) <= max_frame for frame in frames)
        assert read(map(buffer, frames)) == [None] * (len(frames) - 1) + [message]

    check()


def test_tags_are_never_shared() -> None:
    tags = [kind.__struct_config__.tag for kind in TYPES]
    assert len(set(tags)) == len(tags)


def test_the_bytes_of_a_message_stay_what_they_are() -> None:
    assert encode_message(Ack(5))[1:3] == bytes([Ack.__struct_config__.tag, 5])  # type: ignore[list-item]
    assert encode_message(Goodbye("x")) == b"\x92\x03\xa1x"


def test_what_compresses_is_compressed_and_chunk_pieces_are_not_tried() -> None:
    (frame,) = frames_of(BlobHave(b"", bytes(100_000)), 0)
    assert len(frame) < 1000
    (frame,) = frames_of(noise(100_000), 0)
    assert frame[0] == 0
    (frame,) = frames_of(ChunkPiece(b"", 0, 0, bytes(100_000)), 0)
    assert len(frame) > 100_000


# --- fragments ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(MESSAGES, st.integers(20, 200)), min_size=1, max_size=8), st.randoms())
def test_fragments_of_many_messages_may_interleave(
    sized: list[tuple[Message, int]], shuffler: random.Random
) -> None:
    queues = [list(frames_of(m, stream, max_frame=size)) for stream, (m, size) in enumerate(sized)]
    reader, arrived = FrameReader(), []
    while any(queues):
        queue = shuffler.choice([queue for queue in queues if queue])
        message = reader.feed(queue.pop(0))
        if message is not None:
            arrived.append(message)
    key = encode_message
    assert sorted(map(key, arrived)) == sorted(key(message) for message, _ in sized)


def test_the_largest_message_passes_and_a_larger_one_is_not_sent() -> None:
    largest = noise(MAX_MESSAGE_BYTES - 16)
    assert read(frames_of(largest, 0))[-1] == largest
    frames = frames_of(noise(MAX_MESSAGE_BYTES), 0)
    with pytest.raises(ProtocolViolation, match="BlobHave"):
        next(frames)


def fragment(stream: int, flags: int, piece: bytes) -> bytes:
    return struct.pack("!BIB", 2, stream, flags) + piece


def test_only_so_many_messages_may_be_in_pieces() -> None:
    reader = FrameReader()
    for stream in range(MAX_OPEN_FRAGMENTS):
        reader.feed(fragment(stream, 0, b"x"))
    with pytest.raises(ProtocolViolation, match="in pieces"):
        reader.feed(fragment(99, 0, b"x"))


@pytest.mark.parametrize("streams", [1, MAX_OPEN_FRAGMENTS])
def test_fragments_without_end_run_into_a_limit(streams: int) -> None:
    reader, piece = FrameReader(), bytes(200_000)
    most = 2 * MAX_MESSAGE_BYTES // len(piece)
    for n in range(most):
        reader.feed(fragment(n % streams, 0, piece))
    with pytest.raises(ProtocolViolation, match="fragments of more than"):
        reader.feed(fragment(0, 0, piece))


# --- hostile frames -------------------------------------------------------------------------------


def test_a_zip_bomb_is_found_before_it_goes_off() -> None:
    bomb = zlib.compress(bytes(1 << 30), 9)
    with pytest.raises(ProtocolViolation, match="more than"):
        read(_cut(bomb))


def _cut(body: bytes, size: int = 200_000) -> list[bytes]:
    starts = range(0, len(body), size)
    return [fragment(0, 2 | (start + size >= len(body)), body[start : start + size]) for start in starts]


@pytest.mark.parametrize("extra", [b"", b"trailing"])
def test_compressed_rubbish(extra: bytes) -> None:
    body = zlib.compress(encode_message(Ack(1)))
    assert FrameReader().feed(b"\x01" + body) == Ack(1)
    for cut in range(len(body)):
        with pytest.raises(ProtocolViolation):
            FrameReader().feed(b"\x01" + body[:cut] + extra)


@given(MESSAGES, st.data())
def test_truncated_messages_are_violations(message: Message, data: st.DataObject) -> None:
    body = encode_message(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ProtocolViolation):
        decode_message(body[:cut])


@settings(max_examples=300)
@given(MESSAGES, st.sampled_from([64, MAX_FRAME_BYTES]), st.data())
def test_mutated_frames_raise_nothing_else(message: Message, max_frame: int, data: st.DataObject) -> None:
    frames = list(frames_of(message, 1, max_frame=max_frame))
    which = data.draw(st.integers(0, len(frames) - 1))
    changed = bytearray(frames[which])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    frames[which] = bytes(changed)
    reader = FrameReader()
    for frame in frames:
        try:
            reader.feed(frame)
        except ProtocolViolation:
            return


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_rubbish_raises_nothing_else(rubbish: bytes) -> None:
    for prefix in (b"", b"\x00", b"\x01", b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x03"):
        try:
            FrameReader().feed(prefix + rubbish)
        except ProtocolViolation:
            pass


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_deep_nesting_does_not_reach_the_stack(depth: int) -> None:
    for opening in (b"\x91", b"\x81\xa1x"):
        for body in (opening * depth + b"\x01", b"\x92\xcd\x03\xe7" + opening * depth + b"\x01"):
            for frame in _cut(zlib.compress(body)):
                try:
                    FrameReader().feed(frame)
                except ProtocolViolation:
                    pass


@pytest.mark.parametrize(
    "frame",
    [
        *(b"", b"\x00", b"\x03x", b"\xffx", b"\x02\0\0\0\0\x01", b"\x02\0", bytes(MAX_FRAME_BYTES + 1)),
        *(b"\x00\x90", b"\x00\xc0", b"\x00\x91\xa1x", b"\x00\x91\x03", b"\x00\x92\x03\x05"),
        b"\x00\x92\x03\xa1xx",
    ],
)
def test_malformed_frames(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        FrameReader().feed(frame)


def test_a_message_of_many_empty_things_costs_no_memory_when_it_is_skipped() -> None:
    body = b"\xdd\x00\x40\x00\x01\xcd\x03\xe7" + b"\x80" * (1 << 22)  # [999, {}, {}, ...]: 4 Mi of them
    tracemalloc.start()
    try:
        assert read(_cut(zlib.compress(body)))[-1] is None
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


# --- the future -----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [[9999], [9999, {"a": [1]}], [0, b"x"], [2**40, None]])
def test_messages_of_a_newer_version_are_skipped(message: Any) -> None:
    body = msgspec.msgpack.encode(message)
    assert decode_message(body) is None
    assert FrameReader().feed(b"\x00" + body) is None


def test_fields_of_a_newer_version_are_skipped() -> None:
    assert decode_message(
        msgspec.msgpack.encode([wire.Goodbye.__struct_config__.tag, "bye", 1, {}])
    ) == Goodbye("bye")
