"""Which numbers a store has given, and when it parted from another life of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.numbering import MAX_GAP, MAX_RUNS, MIN_GAP, ONE_RUN


def test_what_was_given_is_known() -> None:
    assert ONE_RUN.issued(0, 0)
    assert ONE_RUN.issued(5, 5)
    assert not ONE_RUN.issued(6, 5)
    again = ONE_RUN.reopened(5, 1000)
    assert [number for number in range(2000) if again.issued(number, 1007)] == [*range(6), *range(1005, 1008)]


def test_what_the_other_life_went_on_to_write_falls_into_the_gap() -> None:
    backup = ONE_RUN.reopened(100, MIN_GAP).reopened(MIN_GAP + 300, MIN_GAP)
    assert not backup.issued(150, backup.start)
    assert backup.parted(150) == 100
    assert backup.parted(MIN_GAP + 350) == MIN_GAP + 300


def test_where_it_was_opened_again_they_parted_one_gap_before() -> None:
    backup = ONE_RUN.reopened(100, MIN_GAP)
    assert backup.parted(100 + 3 * MIN_GAP) == 100
    again = backup.reopened(MIN_GAP + 500, MAX_GAP)
    assert again.parted(100 + 3 * MIN_GAP) == 100


def test_where_it_was_opened_more_often_only_the_present_run_is_new() -> None:
    backup = ONE_RUN.reopened(100, MIN_GAP)
    assert backup.parted(100 + 3 * MAX_GAP) == backup.start
    assert ONE_RUN.parted(7) == 0


def test_of_several_places_where_they_may_have_parted_one_is_the_latest() -> None:
    first, second = 100, 2 * MIN_GAP
    backup = ONE_RUN.reopened(first, MIN_GAP).reopened(second, MAX_GAP)
    for number, latest in ((second + MIN_GAP, second), (second + MIN_GAP - 1, first), (second + 5, second)):
        assert backup.parted_at_the_latest(number) == latest
    assert backup.parted(second + MIN_GAP) == first
    assert backup.parted_at_the_latest(second + 3 * MAX_GAP) == backup.start
    assert backup.parted_at_the_latest(None) == backup.start


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(MIN_GAP, 2 * MIN_GAP)), max_size=2 * MAX_RUNS))
def test_whatever_was_given_counts_as_given(opens: list[tuple[int, int]]) -> None:
    numbering, last = ONE_RUN, 0
    given_numbers = []
    for written, gap in opens:
        given_numbers += [last, last + written]
        last += written
        numbering = numbering.reopened(last, gap)
        last = numbering.start
    assert all(numbering.issued(number, last) for number in [*given_numbers, last])
    assert not numbering.issued(last + 1, last)
    assert len(numbering.runs) <= MAX_RUNS
    if opens:
        assert not numbering.issued(last - 1, last), "what lies in the last gap was never given"
