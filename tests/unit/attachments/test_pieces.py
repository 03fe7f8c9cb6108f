"""Chunks asked for piece by piece: what is under way follows how fast it comes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.attachments.pieces import MAX_BYTES, MIN_BYTES, START_BYTES, Piece, Pieces

HASH = bytes(32)
CHUNK = 1024 * 1024


class Line:
    """A holder behind a line that carries so many bytes a second, after a delay."""

    def __init__(self, rate: float, delay: float = 0.01) -> None:
        self.pieces = Pieces()
        self.now = self.free_at = 0.0
        self.most = 0
        self._rate, self._delay = rate, delay
        self._under_way: deque[tuple[float, Piece]] = deque()

    def carry(self, count: int) -> None:
        """Let ``count`` pieces arrive, or all that there are."""
        for _ in range(count):
            while (piece := self.pieces.next(self.now)) is not None:
                self.free_at = max(self.now, self.free_at) + piece.length / self._rate
                self._under_way.append((self.free_at + self._delay, piece))
            if not self._under_way:
                return
            self.most = max(self.most, sum(piece.length for _, piece in self._under_way))
            self.now, piece = self._under_way.popleft()
            assert self.pieces.came(piece.key, piece.offset, bytes(piece.length), self.now)[0]


@pytest.mark.parametrize("rate", [1_000, 4_096, 10_000, 100_000])
def test_a_slow_line_never_has_more_under_way_than_comes_soon(rate: int) -> None:
    line = Line(rate)
    line.pieces.add((HASH, 0), CHUNK)
    line.carry(1000)
    assert line.most <= max(START_BYTES, 4 * rate)
    assert not line.pieces.quick
    assert line.now == pytest.approx(CHUNK / rate, rel=0.05)


@pytest.mark.parametrize(("rate", "delay"), [(300_000, 0.01), (10_000_000, 0.6), (1e9, 0.0001)])
def test_a_quick_line_is_known_after_a_few_round_trips(rate: float, delay: float) -> None:
    line = Line(rate, delay)
    line.pieces.add((HASH, 0), CHUNK)
    line.pieces.add((HASH, 1), CHUNK)
    while not line.pieces.quick:
        line.carry(1)
    assert line.now < 6 * delay + 2.5
    assert line.pieces.take_unbegun() == [(HASH, 1)]
    assert line.most <= MAX_BYTES


def test_a_piece_of_another_length_or_that_nobody_asked_for_does_not_fit() -> None:
    pieces = Pieces()
    pieces.add((HASH, 0), CHUNK)
    piece = pieces.next(0.0)
    assert piece is not None
    assert pieces.came(piece.key, piece.offset, bytes(piece.length - 1), 1.0) == (False, None)
    assert pieces.came(piece.key, piece.offset + 1, bytes(piece.length), 1.0) == (False, None)
    assert pieces.came((HASH, 1), piece.offset, bytes(piece.length), 1.0) == (False, None)
    assert pieces.came(piece.key, piece.offset, bytes(piece.length), 1.0) == (True, None)


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=200),
)
def test_chunks_are_put_together_whatever_comes_first_and_whatever_is_dropped(
    lengths: list[int], steps: list[tuple[int, bool]]
) -> None:
    pieces, under_way = Pieces(), list[Piece]()
    contents = [bytes((index + position) % 251 for position in range(n)) for index, n in enumerate(lengths)]
    wanted = set(range(len(lengths)))
    for index, length in enumerate(lengths):
        pieces.add((HASH, index), length)
    now = 0.0
    endless = iter(lambda: (0, False), None)
    for number, drop in (step for source in (steps, endless) for step in source):
        while (asked := pieces.next(now)) is not None:
            under_way.append(asked)
        if not under_way:
            break
        assert sum(piece.length for piece in under_way) <= max(MIN_BYTES, MAX_BYTES)
        now += number / 10
        piece = under_way.pop(number % len(under_way))
        index = piece.key[1]
        if drop:
            pieces.drop(piece.key)
            wanted.discard(index)
            under_way = [other for other in under_way if other.key != piece.key]
            continue
        data = contents[index][piece.offset : piece.offset + piece.length]
        fits, whole = pieces.came(piece.key, piece.offset, data, now)
        assert fits
        if whole is not None:
            assert whole == contents[index]
            wanted.remove(index)
    assert not wanted


def test_a_holder_is_quick_until_a_whole_chunk_takes_too_long() -> None:
    pieces = Pieces()
    pieces.quick = True
    pieces.whole_asked(0.0)
    pieces.whole_asked(10.0)
    assert not pieces.whole_came(14.9, last=False)
    assert not pieces.whole_came(29.8, last=True)
    pieces.whole_asked(100.0)  # nothing was asked for meanwhile
    assert not pieces.whole_came(110.0, last=False)
    assert pieces.whole_came(125.0, last=False)
    assert not pieces.quick
    assert not pieces.whole_came(200.0, last=True)
