from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.rates import MIN_LIMIT, WINDOW_SECONDS, Limits, RateMeter, TokenBucket, seconds_left

MIB = 1 << 20
sizes = st.integers(1, 2 * MIB)
rates = st.floats(MIN_LIMIT, 1e10)


@given(rates, st.floats(0, 1e6), st.lists(st.tuples(st.floats(0, 5), sizes), max_size=60))
def test_a_bucket_never_lets_more_pass_than_its_burst_and_its_rate_allow(
    rate: float, start: float, steps: list[tuple[float, int]]
) -> None:
    bucket, now = TokenBucket(rate, start), start
    passed: list[tuple[float, int]] = []
    for wait, size in steps:
        now += wait
        if bucket.ready_at(size, now) <= now:
            bucket.take(size, now)
            passed.append((now, size))
    for first in range(len(passed)):
        total = 0
        for when, size in passed[first:]:
            over = max(0.0, size - bucket.burst)  # is paid back before anything else passes
            assert total <= bucket.burst + rate * (when - passed[first][0]) * (1 + 1e-9) + len(passed) + 1
            total += size
            assert (
                total - over <= bucket.burst + rate * (when - passed[first][0]) * (1 + 1e-9) + len(passed) + 1
            )


@given(rates, st.floats(0, 1e6), st.lists(sizes, max_size=30))
def test_whoever_waits_as_long_as_the_bucket_says_gets_through(
    rate: float, start: float, wanted: list[int]
) -> None:
    bucket, now = TokenBucket(rate, start), start
    for size in wanted:
        now = max(now, bucket.ready_at(size, now))
        assert bucket.ready_at(size, now) <= now
        bucket.take(size, now)
    total = sum(wanted)
    assert now - start <= total / rate * (1 + 1e-6) + 1e-3


def test_what_is_given_back_can_be_used_again() -> None:
    bucket = TokenBucket(MIB, 0.0)
    bucket.take(MIB, 0.0)
    assert bucket.ready_at(1000, 0.0) > 0.5
    bucket.take(-MIB, 0.0)
    assert bucket.ready_at(1000, 0.0) == 0.0


@pytest.mark.parametrize("wrong", [0, -1.0, MIN_LIMIT - 1, float("nan"), float("inf"), "fast", True])
def test_caps_that_cannot_be_kept_to(wrong: object) -> None:
    with pytest.raises(ValueError, match="link_limit"):
        Limits(link=wrong).check()  # type: ignore[arg-type]
    Limits(MIN_LIMIT, None, 1e9).check()


def test_the_rate_is_that_of_the_last_seconds_and_falls_when_nothing_comes() -> None:
    meter = RateMeter()
    assert meter.rate(0.0) == 0.0
    for tenth in range(200):
        meter.update(tenth * 100 if tenth <= 100 else 10_000 + (tenth - 100) * 500, tenth / 10)
    assert meter.rate(19.9) == pytest.approx(5000, rel=0.05)
    assert meter.ends_at(20.5) == 19.9 + WINDOW_SECONDS
    assert meter.rate(19.9 + WINDOW_SECONDS) == 0.0
    assert meter.ends_at(19.9 + WINDOW_SECONDS) is None
    meter.update(5, 20.0)  # it began again
    assert meter.rate(20.0) == 0.0
    assert seconds_left(1000, 250.0) == 4.0
    assert seconds_left(1000, 0.0) is None


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10_000)), max_size=300))
def test_a_rate_is_never_negative_and_remembers_little(steps: list[tuple[float, int]]) -> None:
    meter, now = RateMeter(), 0.0
    for wait, total in steps:
        now += wait / 10
        meter.update(total, now)
        assert meter.rate(now) >= 0.0
        ends_at = meter.ends_at(now)
        assert (ends_at is not None) == (meter.rate(now) > 0)
        assert ends_at is None or meter.rate(ends_at) == 0.0
        assert len(meter._samples) < 30
