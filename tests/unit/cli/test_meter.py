from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.meter import Meter
from mesh.core.rates import seconds_left
from mesh.core.scopes import AllNodes
from mesh.core.status import DistributionHandle, DistributionStatus, TransferPriority, TransferState
from tests.unit.fake_node import VAN_ID, node_status, status_of

HANDLE = DistributionHandle("d", "h", AllNodes(), TransferPriority.NORMAL, 0.0)


def at(progress: int) -> DistributionStatus:
    return status_of(HANDLE, node_status(VAN_ID, TransferState.TRANSFERRING, progress, 10_000))


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    for second in range(11):
        meter.update(at(second * 100 if second <= 5 else 500 + (second - 5) * 200), float(second))
    assert meter.rate(VAN_ID, 10.0) == 200.0


def test_nothing_is_known_of_one_sample() -> None:
    meter = Meter()
    assert meter.rate(VAN_ID, 0.0) == 0.0
    meter.update(at(100), 0.0)
    assert meter.rate(VAN_ID, 0.0) == 0.0
    meter.update(at(200), 0.0)
    assert meter.rate(VAN_ID, 0.0) == 0.0  # no time has passed


def test_the_rate_falls_to_zero_when_nothing_comes() -> None:
    meter = Meter()
    meter.update(at(0), 0.0)
    meter.update(at(1000), 1.0)
    assert meter.rate(VAN_ID, 2.0) == 500.0
    assert meter.rate(VAN_ID, 7.0) == 0.0


def test_a_new_attempt_starts_from_nothing() -> None:
    meter = Meter()
    meter.update(at(5000), 0.0)
    meter.update(at(100), 1.0)
    assert meter.rate(VAN_ID, 1.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10_000)), max_size=30))
def test_a_rate_is_never_negative(steps: list[tuple[float, int]]) -> None:
    meter, now = Meter(), 0.0
    for wait, progress in steps:
        now += wait
        meter.update(at(progress), now)
        assert meter.rate(VAN_ID, now) >= 0.0


def test_time_left() -> None:
    assert seconds_left(1000, 250.0) == 4.0
    assert seconds_left(1000, 0.0) is None
