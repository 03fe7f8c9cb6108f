"""What `mesh doctor` finds."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh import Credentials, CredentialsUnusable
from mesh.cli.main import cli
from mesh.node.doctor import examine, examine_running
from tests.simulation.virtual_clock import virtual
from tests.simulation.world import World

DAY = 86_400.0


def found(home: Path, at: float = 0.0) -> list[tuple[str, str]]:
    return [(finding.subject, finding.problem) for finding in examine(home, time.time() + at)]


def test_a_healthy_member_has_nothing_to_do(tmp_path: Path) -> None:
    Credentials.create(tmp_path / "hq")
    assert found(tmp_path / "hq") == []
    assert found(tmp_path / "hq", 300 * DAY) == []
    assert found(tmp_path / "nowhere") == []


def test_certificates_that_end(tmp_path: Path) -> None:
    Credentials.create(tmp_path)
    ((subject, problem),) = found(tmp_path, 360 * DAY)
    assert (subject, "expires in 5 days" in problem) == ("certificate", True)
    ((subject, problem),) = found(tmp_path, 400 * DAY)
    assert (subject, "expired 35 days ago" in problem) == ("certificate", True)
    (tmp_path / "certificates.json").write_text("[]")
    assert [subject for subject, _ in found(tmp_path)] == ["certificate"]


@pytest.mark.parametrize("name", ["identity.key", "root.key", "tls.pem"])
def test_loose_permissions_are_found_once(name: str, tmp_path: Path) -> None:
    Credentials.create(tmp_path)
    (tmp_path / name).chmod(0o644)
    ((subject, problem),) = found(tmp_path)
    assert subject == "permissions"
    assert str(tmp_path / name) in problem
    assert "644" in problem
    tmp_path.chmod(0o755)
    assert len(found(tmp_path)) == 2


def test_what_nobody_else_gets_to_may_have_any_permissions(tmp_path: Path) -> None:
    Credentials.create(tmp_path)
    (tmp_path / "blobs").mkdir(mode=0o755)
    (tmp_path / "store.sqlite").touch(0o644)
    assert found(tmp_path) == []
    tmp_path.chmod(0o711)
    assert len(found(tmp_path)) == 3


@pytest.mark.parametrize("name", ["", "identity.key", "certificates.json"])
def test_what_belongs_to_another_user_is_found_and_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Credentials.create(tmp_path)
    if os.geteuid() == 0:
        os.chown(tmp_path / name, 4242, -1)
        expected = 1
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        expected = 5  # then all does
    findings = found(tmp_path)
    assert [subject for subject, _ in findings] == ["permissions"] * expected
    assert any(problem.startswith(f"{tmp_path / name} belongs to the user") for _, problem in findings)
    with pytest.raises(CredentialsUnusable, match=r"belongs to the user .*chown"):
        Credentials.load(tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    tmp_path.chmod(0o700)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, (1 << 40) - (1 << 28), 1 << 28))
    assert found(tmp_path) == [("disk", f"256 MiB are free on the disk of {tmp_path}")]


def test_few_files_that_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    for hard, expected in ((1024, ["descriptors"]), (4096, []), (resource.RLIM_INFINITY, [])):
        monkeypatch.setattr(resource, "getrlimit", lambda which, hard=hard: (hard, hard))
        assert [subject for subject, _ in found(tmp_path)] == expected


def test_the_command_says_what_to_do_and_ends_with_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "doctor"])
    assert (done.exit_code, "nothing to do" in done.output) == (0, True)
    tmp_path.chmod(0o755)
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "doctor"])
    assert done.exit_code == 1
    assert f"chmod 700 {tmp_path}" in done.output
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "doctor", "--json"])
    assert [finding["subject"] for finding in json.loads(done.output)["findings"]] == ["permissions"]


@virtual
async def test_clocks_that_are_apart_and_open_meshes() -> None:
    world = World(1)
    hq = await world.start("hq")
    van = await world.start("van", ["hq"], skew=300.0)
    async with hq.observe_presence() as stream:
        async for presence in stream:
            if presence.peers:
                break
    plaintext, clock = examine_running(hq.presence())
    assert (plaintext.subject, clock.subject) == ("plaintext", "clock")
    assert "the clock of van is 300 s ahead" in clock.problem
    await hq.collection("cars").insert({"_id": "c"})
    await van.settled(10)
    assert "the clock of hq is 300 s behind" in examine_running(van.presence())[1].problem
    await world.close()


@virtual
async def test_a_copy_that_is_refused_by_a_neighbour_of_both(tmp_path: Path) -> None:
    world = World(2, tmp_path)
    await world.start("hub")
    await world.start("van")
    await world.stop("van")
    shutil.copytree(tmp_path / "van", tmp_path / "copy")
    await world.restart("van", peers=("hub",))
    await asyncio.sleep(1)
    copy = await world.start("copy", ["hub"])
    await asyncio.sleep(10)
    identity, *_ = examine_running(copy.presence())
    assert identity.subject == "identity"
    assert identity.problem.startswith("another running node has the same identity")
    assert identity.advice.startswith("Stop one of the two; a copy becomes a node of its own")
    await world.close()
