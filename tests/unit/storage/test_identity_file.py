"""The file with the private key."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.errors import DataDirUnusable
from mesh.storage.identity import load_or_create_identity


def test_it_is_made_once_and_then_stays(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    first = load_or_create_identity(path)
    content = path.read_bytes()
    assert load_or_create_identity(path).node_id == first.node_id
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["identity"]


def test_only_its_owner_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    before = os.umask(0)
    try:
        load_or_create_identity(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_others_may_read_is_tightened(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    node_id = load_or_create_identity(path).node_id
    path.chmod(0o644)
    assert load_or_create_identity(path).node_id == node_id
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"00" * 31, b"zz" * 32, b"00" * 33, bytes(range(256)) * 9])
def test_a_malformed_file_is_an_error_and_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content)
    with pytest.raises(DataDirUnusable, match="does not hold a key") as raised:
        load_or_create_identity(path)
    assert raised.value.path == str(path)
    assert path.read_bytes() == content


def test_the_error_shows_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_bytes(b"5ec7e7" * 10)
    with pytest.raises(DataDirUnusable) as raised:
        load_or_create_identity(path)
    assert "5ec7e7" not in str(raised.value)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataDirUnusable):
        load_or_create_identity(tmp_path / "nowhere" / "identity")


def test_many_that_make_it_at_once_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: load_or_create_identity(path).node_id, range(32)))
    assert len(set(made)) == 1
    assert os.listdir(tmp_path) == ["identity"]
