"""`mesh fetch`, against a node that the test lets find the blob."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh.cli.fetch import view_for
from mesh.cli.main import cli
from mesh.cli.output import Output
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from tests.unit.cli.conftest import ServedNode

TOKEN = BlobToken("a" * 64, 5, "a" * 64, BlobMetadata("map"))
TEXT = json.dumps(TOKEN.to_dict())


@pytest.fixture
def source(served: ServedNode, tmp_path: Path) -> Path:
    """The file that another node holds as a blob, and gives away at once."""
    source = tmp_path / "source"
    source.write_bytes(b"tiles")
    served.node.attachments.elsewhere[TOKEN.hash] = source
    served.loop.call_soon_threadsafe(served.node.attachments.fetched.set)
    return source


def test_a_token_is_given_as_json_or_on_stdin(served: ServedNode, source: Path) -> None:
    result = served.mesh("fetch", TEXT)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == ["completed  100%", f"{TOKEN.hash}  5 B"]
    assert served.json("fetch", TEXT) == TOKEN.to_dict()
    assert served.mesh("fetch", "-", stdin=TEXT + "\n").exit_code == 0


def test_what_is_fetched_is_copied_to_where_nothing_is_yet(
    served: ServedNode, source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    assert served.mesh("fetch", TEXT, "--output", str(copy)).stdout.endswith(f"{copy}  5 B\n")
    assert copy.read_bytes() == b"tiles"
    copy.write_bytes(b"mine")
    del served.node.attachments.held[TOKEN.hash]
    result = served.mesh("fetch", TEXT, "--output", str(copy))
    assert (result.exit_code, copy.read_bytes()) == (4, b"mine")
    assert "exists already: choose another name, or replace it with --force" in result.stderr
    assert TOKEN.hash not in served.node.attachments.held, "it is refused before it is fetched"
    assert served.mesh("fetch", TEXT, "--output", str(copy), "--force").exit_code == 0
    assert copy.read_bytes() == b"tiles"
    result = served.mesh("fetch", TEXT, "--output", str(tmp_path / "none" / "copy"))
    assert (result.exit_code, "cannot write" in result.stderr) == (4, True)


def test_who_waits_is_told_why_and_for_how_long(served: ServedNode) -> None:
    result = served.mesh("fetch", TEXT, "--timeout", "0.05")
    assert result.exit_code == 1
    assert result.stdout == "waiting  0%  no peers are connected\n"
    assert "not complete after 0.05 s (waiting: no peers are connected, 0 of 5 bytes)" in result.stderr


def test_a_fetch_that_fails_has_status_1(served: ServedNode) -> None:
    served.loop.call_soon_threadsafe(served.node.attachments.fetched.set)
    result = served.mesh("fetch", TEXT, "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["type"]) == (1, "FetchFailed")


@pytest.mark.parametrize("text", ["x", "[]", "{}", TEXT.replace("a" * 64, "a" * 63), TEXT.replace("5", "-5")])
def test_what_is_no_token_is_named_without_a_node(tmp_path: Path, text: str) -> None:
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "--json", "fetch", text])
    assert (result.exit_code, json.loads(result.stdout)["error"]["type"]) == (4, "InvalidToken")


def test_force_goes_with_output(served: ServedNode) -> None:
    assert served.mesh("fetch", TEXT, "--force").exit_code == 2


def test_a_line_says_what_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with view_for(Output(as_json=False), "map (100 B)") as view:
        for state, held, reason in (
            ("waiting", 0, "no peers\x1b[2J"),
            ("transferring", 11, None),
            ("transferring", 19, None),
            ("transferring", 20, None),
        ):
            view.show(BlobProgress(state, held, 100, reason=reason))  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "waiting  0%  no peers\ufffd[2J",
        "transferring  11%",
        "transferring  20%",
    ]


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with view_for(Output(as_json=False), "map (100 B)") as view:
        view.show(BlobProgress("transferring", 50, 100, rate=10.0, eta=5.0))
    shown = capsys.readouterr().out
    assert "map (100 B)" in shown
    assert f"{'━' * 10}{'─' * 10}   50%  transferring  10 B/s  5 s left" in shown
