"""When to ping, when to give up, and how far away a peer is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.heartbeat import DEAD_AFTER_SECONDS, PING_AFTER_SECONDS, Heartbeat


def test_the_first_ping_goes_out_at_once() -> None:
    heartbeat = Heartbeat(100.0)
    assert heartbeat.due() == 100.0
    assert heartbeat.tick(100.0) == 1
    assert heartbeat.tick(100.0) is None


def test_silence_is_pinged_twice_and_then_it_is_death() -> None:
    heartbeat = Heartbeat(0.0)
    pings, now = [], 0.0
    while not heartbeat.dead:
        now = heartbeat.due()
        if heartbeat.tick(now) is not None:
            pings.append(now)
    assert pings == [0, PING_AFTER_SECONDS, 2 * PING_AFTER_SECONDS]
    assert now == DEAD_AFTER_SECONDS


def test_who_talks_and_is_talked_to_is_not_pinged() -> None:
    heartbeat = Heartbeat(0.0)
    heartbeat.tick(0.0)
    for now in range(1, 1000):
        heartbeat.heard(float(now))
        heartbeat.said(now + 0.25)
        assert heartbeat.tick(now + 0.5) is None
    assert not heartbeat.dead


def test_who_only_talks_hears_of_us_all_the_same() -> None:
    heartbeat = Heartbeat(0.0)
    pings = 0
    for now in range(1000):
        heartbeat.heard(float(now))
        pings += heartbeat.tick(float(now)) is not None
    assert pings == 1000 / PING_AFTER_SECONDS


def test_who_is_only_talked_to_is_pinged_and_then_it_is_death() -> None:
    heartbeat = Heartbeat(0.0)
    pings = 0
    while not heartbeat.dead:
        now = heartbeat.due()
        heartbeat.said(now)
        pings += heartbeat.tick(now) is not None
    assert pings == 3


@given(st.lists(st.floats(0, 60), min_size=1, max_size=100))
def test_it_is_dead_exactly_after_a_silence_of_25_seconds(silences: list[float]) -> None:
    heartbeat = Heartbeat(0.0)
    heard = now = 0.0
    for silence in silences:
        end = heard + silence
        while not heartbeat.dead and heartbeat.due() < end:
            assert heartbeat.due() >= now
            now = heartbeat.due()
            heartbeat.tick(now)
        assert heartbeat.dead is (now >= heard + DEAD_AFTER_SECONDS)
        if heartbeat.dead:
            return
        now = heard = end
        heartbeat.heard(heard)
    assert max(silences) <= DEAD_AFTER_SECONDS


@given(st.lists(st.sampled_from(["busy", "heard", "pong"]), max_size=200), st.floats(0.1, 9))
def test_ticks_at_due_always_make_progress(events: list[str], step: float) -> None:
    heartbeat = Heartbeat(0.0)
    now = 0.0
    for event in events:
        now = max(now, heartbeat.due())
        heartbeat.tick(now, listening=event != "busy")
        if heartbeat.dead:
            return
        assert heartbeat.due() > now
        if event == "heard":
            now += step
            heartbeat.heard(now)


def test_who_is_not_listened_to_does_not_die_but_hears_of_us() -> None:
    heartbeat = Heartbeat(0.0)
    pings = 0
    while heartbeat.due() < 1000:
        pings += heartbeat.tick(heartbeat.due(), listening=False) is not None
    assert not heartbeat.dead
    assert pings == 1000 / PING_AFTER_SECONDS


def test_the_round_trip_time_is_smoothed() -> None:
    heartbeat = Heartbeat(0.0)
    assert heartbeat.rtt is None
    now = 0.0
    for rtt in (0.1, 0.1, 0.9):
        number = heartbeat.tick(now)
        assert number is not None
        heartbeat.heard(now + rtt)
        heartbeat.ponged(number, now + rtt)
        now = heartbeat.due()
    assert heartbeat.rtt == pytest.approx(0.2)


def test_answers_to_other_pings_tell_nothing() -> None:
    heartbeat = Heartbeat(0.0)
    heartbeat.ponged(0, 1.0)
    first = heartbeat.tick(0.0)
    assert first is not None
    second = heartbeat.tick(10.0)
    assert second is not None
    heartbeat.ponged(first, 11.0)
    heartbeat.ponged(99, 11.0)
    assert heartbeat.rtt is None
    heartbeat.ponged(second, 10.5)
    assert heartbeat.rtt == 0.5
