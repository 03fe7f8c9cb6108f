from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.yjs_messages import (
    AUTH,
    AWARENESS,
    QUERY_AWARENESS,
    STEP_2,
    SYNC,
    Awareness,
    Message,
    decode_awareness,
    decode_message,
    encode_awareness,
    encode_sync,
)
from mesh.errors import ProtocolViolation

clients = st.integers(0, 2**53 - 1)


@given(st.integers(0, 2), st.binary(max_size=300))
def test_sync_messages_come_back(step: int, payload: bytes) -> None:
    assert decode_message(encode_sync(step, payload)) == Message(SYNC, step, payload)


@given(st.lists(st.builds(Awareness, clients, clients, st.text(max_size=20)), max_size=5))
def test_awareness_comes_back(told: list[Awareness]) -> None:
    message = decode_message(encode_awareness(told))
    assert message.about == AWARENESS
    assert decode_awareness(message.payload) == told


def test_as_y_protocols_writes_them() -> None:
    """Bytes that ``y-protocols`` 1.0 made."""
    assert decode_message(bytes.fromhex("00010201ff")) == Message(SYNC, 1, b"\x01\xff")
    assert decode_message(b"\3") == Message(QUERY_AWARENESS, 0, b"")
    told = decode_message(bytes.fromhex("010a01a8eed5940c00027b7d"))
    assert decode_awareness(told.payload) == [Awareness(3264575272, 0, "{}")]


def test_what_is_about_something_else_is_no_violation() -> None:
    assert decode_message(bytes((AUTH, 0, 1, 65))).about == AUTH
    assert decode_message(b"\x63whatever").about == 0x63


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\3\0", b"\0\1\5ab", b"\0\1" + b"\xff" * 9, b"\1\2", encode_sync(STEP_2, b"x")[:-1]],
)
def test_malformed_messages_are_violations(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_message(data)


@given(st.binary(max_size=64))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        message = decode_message(data)
        decode_awareness(message.payload)
    except ProtocolViolation:
        pass
