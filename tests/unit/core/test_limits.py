"""What becomes of those who take more than they may, and the table of what that is."""

from __future__ import annotations

import importlib
import logging
import re
from pathlib import Path

import pytest

from mesh.core import limits
from mesh.core.limits import (
    FIRST_BAN_SECONDS,
    LOG_LINES,
    LOG_SECONDS,
    MAX_BAN_SECONDS,
    REMEMBERED,
    STRIKE_SECONDS,
    STRIKES,
    Bans,
    LinesPerPeer,
    crowder,
    origin_of,
)

ROWS = re.findall(r"^    ([a-z_.]+)\.([A-Z_]+) +([0-9.]+) ", limits.__doc__ or "", re.MULTILINE)


def test_the_table_says_what_the_code_does() -> None:
    assert len(ROWS) >= 35
    for module, name, value in ROWS:
        assert str(getattr(importlib.import_module(f"mesh.{module}"), name)) == value, name


def test_a_test_goes_over_each_limit() -> None:
    sources = [path.read_text() for path in Path(__file__).parents[2].rglob("test_*.py")]
    marks = re.findall(r"mark\.limit\(([^)]*)\)", "\n".join(sources))
    assert {f"{module}.{name}" for module, name, _ in ROWS} == set(re.findall(r'"([^"]+)"', " ".join(marks)))


@pytest.mark.limit("core.limits.MAX_BAN_SECONDS")
def test_who_breaks_the_protocol_again_and_again_is_banned_for_longer_each_time() -> None:
    bans, now, seconds = Bans(), 1000.0, []
    for _ in range(8):
        for _ in range(STRIKES - 1):
            assert bans.strike("a", now) == 0
            assert not bans.seconds("a", now)
        seconds.append(bans.strike("a", now))
        assert bans.seconds("a", now + 1) == seconds[-1] - 1
        assert not bans.seconds("b", now)
        now += seconds[-1]
        assert not bans.seconds("a", now)
    assert seconds[:3] == [FIRST_BAN_SECONDS, 2 * FIRST_BAN_SECONDS, 4 * FIRST_BAN_SECONDS]
    assert seconds[-1] == MAX_BAN_SECONDS


@pytest.mark.limit("core.limits.STRIKE_SECONDS")
def test_who_breaks_it_now_and_then_is_not_banned_and_a_ban_is_forgotten() -> None:
    bans = Bans()
    assert not any(bans.strike("a", at * STRIKE_SECONDS / (STRIKES - 1)) for at in range(20))
    for _ in range(STRIKES):
        first = bans.strike("b", 0)
    later = first + MAX_BAN_SECONDS
    for _ in range(STRIKES):
        again = bans.strike("b", later)
    assert first == again == FIRST_BAN_SECONDS


def test_so_many_offenders_are_remembered() -> None:
    bans = Bans()
    for i in range(REMEMBERED + 1):
        for _ in range(STRIKES):
            bans.strike(str(i), 0)
    assert not bans.seconds("0", 0)
    assert bans.seconds("1", 0)


def test_who_crowds_drives_out_itself() -> None:
    strangers = dict(enumerate(["a", "b", "b", "a", "b", "c"]))
    assert crowder(strangers) == 1
    del strangers[1]
    assert crowder(strangers) in (0, 2)


@pytest.mark.parametrize(
    "remote, origin",
    [
        ("192.0.2.1:40000", "192.0.2.1"),
        ("[2001:db8:1:2:3::4]:40000", "2001:db8:1:2::/64"),
        ("[::1]:40000", "::1"),
        ("[::ffff:192.0.2.1]:4", "192.0.2.1"),
        ("van", "van"),
        ("a closed socket", "a closed socket"),
    ],
)
def test_what_comes_from_one_place(remote: str, origin: str) -> None:
    assert origin_of(remote) == origin


def line(about: str, at: float) -> logging.LogRecord:
    record = logging.LogRecord("mesh", logging.INFO, "", 0, "%s says %s", (about, "x"), None)
    record.created = at
    return record


@pytest.mark.limit("core.limits.LOG_SECONDS")
def test_lines_of_log_about_one_peer() -> None:
    lines = LinesPerPeer()
    written = [line(f"192.0.2.1:{port}", 1000.0) for port in range(100)]
    written = [record for record in written if lines.filter(record)]
    assert len(written) == LOG_LINES
    assert ["left out" in record.getMessage() for record in written] == [False] * (LOG_LINES - 1) + [True]
    assert lines.filter(line("192.0.2.2:1", 1000.0)), "others are written about as before"
    assert not lines.filter(line("192.0.2.1:1", 1000.0 + LOG_SECONDS - 1))
    assert lines.filter(line("192.0.2.1:1", 1000.0 + LOG_SECONDS))
    plain = logging.LogRecord("mesh", logging.INFO, "", 0, "about nobody", (), None)
    assert all(lines.filter(plain) for _ in range(100))
