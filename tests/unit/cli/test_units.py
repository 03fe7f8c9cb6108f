from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.units import clean, duration, percent, short, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (9_960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (12_345_678, "12 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**16))
def test_sizes_stay_narrow(count: int) -> None:
    assert len(size(count)) <= 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 m 00 s"),
        (185, "3 m 05 s"),
        (7800, "2 h 10 m"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent_is_100_only_at_the_end() -> None:
    assert [percent(f) for f in (0.0, 0.129, 0.9999, 1.0, 1.5)] == ["0%", "12%", "99%", "100%", "100%"]


@given(st.text())
def test_foreign_text_cannot_steer_a_terminal(text: str) -> None:
    assert clean(text).isprintable()
    assert len(clean(text)) == len(text)


def test_an_escape_sequence_is_defused() -> None:
    assert clean("a\x1b[2Jb\x9bc\n") == "a\ufffd[2Jb\ufffdc\ufffd"
    assert short("\x1b" * 50) == "\ufffd" * 8
