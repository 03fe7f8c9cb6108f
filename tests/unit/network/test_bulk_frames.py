"""What websockets sends and what it refuses, FrameReceiver takes and refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from mesh.network.bulk_frames import MAX_SPARE_BUFFERS, STAGING_BYTES, FrameError, FrameReceiver

MAX_BYTES = 3 * STAGING_BYTES
SIZES = st.one_of(
    st.integers(0, 300),
    st.sampled_from([65535, 65536, STAGING_BYTES - 2, STAGING_BYTES, STAGING_BYTES + 1, MAX_BYTES]),
)
CUTS = st.lists(st.integers(1, STAGING_BYTES), min_size=1, max_size=20)
Seen = list[tuple[Opcode, bytes]]


def ours(stream: bytes, cuts: Sequence[int], *, reuse: bool = False) -> tuple[Seen, str | None]:
    """What is received of ``stream`` when it comes in pieces; why no more."""
    receiver = FrameReceiver(MAX_BYTES)
    seen: Seen = []
    number = 0
    try:
        while stream:
            room = receiver.room()
            count = min(cuts[number % len(cuts)], len(room), len(stream))
            room[:count], stream = stream[:count], stream[count:]
            for opcode, data in receiver.put(count):
                seen.append((opcode, bytes(data)))
                if reuse and isinstance(data, memoryview):
                    receiver.reuse(data)
            number += 1
    except FrameError as error:
        return seen, str(error)
    return seen, None


def theirs(stream: bytes) -> tuple[Seen, bool]:
    """The same from websockets; whether it refused something."""
    protocol = Protocol(Side.CLIENT, state=State.OPEN, max_size=MAX_BYTES)
    protocol.receive_data(stream)
    found = [
        (frame.opcode, bytes(frame.data)) for frame in protocol.events_received() if isinstance(frame, Frame)
    ]
    return found, protocol.parser_exc is not None


def sent(opcode: Opcode, size: int) -> bytes:
    """A frame as a server of websockets sends it."""
    server = Protocol(Side.SERVER, state=State.OPEN)
    match opcode:
        case Opcode.PING:
            server.send_ping(bytes(size % 126))
        case Opcode.PONG:
            server.send_pong(bytes(size % 126))
        case _:
            server.send_binary(bytes([size % 251]) * size)
    return b"".join(server.data_to_send())


@given(
    st.lists(
        st.tuples(st.sampled_from([Opcode.BINARY, Opcode.BINARY, Opcode.PING, Opcode.PONG]), SIZES),
        max_size=8,
    ),
    CUTS,
    st.booleans(),
)
def test_what_a_server_sends_is_received_however_it_is_cut(
    frames: list[tuple[Opcode, int]], cuts: list[int], reuse: bool
) -> None:
    stream = b"".join(sent(opcode, size) for opcode, size in frames)
    assert ours(stream, cuts, reuse=reuse) == (theirs(stream)[0], None)
    assert len(theirs(stream)[0]) == len(frames)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=12)), max_size=6), CUTS
)
def test_nothing_is_taken_that_websockets_refuses(
    parts: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(bytes((first, second)) + rest for first, second, rest in parts)
    found, refused = ours(stream, cuts)
    expected, refused_there = theirs(stream)
    closes = next((n for n, (opcode, _) in enumerate(found) if opcode is Opcode.CLOSE), len(found))
    assert found[:closes] == expected[:closes]
    if refused is None and closes == len(found):  # websockets looks at nothing after a close
        assert not refused_there
        assert len(found) == len(expected)


@pytest.mark.parametrize(
    "stream",
    [
        *(b"\x81\x01a", b"\x02\x01a", b"\x80\x01a", b"\xc2\x01a", b"\x82\x81aaaaa", b"\x83\x00"),
        *(b"\x89\x7e\x00\x7e" + bytes(126), b"\x09\x00"),
    ],
    ids=["text", "fragment", "continuation", "reserved", "masked", "unknown", "long ping", "ping in parts"],
)
def test_what_is_refused(stream: bytes) -> None:
    assert ours(stream, [1])[1] is not None
    assert ours(stream, [STAGING_BYTES])[1] is not None


def test_a_message_that_is_too_large_is_refused_when_its_length_is_known() -> None:
    for length in (MAX_BYTES + 1, 2**63, 2**64 - 1):
        receiver = FrameReceiver(MAX_BYTES)
        receiver.room()[:10] = b"\x82\x7f" + length.to_bytes(8, "big")
        with pytest.raises(FrameError) as raised:
            list(receiver.put(10))
        assert raised.value.code is CloseCode.MESSAGE_TOO_BIG


def test_memory_is_used_again_only_once_it_was_given_back() -> None:
    receiver = FrameReceiver(MAX_BYTES)
    stream = sent(Opcode.BINARY, MAX_BYTES)

    def receive() -> memoryview:
        at = 0
        while True:
            room = receiver.room()
            count = min(len(room), len(stream) - at)
            room[:count] = stream[at : at + count]
            at += count
            if found := list(receiver.put(count)):
                assert isinstance(found[0].data, memoryview)
                return found[0].data

    first, second = receive(), receive()
    buffers = [id(first.obj), id(second.obj)]
    assert buffers[0] != buffers[1]
    receiver.reuse(first)
    third = receive()
    assert id(third.obj) == buffers[0]
    with pytest.raises(ValueError, match="released"):
        receiver.reuse(first)
    many = [receive() for _ in range(2 * MAX_SPARE_BUFFERS)]
    for message in many:
        receiver.reuse(message)
    assert len(receiver._spare) == MAX_SPARE_BUFFERS
