"""Delays between attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.backoff import Backoff


@given(st.integers(), st.integers(1, 30))
def test_delays_stay_under_a_ceiling_that_doubles_up_to_a_minute(seed: int, count: int) -> None:
    backoff = Backoff(random.Random(seed))
    ceilings = [min(60.0, 2.0**n) for n in range(count)]
    for ceiling in ceilings:
        assert backoff.ceiling == ceiling
        assert 0 <= backoff.next_delay() <= ceiling


@given(st.integers(), st.integers(0, 20))
def test_success_starts_over(seed: int, failures: int) -> None:
    backoff = Backoff(random.Random(seed))
    for _ in range(failures):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() <= 1


def test_the_jitter_uses_the_whole_range_and_parts_a_crowd() -> None:
    delays = []
    for seed in range(1000):
        backoff = Backoff(random.Random(seed), first=10.0)
        delays.append(backoff.next_delay())
    for tenth in range(10):
        assert 50 < sum(tenth <= delay < tenth + 1 for delay in delays) < 150


def test_the_same_seed_gives_the_same_delays() -> None:
    a, b = Backoff(random.Random(7)), Backoff(random.Random(7))
    assert [a.next_delay() for _ in range(9)] == [b.next_delay() for _ in range(9)]
