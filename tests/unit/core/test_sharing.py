"""What many peers get is encoded once, and each of them reads the message that was meant for it."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.frames import COMPRESS_FROM_BYTES, Encoded, FrameReader, frames_of
from mesh.core.sharing import Sharing
from mesh.core.sync_effects import Effect, ReadPositions, Send
from mesh.core.wire import Ack, Change, Changes, Version


def changes(count: int, size: int) -> list[Change]:
    rng = random.Random(count)
    return [Change("c", str(n), (0, 0), {}, {b"n" * 8: n}, rng.randbytes(size)) for n in range(count)]


def received(effect: Effect) -> object:
    assert isinstance(effect, Send)
    reader = FrameReader()
    [message] = [m for frame in frames_of(effect.message, 0, max_frame=500) if (m := reader.feed(frame))]
    return message


@given(
    st.integers(1, 50),
    st.integers(0, 5000),
    st.lists(st.tuples(st.integers(1, 2**63), st.integers(0, 2**63)), min_size=1, max_size=5),
)
def test_every_peer_gets_its_own_message(count: int, size: int, numbers: list[tuple[int, int]]) -> None:
    sharing = Sharing()
    for number, upto in numbers:
        message = Changes(number, 0, upto, changes(count, size))
        [shared] = sharing.share([Send(message, bulk=True)])
        assert isinstance(shared, Send)
        assert shared.bulk
        assert received(shared) == message


def test_it_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    compressobj = zlib.compressobj

    def counted(level: int, method: int, bits: int) -> object:
        made.append(level)
        return compressobj(level, method, bits)

    monkeypatch.setattr(zlib, "compressobj", counted)
    some, others = changes(100, 50), changes(40, 100)
    sharing = Sharing()
    for peer in range(8):
        effects: list[Effect] = [
            Send(Changes(peer, 0, 0, list(some))),
            Send(Changes(peer, 0, 7, list(others))),
        ]
        for effect, shared in zip(effects, sharing.share(effects), strict=True):
            assert isinstance(shared, Send)
            assert isinstance(shared.message, Encoded)
            assert received(shared) == received(effect)
    assert len(made) == 2


def test_what_is_small_or_tells_more_than_changes_is_left_as_it_is() -> None:
    effects: list[Effect] = [
        Send(Changes(1, 0, 0, changes(1, COMPRESS_FROM_BYTES // 2))),
        Send(Changes(1, 0, 0, changes(50, 500), offers=[Version("c", "x", (0, 0), {})])),
        Send(Ack(1)),
        ReadPositions([]),
    ]
    assert Sharing().share(effects) == effects
