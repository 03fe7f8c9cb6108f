"""Directories that a failed command has made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh import Credentials, InvitationRefused, PeerUnreachable
from mesh.cli.main import cli
from mesh.core.enrolment import SECRET_BYTES, Invitation
from mesh.membership import credentials as module

TOKEN = Invitation("mesh", ["wss://127.0.0.1:1"], bytes(32), bytes(SECRET_BYTES)).token()
ROOT = Path(__file__).parents[3]


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


def test_to_be_interrupted_while_modules_are_read_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "mesh.py").write_text("raise KeyboardInterrupt")
    program = f"import sys; sys.path[:0] = {[str(tmp_path), str(ROOT)]}; import mesh_command as m; m.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
