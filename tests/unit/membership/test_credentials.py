"""The files that make a node a member."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mesh import Credentials, CredentialsUnusable, InvalidNode, InvitationRefused, Node
from mesh.core.enrolment import Invitation
from mesh.membership import credentials as module
from mesh.storage.data_dir import CERTIFICATES

FILES = ["certificates.json", "identity.key", "root.key", "tls.pem"]


def test_what_was_created_can_be_loaded(tmp_path: Path) -> None:
    home = tmp_path / "hq"
    created = Credentials.create(home)
    loaded = Credentials.load(home)
    assert (loaded.node_id, loaded.mesh_id) == (created.node_id, created.mesh_id)
    assert loaded.node_id != loaded.mesh_id
    assert loaded.roles == {"admin", "publish", "relay", "member"}
    root = loaded.root()
    assert root is not None
    assert root.node_id == loaded.mesh_id


def test_the_key_of_a_mesh_makes_another_admin(tmp_path: Path) -> None:
    first = Credentials.create(tmp_path / "hq")
    key = (tmp_path / "hq" / "root.key").rename(tmp_path / "safe")
    assert Credentials.load(tmp_path / "hq").root() is None
    second = Credentials.create(tmp_path / "hq2", key)
    assert second.mesh_id == first.mesh_id
    assert "admin" in second.roles
    assert not (tmp_path / "hq2" / "root.key").exists()
    key.chmod(0o644)
    with pytest.raises(CredentialsUnusable, match="others may read it"):
        Credentials.create(tmp_path / "hq3", key)
    assert not (tmp_path / "hq3").exists()


def test_the_key_of_a_mesh_is_never_replaced_by_another(tmp_path: Path) -> None:
    first = Credentials.create(tmp_path)
    (tmp_path / "certificates.json").unlink()  # as after a kill before it was written
    with pytest.raises(CredentialsUnusable, match=r"root\.key there is the key of a mesh already"):
        Credentials.create(tmp_path)
    again = Credentials.create(tmp_path, tmp_path / "root.key")
    assert (again.mesh_id, again.node_id) == (first.mesh_id, first.node_id)
    assert again.root() is not None


def test_only_their_owner_may_read_them_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Credentials.create(tmp_path / "hq")
    finally:
        os.umask(before)
    assert (tmp_path / "hq").stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path / "hq")) == FILES
    assert {(tmp_path / "hq" / name).stat().st_mode & 0o777 for name in FILES} == {0o600}


@pytest.mark.parametrize("name", ["certificates.json", "identity.key", "tls.pem"])
def test_files_that_others_may_read_are_refused(tmp_path: Path, name: str) -> None:
    Credentials.create(tmp_path / "hq")
    (tmp_path / "hq" / name).chmod(0o640)
    with pytest.raises(CredentialsUnusable, match=r"others may read it .*chmod 600") as raised:
        Credentials.load(tmp_path / "hq")
    assert raised.value.path == str(tmp_path / "hq" / name)


def test_a_directory_where_others_may_write_is_refused(tmp_path: Path) -> None:
    Credentials.create(tmp_path / "hq")
    (tmp_path / "hq").chmod(0o770)
    with pytest.raises(CredentialsUnusable, match="chmod 700"):
        Credentials.load(tmp_path / "hq")
    with pytest.raises(CredentialsUnusable, match="chmod 700"):
        Credentials.create(tmp_path / "hq")


def test_credentials_that_are_not_there_or_there_already(tmp_path: Path) -> None:
    with pytest.raises(CredentialsUnusable, match="mesh init"):
        Credentials.load(tmp_path / "hq")
    Credentials.create(tmp_path / "hq")
    with pytest.raises(CredentialsUnusable, match="a member of a mesh already"):
        Credentials.create(tmp_path / "hq")


def test_certificates_of_another_node_or_of_nobody_are_refused(tmp_path: Path) -> None:
    for name in ("hq", "other"):
        Credentials.create(tmp_path / name)
    path = tmp_path / "hq" / CERTIFICATES
    own = path.read_bytes()
    roles = (own.replace(b"member", role) for role in (b"nobody", b"\xffember"))
    for content in (b"", b"[]", b"{}", own[:-9], b"\xff", *roles):
        path.write_bytes(content)
        with pytest.raises(CredentialsUnusable):
            Credentials.load(tmp_path / "hq")
    path.write_bytes((tmp_path / "other" / CERTIFICATES).read_bytes())
    with pytest.raises(CredentialsUnusable, match="another node's"):
        Credentials.load(tmp_path / "hq")


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    credentials = Credentials.create(tmp_path / "hq")
    shown = repr(credentials) + repr(credentials.identity) + repr(credentials.root()) + str(vars(credentials))
    for name in ("identity.key", "root.key"):
        assert (tmp_path / "hq" / name).read_text().strip() not in shown
    (tmp_path / "hq" / "identity.key").write_text("5ec7e7" * 10)
    with pytest.raises(CredentialsUnusable) as raised:
        Credentials.load(tmp_path / "hq")
    assert "5ec7e7" not in str(raised.value)


def test_a_certificate_that_was_not_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise CredentialsUnusable(str(path), "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_private", full)
        with pytest.raises(CredentialsUnusable):
            Credentials.create(tmp_path / "hq")
    with pytest.raises(CredentialsUnusable, match="there are none"):
        Credentials.load(tmp_path / "hq")
    Credentials.create(tmp_path / "hq")


@pytest.mark.parametrize(
    "path",
    [
        5,
        None,
        b"x",
        [],
        object(),
        "\0",
        "\ud800",
        "x" * 5000,
        "~nobody-of-that-name/x",
        "/dev/null",
        "/dev/null/x",
    ],
)
async def test_what_is_no_path_or_no_token_is_refused_as_such(path: Any, tmp_path: Path) -> None:
    token = Invitation("x", ["wss://hq:1"], bytes(32), bytes(20)).token()
    for make in (Credentials.create, Credentials.load):
        with pytest.raises(CredentialsUnusable):
            make(path)
    with pytest.raises(CredentialsUnusable):
        await Credentials.join(path, token)
    if path is not None:
        with pytest.raises(CredentialsUnusable):
            Credentials.create(tmp_path, path)
    with pytest.raises(InvitationRefused, match="no token of"):
        await Credentials.join(tmp_path, path)
    assert not list(tmp_path.iterdir())


async def test_an_open_node_keeps_its_identity_when_it_joins(tmp_path: Path) -> None:
    async with Node(tmp_path / "hq", listen=None) as node:
        node_id = node.node_id
    assert Credentials.create(tmp_path / "hq").node_id == node_id


async def test_a_member_is_not_opened_to_an_open_mesh_nor_to_another_node(tmp_path: Path) -> None:
    credentials = Credentials.create(tmp_path / "hq")
    with pytest.raises(InvalidNode, match=r"pass credentials=Credentials\.load"):
        await Node(tmp_path / "hq").start()
    Credentials.create(tmp_path / "other")
    with pytest.raises(InvalidNode, match="a directory of its own"):
        await Node(tmp_path / "other", credentials=credentials).start()
    async with Node(tmp_path / "elsewhere", credentials=credentials) as node:
        assert node.node_id == credentials.node_id
        assert node.stats().store_rebuilt_at is None
    async with Node(tmp_path / "hq", credentials=Credentials.load(tmp_path / "hq")) as node:
        assert node.stats().store_rebuilt_at is None
