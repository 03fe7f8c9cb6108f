"""A closed mesh from the command line: begun, joined, used, and left behind."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.processes.mesh_process import MeshProcess, run_mesh

pytestmark = pytest.mark.processes


def mesh(*arguments: str, stdin: str = "", status: int = 0) -> Any:
    done = run_mesh(*arguments, "--json", timeout=30, stdin=stdin)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_a_mesh_from_its_beginning_to_a_stolen_van(tmp_path: Path) -> None:
    homes = {name: ("--home", str(tmp_path / name)) for name in ("hq", "van", "thief")}
    begun = mesh("init", *homes["hq"])
    said = run_mesh("init", "--home", str(tmp_path / "hq2"), timeout=30).stdout
    assert f"Next: `mesh up --home {tmp_path / 'hq2'} --listen" in said
    assert mesh("init", *homes["hq"], status=4)["error"]["type"] == "CredentialsUnusable"
    assert mesh("whoami", *homes["hq"])["roles"] == ["admin", "member", "publish", "relay"]
    with MeshProcess(tmp_path / "hq", "--name", "hq", "--listen", "127.0.0.1:0") as hq:
        assert hq.node_id == begun["node_id"]
        assert hq.address.startswith("wss://")
        assert mesh("init", *homes["hq"], status=4)["error"]["type"] == "DataDirInUse"
        token = hq.mesh("invite", "--collections", "cars*,map", "--ttl", "15m")["token"]
        joined = mesh("join", *homes["van"], stdin=token)
        assert (joined["mesh_id"], joined["read"]) == (begun["mesh_id"], ["cars*", "map"])
        (tmp_path / "token").write_text(token + "\n")
        (tmp_path / "token").chmod(0o600)
        refused = mesh("join", "--token-file", str(tmp_path / "token"), *homes["thief"], status=4)
        assert refused["error"]["type"] == "InvitationRefused"
        with MeshProcess(tmp_path / "van", "--name", "van", "--peer", hq.address) as van:
            (tmp_path / "f").write_bytes(os.urandom(300_000))
            sent = hq.mesh("distribute", str(tmp_path / "f"), "--wait", "--timeout", "30")
            assert sent["completed"] == 1
            assert (tmp_path / "van" / "inbox" / "f").read_bytes() == (tmp_path / "f").read_bytes()
            assert hq.mesh("revoke", "van") == {"node_id": van.node_id}
            assert hq.mesh("peers") == []
            assert hq.mesh("members")[1] == {"_id": van.node_id, "standing": "revoked"}
            assert "revoked" in van.mesh("connect", hq.address, status=4)["error"]["message"]
            assert van.mesh("whoami")["revoked_by"] == hq.address
            [finding] = van.mesh("doctor", status=1)["findings"]
            assert finding["problem"].endswith(f"it was revoked, says {hq.address}")
            assert hq.mesh("revoke", van.node_id[:10]) == {"node_id": van.node_id}
            assert token not in hq.stderr + van.stderr
            for arguments in Path("/proc").glob("[0-9]*/cmdline"):  # none on macOS
                with contextlib.suppress(OSError):
                    assert token not in arguments.read_text(errors="replace")
        late = hq.mesh("invite")["token"]
    said = mesh("join", *homes["thief"], stdin=late, status=4)["error"]["message"]
    assert said.startswith(f"cannot reach {hq.address}: ")
    assert "the admin's node has to be up" in said
    assert mesh("rotate", *homes["hq"])["before"] == begun["node_id"]
    for name in ("hq", "van"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
    os.chmod(tmp_path / "van" / "identity.key", 0o644)
    assert "others may read it" in mesh("whoami", *homes["van"], status=4)["error"]["message"]


def test_open_and_closed_meshes_say_why_they_do_not_link(tmp_path: Path) -> None:
    mesh("init", "--home", str(tmp_path / "hq"))
    with MeshProcess(tmp_path / "hq") as hq, MeshProcess(tmp_path / "open") as open_:
        assert open_.mesh("whoami") == {"node_id": open_.node_id, "mesh_id": None}
        port = hq.address.rpartition(":")[2]
        said = {
            f"ws://127.0.0.1:{port}": (open_, "one with credentials (wss://)"),
            hq.address: (open_, "wss:// needs credentials"),
            open_.address: (hq, "write wss://"),
            open_.address.replace("ws:", "wss:"): (hq, "speaks no TLS 1.3"),
        }
        for url, (node, reason) in said.items():
            done = run_mesh("--home", str(node.home), "connect", url)
            assert done.returncode == 4
            assert reason in done.stderr
