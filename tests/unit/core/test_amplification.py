"""A few kilobytes from a peer do not become gigabytes of objects, nor keep the event loop."""

from __future__ import annotations

import time
import tracemalloc
import zlib

import pytest

from mesh.core import interest
from mesh.core.frames import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_SELECTORS_BYTES, FrameReader, frames_of
from mesh.core.interest import MAX_ENTRIES, InterestSet
from mesh.core.selector import MAX_SELECTOR_BYTES
from mesh.core.wire import Interest, InterestEntry, Message
from mesh.errors import InvalidSelector, ProtocolViolation

BLOCKED_SECONDS = 0.25

EMPTY_LIST, EMPTY_MAP = b"\x90", b"\x80"


def filled(unit: bytes, size: int = MAX_MESSAGE_BYTES - 100) -> bytes:
    """A list of as many of the same as a message has room for."""
    count = size // len(unit)
    return b"\xdd" + count.to_bytes(4) + unit * count


HUGE = {
    "wants": b"\x93\x0e\x01" + filled(b"\x95\xa0\xa0\x92\x00\x00\x80\xc4\x00"),
    "entries": b"\x95\x0a\xa1a\x01\x00" + filled(b"\x91\xa0"),
    "entries to resume": b"\x96\x0b\x01\xc4\x00\x00\xc2" + filled(b"\x91\xa0"),
    "lists in a selector": b"\x95\x0a\xa1a\x01\x00\x91\x92\xa1c\x81\xa1a" + filled(EMPTY_LIST),
    "few lists in a selector": b"\x95\x0a\xa1a\x01\x00\x91\x92\xa1c\x81\xa1a" + filled(EMPTY_LIST, 1_000_000),
    "maps in a selector": b"\x95\x0a\xa1a\x01\x00\x91\x92\xa1c\x81\xa1a" + filled(EMPTY_MAP),
    "routes": b"\x93\x15" + filled(b"\xa2ab") + EMPTY_LIST,
    "gone": b"\x98\x0d\x01\x00\x00\x90\x90\x90" + filled(b"\x92\xa0\xa0"),
    "changes": b"\x95\x0d\x01\x00\x00" + filled(b"\x96\xa0\xa0\x92\x00\x00\x80\x80\xc4\x00"),
    "places": b"\x94\x11\x01" + filled(b"\xcd\xff\xff") + EMPTY_LIST,
    "summaries": b"\x93\x0f\x01" + filled(b"\x93\x00\x00\xc4\x00"),
    "ranges": b"\x94\x10\x01" + filled(b"\x92\x00\x00") + EMPTY_LIST,
    "news": b"\x92\x2a" + filled(b"\x94\x1f\xa0\xc4\x00\x00"),
    "chunks": b"\x95\x24\xc4\x00\x01" + filled(b"\xcd\xff\xff") + b"\x01",
    "a name": b"\x95\x0a\xa1a\x01\x00\x91\x91\xdb" + (1 << 22).to_bytes(4) + b"x" * (1 << 22),
}


@pytest.mark.limit("core.frames.MAX_PLAIN_BYTES", "core.frames.MAX_SELECTORS_BYTES")
@pytest.mark.parametrize("name", HUGE)
def test_what_would_become_too_much_is_refused_before(name: str) -> None:
    frame = b"\1" + zlib.compress(HUGE[name])
    assert len(frame) < MAX_FRAME_BYTES
    started = time.thread_time()
    with pytest.raises(ProtocolViolation):
        FrameReader().feed(frame)
    assert time.thread_time() - started < BLOCKED_SECONDS
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation):
            FrameReader().feed(frame)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_MESSAGE_BYTES
    finally:
        tracemalloc.stop()


def read(message: Message) -> Message | None:
    reader = FrameReader()
    return [reader.feed(frame) for frame in frames_of(message, 0)][-1]


@pytest.mark.limit("core.interest.MAX_BYTES")
def test_the_largest_interest_that_anybody_announces_is_understood() -> None:
    numbers = [n + 0.5 for n in range(1000)]  # which take most where they are no JSON
    entries = [
        InterestEntry(f"c{c}", {"n": {"$in": numbers[: 600 + n]}})
        for c in range(4)
        for n in range(MAX_ENTRIES)
    ]
    wanted = InterestSet(entries)
    assert wanted.collections == {f"c{c}" for c in range(4)}
    announced = Interest("a", 1, 0, list(wanted.entries.values()))
    assert read(announced) == announced
    half = InterestSet([InterestEntry("c", {"n": {"$in": numbers}}) for numbers in (numbers, numbers[1:])])
    assert half.partial("c")


def test_a_selector_that_is_too_large_is_not_kept() -> None:
    large = InterestEntry("c", {"n": "x" * MAX_SELECTOR_BYTES})
    before = interest._compiled._bytes
    with pytest.raises(InvalidSelector):
        InterestSet([large] * (MAX_ENTRIES + 1))
    assert interest._compiled._bytes == before
    assert MAX_SELECTORS_BYTES > 2 * interest.MAX_BYTES
