from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from mesh.cli import progress
from mesh.cli.output import Cell, Output, table_blocks
from mesh.cli.progress import Bars, bar
from mesh.core.scopes import AllNodes
from mesh.core.status import DistributionHandle, TransferPriority, TransferState
from tests.unit.fake_node import HUB_ID, VAN_ID, node_status, status_of

HANDLE = DistributionHandle("d", "h" * 64, AllNodes(), TransferPriority.NORMAL, 0.0)


def plain(columns: tuple[str, ...], rows: list[tuple[Cell | str, ...]], **fit: Any) -> list[str]:
    return [line.plain for block in table_blocks(columns, rows, **fit) for line in block]


def test_columns_are_aligned_whatever_the_letters() -> None:
    assert plain(("name", ">n", "rest"), [("van", "7", "x"), ("日本", "100", "yy")]) == [
        "name    n  rest",
        "van     7  x",
        "日本  100  yy",
    ]


def test_the_widest_columns_are_cut_until_the_table_fits() -> None:
    row = ("x" * 50, "1" * 15, "state", "y" * 30)
    assert plain(("a", ">n", "b", "c"), [row])[1] == "  ".join(row)
    assert plain(("a", ">n", "b", "c"), [row], width=70)[1] == "  ".join(
        ("x" * 21 + "…", "1" * 15, "state", "y" * 21 + "…")
    )
    assert plain(("a", ">n", "b", "c"), [row], width=9)[1] == "  ".join(
        ("x" * 11 + "…", "1" * 15, "state", "y" * 11 + "…")
    )


def test_columns_are_left_out_where_cutting_is_not_enough() -> None:
    row = ("x" * 50, "1" * 15, "state")
    assert plain(("a", ">n", "b"), [row], width=36, drop=("n",))[1] == f"{'x' * 11}…  {'1' * 15}  state"
    assert plain(("a", ">n", "b"), [row], width=35, drop=("n",)) == [
        "a" + " " * 29 + "b",
        f"{'x' * 27}…  state",
    ]


def test_a_last_column_goes_on_in_lines_of_its_own() -> None:
    row = ("x" * 20, "no room: it needs 65242880 bytes and there are 4096")
    assert [line.rstrip() for line in plain(("a", "reason"), [row], width=40, wrap=True)[1:]] == [
        "xxxxxxxxxxxxx…  no room: it needs",
        " " * 16 + "65242880 bytes and there",
        " " * 16 + "are 4096",
    ]


def test_a_table_without_titles_has_no_title_line() -> None:
    assert plain(("", ""), [("a", "b")]) == ["a  b"]
    assert plain(("", ""), []) == []


def test_an_empty_table_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).table([], ("a",), [], empty="nothing here")
    assert tuple(capsys.readouterr()) == ("", "nothing here\n")
    Output(as_json=True).table([], ("a",), [], empty="nothing here")
    assert tuple(capsys.readouterr()) == ("[]\n", "")


def test_json_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "line\nbreak é \u2028 \x1b[2J"}
    Output(as_json=True).result(value)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == value


@pytest.mark.parametrize(("fraction", "full"), [(0.0, 0), (0.049, 0), (0.5, 10), (0.9999, 19), (1.0, 20)])
def test_a_bar_is_full_only_at_the_end(fraction: float, full: int) -> None:
    assert bar(fraction) == "━" * full + "─" * (20 - full)


async def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(
        file=io.StringIO(), force_terminal=True, width=100, height=8, record=True, color_system=None
    )
    monkeypatch.setattr(progress, "console", lambda: screen)
    with Bars({VAN_ID: "van7"}, "map \x1b[2J to all") as bars:
        for done in (0, 1_000_000, 2_000_000):
            bars.show(
                status_of(
                    HANDLE,
                    node_status(VAN_ID, TransferState.TRANSFERRING, done, 4_000_000, rate=1e6),
                    node_status(HUB_ID, TransferState.FAILED, 0, 100, "disk full"),
                    *(node_status(f"n{i}", TransferState.PENDING) for i in range(5)),
                )
            )
    shown = screen.export_text().splitlines()[-6:]
    assert shown[0].endswith("map \ufffd[2J to all")
    assert shown[1].split() == [
        "van7", "transferring", "━━━━━━━━━━──────────", "50%", "1.0", "MB/s", "2", "s", "left",
    ]  # fmt: skip
    assert shown[2].split() == ["hhhhhhhh", "failed", "─" * 20, "0%", "disk", "full"]
    assert (
        shown[5] == "transferring  0 of 7 completed, 1 in progress, 5 pending, 1 failed  (3 more not shown)"
    )


async def test_bars_say_the_whole_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(
        file=io.StringIO(), force_terminal=True, width=80, height=8, record=True, color_system=None
    )
    monkeypatch.setattr(progress, "console", lambda: screen)
    why = "no source yet: asking base-station-north, which is not linked"
    waiting = [node_status(f"n{i}", TransferState.PENDING, error=why) for i in range(4)]
    with Bars({}, "map") as bars:
        bars.show(status_of(HANDLE, *waiting))
    shown = [line.strip() for line in screen.export_text().splitlines()[-4:]]
    assert shown[0].startswith("n0")
    assert [shown[0][-21:], *shown[1:3]] == [
        "no source yet: asking",
        "base-station-north, which is not",
        "linked",
    ]
    assert shown[3] == "pending  0 of 4 completed, 4 pending  (3 more not shown)"


async def test_bars_of_who_says_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, record=True, color_system=None)
    monkeypatch.setattr(progress, "console", lambda: screen)
    now = 5.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    moving = node_status(VAN_ID, TransferState.TRANSFERRING, 40, 100, rate=6.0)
    failed = node_status(HUB_ID, TransferState.FAILED, 0, 100, "disk full")
    with Bars({VAN_ID: "van7"}, "map") as bars:
        bars.show(status_of(HANDLE, moving, failed))
        now = 70.0
        bars.show(status_of(HANDLE, moving, failed))
    shown = screen.export_text().splitlines()[-3:]
    assert shown[0].endswith("40%  nothing new for 1 m 05 s")
    assert shown[1].endswith("0%  disk full")


def test_a_pipe_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not Output(as_json=False).is_terminal
