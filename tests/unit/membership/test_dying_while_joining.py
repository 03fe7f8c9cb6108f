"""A process that dies while it makes credentials leaves none, or whole ones, wherever it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh import Credentials, CredentialsUnusable
from mesh.core.certificates import Certificate, grant_of, issue
from mesh.core.enrolment import SECRET_BYTES, Invitation
from mesh.core.identity import Identity
from mesh.membership import credentials as module

HQ, ROOT = Identity(bytes(32)), Identity(b"r" * 32)
CHAIN = issue(ROOT, [], HQ.public_key, grant_of("admin"), 1_800_000_000)
TOKEN = Invitation(ROOT.node_id, ["wss://hq:1"], bytes(32), bytes(SECRET_BYTES)).token()

STEPS = ("open", "fsync", "link", "unlink", "replace", "rename", "mkdir", "write")
"""What changes a directory, or makes it durable."""


async def enrolled(transport: object, identity: Identity, invitation: Invitation) -> list[Certificate]:
    return issue(HQ, CHAIN, identity.public_key, grant_of("member"), 1_800_000_000)


def join(home: Path) -> Credentials:
    return asyncio.run(Credentials.join(home, TOKEN))


def left_in(home: Path) -> Credentials | None:
    """The credentials there; ``None``: there are none, which is said."""
    try:
        return Credentials.load(home)
    except CredentialsUnusable as error:
        if "there are none" not in error.reason:
            raise
        return None


def dies(at: int, work: Callable[..., object], *arguments: object) -> bool:
    """Let a child do it, which is killed before its ``at``-th step; whether it was."""
    child = os.fork()
    if child == 0:
        left = at

        def step(do: Callable[..., Any]) -> Callable[..., Any]:
            def killed_in_time(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return do(*args, **kwargs)

            return killed_in_time

        for name in STEPS:
            setattr(os, name, step(getattr(os, name)))
        try:
            work(*arguments)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "enrol_by", enrolled)


def test_a_kill_while_joining_leaves_nothing_or_a_member_and_joining_again_works(tmp_path: Path) -> None:
    kills = members = 0
    while dies(kills, join, tmp_path / str(kills)):
        home = tmp_path / str(kills)
        kills += 1
        left = left_in(home)
        members += left is not None
        for file in home.glob("*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        again = join(home)
        assert Credentials.load(home).node_id == again.node_id
        assert left is None or left.node_id == again.node_id
    assert kills > 10
    assert members


def test_a_kill_while_a_mesh_is_begun_loses_no_key_of_a_mesh(tmp_path: Path) -> None:
    kills = 0
    while dies(kills, Credentials.create, tmp_path / str(kills)):
        home = tmp_path / str(kills)
        kills += 1
        if left_in(home) is None:
            root = home / "root.key"
            assert Credentials.create(home, root if root.exists() else None).roles >= {"admin"}
    assert kills > 10


def test_a_kill_while_a_renewal_is_kept_leaves_the_old_or_the_new_certificate(tmp_path: Path) -> None:
    credentials = join(tmp_path)
    before = (tmp_path / "certificates.json").read_bytes()
    credentials.membership.chain = issue(
        HQ, CHAIN, credentials.identity.public_key, grant_of("relay"), 1_800_000_000
    )
    kills = 0
    while dies(kills, credentials.keep):
        kills += 1
        assert Credentials.load(tmp_path).roles in ({"member"}, {"member", "relay"})
        (tmp_path / "certificates.json").write_bytes(before)
    assert kills >= 3
