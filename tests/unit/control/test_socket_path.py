from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from mesh.control import socket_path
from mesh.errors import DataDirUnusable


def deep(home: Path) -> Path:
    return home / ("d" * 60) / ("e" * 60)


def test_the_socket_of_a_short_home_is_in_it(tmp_path: Path) -> None:
    home = Path("/tmp", f"mesh-test-{os.getpid()}")
    assert socket_path.prepare(home) == home / "control.sock"
    assert not home.exists()  # nothing is written for it


def test_a_deep_home_gets_a_private_directory_and_a_note(tmp_path: Path) -> None:
    home = deep(tmp_path)
    socket_path.make_private(home)
    path = socket_path.prepare(home)
    assert path.parent.parent != home
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads((home / "control.json").read_text()) == {"socket": str(path)}
    assert (home / "control.json").stat().st_mode & 0o777 == 0o600
    assert socket_path.find(home) == path
    socket_path.clear(home)
    assert not path.parent.exists()
    assert list(home.iterdir()) == []


def test_what_a_dead_process_left_is_cleared_away(tmp_path: Path) -> None:
    home = deep(tmp_path)
    socket_path.make_private(home)
    first = socket_path.prepare(home)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(first))
    second = socket_path.prepare(home)
    assert second != first
    assert not first.parent.exists()
    socket_path.clear(home)


def test_a_runtime_directory_that_is_too_deep_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = deep(tmp_path)
    socket_path.make_private(home)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    path = socket_path.prepare(home)
    assert len(os.fsencode(path)) <= 100
    socket_path.clear(home)


def test_a_home_becomes_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    socket_path.make_private(home)
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_shared_directory_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    socket_path.make_private(shared)
    assert shared.stat().st_mode & 0o7777 == 0o1777


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirUnusable, match="not a directory"):
        socket_path.make_private(tmp_path / "file")
    with pytest.raises(DataDirUnusable):
        socket_path.make_private(tmp_path / "file" / "below")


@pytest.mark.parametrize("note", ["", "{}", "[]", "not json", '{"socket": 3}'])
def test_an_unusable_note_counts_as_none(tmp_path: Path, note: str) -> None:
    (tmp_path / "control.json").write_text(note)
    assert socket_path.find(tmp_path) == tmp_path / "control.sock"
