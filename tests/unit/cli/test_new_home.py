"""Directories that a failed command has made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh import Credentials, InvitationRefused, PeerUnreachable
from mesh.cli.main import cli
from mesh.core.enrolment import SECRET_BYTES, Invitation
from mesh.membership import credentials as module

TOKEN = Invitation("mesh", ["wss://127.0.0.1:1"], bytes(32), bytes(SECRET_BYTES)).token()


def mesh(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


@pytest.mark.parametrize(
    "arguments",
    [
        ("join",),
        ("rotate",),
        ("init", "--root-key", "/nowhere"),
        ("up", "--name", "\n"),
        ("up", "--gateway", "nonsense"),
        ("up", "--gateway", "192.0.2.1:0", "--gateway-token-file", str(Path(__file__))),
        ("up", "--listen", "192.0.2.1:0"),
    ],
)
def test_a_command_that_fails_leaves_no_new_directory(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    failed = mesh(*arguments, "--home", str(tmp_path / "new" / "van"), stdin=TOKEN)
    assert failed.exit_code in (2, 4), failed.output
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "van").mkdir(0o700)
    assert mesh(*arguments, "--home", str(tmp_path / "van"), stdin=TOKEN).exit_code in (2, 4)
    assert (tmp_path / "van").exists(), "what was there before stays"


@pytest.mark.parametrize(
    ("failure", "stays"),
    [
        (InvitationRefused("it has been used already"), False),
        (InvitationRefused("the connection broke"), True),
        (PeerUnreachable("wss://hq", "it does not answer the request for a certificate"), True),
    ],
)
def test_a_key_that_may_have_been_admitted_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, stays: bool
) -> None:
    async def fails(*_: object) -> None:
        raise failure

    monkeypatch.setattr(module, "enrol_by", fails)
    home = tmp_path / "van"
    assert mesh("join", "--home", str(home), stdin=TOKEN).exit_code == 4
    assert (home / "identity.key").exists() is stays
    assert home.exists() is stays


def test_other_homes_beside_it_stay(tmp_path: Path) -> None:
    Credentials.create(tmp_path / "all" / "hq")
    assert mesh("rotate", "--home", str(tmp_path / "all" / "van")).exit_code == 4
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["hq"]
