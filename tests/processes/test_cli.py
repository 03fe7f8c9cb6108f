"""The command line as a user meets it: real nodes, real commands, real sockets on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.mesh_process import Lines, MeshProcess, run_mesh, spawn

pytestmark = pytest.mark.processes


def error_of(*arguments: str, status: int = 4) -> dict[str, str]:
    """The error that ``mesh ARGUMENTS --json`` reports, which also is on stderr, without a traceback."""
    done = run_mesh(*arguments, "--json", timeout=30)
    assert done.returncode == status, done.stdout + done.stderr
    error: dict[str, str] = json.loads(done.stdout)["error"]
    assert error["message"] in done.stderr
    assert "Traceback" not in done.stderr
    return error


@contextlib.contextmanager
def interrupted(command: subprocess.Popen[str]) -> Iterator[Lines]:
    """What a command prints; at the end it is interrupted, as by Ctrl-C, and ends in good order."""
    lines = Lines(command)
    try:
        yield lines
        command.send_signal(signal.SIGINT)
        assert command.wait(10) == 130
    finally:
        command.kill()
        command.wait()
        lines.join()
    assert "Traceback" not in lines.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_file_reaches_the_inbox_of_everybody(tmp_path: Path) -> None:
    (tmp_path / "map.mbtiles").write_bytes(os.urandom(3_000_000))
    with (
        MeshProcess(tmp_path / "hq", "--name", "hq") as hq,
        MeshProcess(tmp_path / "van7", "--name", "van7", "--peer", hq.address) as van7,
        MeshProcess(tmp_path / "van8", "--peer", hq.address, "--inbox", str(tmp_path / "in")) as van8,
    ):
        scope = f"nodes:{van7.node_id},{van8.node_id}"
        file = str(tmp_path / "map.mbtiles")
        status = hq.mesh("distribute", file, "--scope", scope, "--wait", "--timeout", "60")
        assert (status["total_targets"], status["completed"]) == (2, 2)
        sent = (tmp_path / "map.mbtiles").read_bytes()
        assert (tmp_path / "van7" / "inbox" / "map.mbtiles").read_bytes() == sent
        assert (tmp_path / "in" / "map.mbtiles").read_bytes() == sent

        id = status["handle"]["distribution_id"]
        (listed,) = hq.mesh("distributions")
        assert (listed["name"], listed["size_bytes"]) == ("map.mbtiles", 3_000_000)
        assert listed["status"]["handle"]["distribution_id"] == id
        assert hq.mesh("distribution", id[:6])["status"]["completed"] == 2
        lines = run_mesh("--home", str(hq.home), "distribution", id, "--watch")
        assert (lines.returncode, lines.stdout.splitlines()[-1]) == (0, "completed: 2 of 2 completed")

        token = listed["status"]["handle"]["blob_hash"]
        assert [blob["hash"] for blob in van7.mesh("blobs")] == [token]
        van7.mesh("export", token[:12], str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == sent


def test_a_distribution_that_nobody_can_take_times_out_and_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with MeshProcess(tmp_path / "hq") as hq:
        arguments = ["--home", str(hq.home), "distribute", str(tmp_path / "f"), "--scope", "formation:north"]
        error = error_of(*arguments, "--wait", "--timeout", "0.3", status=1)
        assert error["type"] == "DistributionTimeout"
        (listed,) = hq.mesh("distributions")
        id = listed["status"]["handle"]["distribution_id"]
        assert hq.mesh("cancel", id[:5]) == {"distribution_id": id}
        hq.mesh("distribution", id, "--watch", status=1)


def test_who_stops_waiting_is_told_that_the_distribution_goes_on(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with MeshProcess(tmp_path / "hq") as hq:
        scope = f"nodes:{'a' * 52}"
        waiting = spawn(
            ["--home", str(hq.home), "distribute", str(tmp_path / "f"), "--scope", scope, "--wait"]
        )
        with interrupted(waiting) as lines:
            assert lines.next() == "aaaaaaaa  pending  0%"
        [listed] = hq.mesh("distributions")
        id = listed["status"]["handle"]["distribution_id"]
        assert f"distribution {id}\n" in lines.stderr
        assert f"the distribution goes on: `mesh distribution {id}` shows how far it is" in lines.stderr
        assert not listed["status"]["is_cancelled"]


def test_a_blob_is_fetched_by_its_token_by_whoever_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(os.urandom(3_000_000))
    with MeshProcess(tmp_path / "hq") as hq, MeshProcess(tmp_path / "van7") as van7:
        token = hq.mesh("add", str(tmp_path / "map"))
        waiting = spawn(["--home", str(van7.home), "fetch", json.dumps(token)])
        with interrupted(waiting) as lines:
            assert lines.next() == "waiting  0%  no peers are connected"
        assert "what has arrived stays for 10 minutes" in lines.stderr
        van7.mesh("connect", hq.address)
        assert van7.mesh("fetch", json.dumps(token), "--output", str(tmp_path / "copy")) == token
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "map").read_bytes()


def test_documents_travel_and_are_watched(tmp_path: Path) -> None:
    with (
        MeshProcess(tmp_path / "a") as a,
        MeshProcess(tmp_path / "b", "--peer", a.address) as b,
    ):
        a.mesh("subscribe", "cars", '{"region": "north"}')
        watching = spawn(["--home", str(a.home), "watch", "cars", "--json"])
        with interrupted(watching) as lines:
            b.mesh("upsert", "cars", '{"_id": "c1", "region": "north", "year": 2001}')
            first = json.loads(lines.next())
            assert first["document"] == {"_id": "c1", "region": "north", "year": 2001}
            b.mesh("upsert", "cars", '{"_id": "c1", "year": 2002}')
            assert json.loads(lines.next())["change"] == "updated"
            b.mesh("remove", "cars", "c1")
            assert json.loads(lines.next()) == {"change": "removed", "document": {"_id": "c1"}}
        assert a.mesh("query", "cars") == []


def test_peers_members_and_connections(tmp_path: Path) -> None:
    with (
        MeshProcess(tmp_path / "a", "--name", "a") as a,
        MeshProcess(
            tmp_path / "b", "--name", "b", "--formation", "north", "--gpu-gb", "4", "--tag", "camera"
        ) as b,
    ):
        assert b.mesh("connect", a.address) == {"node_id": a.node_id}
        (peer,) = b.mesh("peers")
        assert (peer["node_id"], peer["name"]) == (a.node_id, "a")
        (itself,) = [m for m in b.mesh("members") if m["_id"] == b.node_id]
        assert (itself["name"], itself["formations"]) == ("b", ["north"])
        assert itself["capabilities"]["gpu_gb"] == 4.0
        assert itself["capabilities"]["tags"] == ["camera"]
        assert itself["capabilities"]["cpu_arch"]  # detected: only what is declared is replaced
        assert b.mesh("formations", "south") == {"formations": ["south"]}
        assert b.mesh("capabilities", "--tag", "gps")["capabilities"]["tags"] == ["gps"]
        status = b.mesh("status")
        assert (status["node_id"], status["address"]) == (b.node_id, b.address)
        error_of("disconnect", "nosuch", "--home", str(b.home))
        assert b.mesh("disconnect", a.node_id[:8]) == {"node_id": a.node_id}
        assert b.mesh("peers") == []
        b.mesh("connect", a.address)
        b.mesh("pause")
        assert b.mesh("peers") == []
        paused = run_mesh("--home", str(b.home), "status").stdout
        assert "listens    nowhere while it is offline\n" in paused
        b.mesh("resume")
        for command in ("status", "peers", "members", "distributions", "blobs"):
            done = run_mesh("--home", str(b.home), command)
            assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_hub_and_a_node_that_only_dials(tmp_path: Path) -> None:
    with (
        MeshProcess(tmp_path / "hub", "--hub") as hub,
        MeshProcess(tmp_path / "edge", "--listen", "none", "--peer", hub.address) as edge,
    ):
        assert edge.address == ""
        assert [m["hub"] for m in hub.mesh("members") if m["_id"] == hub.node_id] == [True]
        edge.mesh("upsert", "cars", '{"_id": "a"}')
        watching = spawn(["--home", str(hub.home), "watch", "cars", "--json"])
        try:
            lines = Lines(watching)
            assert json.loads(lines.next())["document"] == {"_id": "a"}  # nobody subscribed but the hub
        finally:
            watching.kill()
            watching.wait()
            lines.join()


def test_deliveries_are_accepted_by_hand(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"payload")
    with (
        MeshProcess(tmp_path / "a") as a,
        MeshProcess(tmp_path / "b", "--receive", "manual", "--peer", a.address) as b,
    ):
        watching = spawn(["--home", str(b.home), "deliveries", "--json"])
        try:
            lines = Lines(watching)
            made = a.mesh("distribute", str(tmp_path / "f.bin"), "--scope", f"nodes:{b.node_id[:10]}")
            offered = json.loads(lines.next())
            id = made["handle"]["distribution_id"]
            assert (offered["distribution_id"], offered["publisher"]) == (id, a.node_id)
            file = b.home / "inbox" / "f.bin"
            assert b.mesh("accept", id[:6]) == {"distribution_id": id, "path": str(file)}
            assert file.read_bytes() == b"payload"
            status = run_mesh("--home", str(a.home), "distribution", id, "--watch")
            assert status.returncode == 0, status.stdout
            made = a.mesh("distribute", str(tmp_path / "f.bin"))
            json.loads(lines.next())
            b.mesh("reject", made["handle"]["distribution_id"], "not today")
            done = run_mesh(
                "--home", str(a.home), "distribution", made["handle"]["distribution_id"], "--watch"
            )
            assert done.returncode == 1
            assert "rejected: not today" in done.stdout
        finally:
            watching.kill()
            watching.wait()
            lines.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_node(tmp_path: Path, number: signal.Signals) -> None:
    node = MeshProcess(tmp_path / "a").start()
    assert node.stop(number) == 0
    assert "Traceback" not in node.stderr
    assert not (tmp_path / "a" / "control.sock").exists()
    assert error_of("status", "--home", str(tmp_path / "a"))["type"] == "NodeNotRunning"


def test_a_node_may_open_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))  # which the node inherits
    try:
        node = MeshProcess(tmp_path / "a").start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    try:
        assert resource.prlimit(node.pid, resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        node.kill()


def test_down_releases_everything(tmp_path: Path) -> None:
    node = MeshProcess(tmp_path / "a").start()
    try:
        first = node.node_id
        node.mesh("down")
        with MeshProcess(tmp_path / "a") as again:  # at once: the directory is free
            assert again.node_id == first
        assert node.wait() == 0
    finally:
        node.kill()


def test_a_killed_node_leaves_a_socket_that_is_nobody_and_comes_back(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 20) / "home"  # too deep for a socket of its own
    node = MeshProcess(home)
    try:
        node.start().mesh("upsert", "cars", '{"_id": "a"}')
        node.kill()
        assert error_of("status", "--home", str(home))["type"] == "NodeNotRunning"
        node.start()
        assert node.mesh("query", "cars") == [{"_id": "a"}]
        node.stop()
        assert not (home / "control.json").exists()
    finally:
        node.kill()


def test_the_home_is_private(tmp_path: Path) -> None:
    with MeshProcess(tmp_path / "a"):
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "a" / "control.sock").stat().st_mode & 0o777 == 0o600


def test_python_m_mesh_is_mesh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh", "version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mesh ")


# --- bad input and bad environments -----------------------------------------------------------


def test_a_home_in_use(tmp_path: Path) -> None:
    with MeshProcess(tmp_path / "a") as node:
        assert error_of("up", "--home", str(node.home))["type"] == "DataDirInUse"
        assert node.mesh("status")["node_id"] == node.node_id  # and its endpoint was left alone


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert error_of("up", "--home", str(tmp_path / "a"), "--listen", address)["type"] == "AddressInUse"
        assert not (tmp_path / "a").exists()
    with MeshProcess(tmp_path / "a", "--listen", address) as node:  # the home was released
        assert node.address == f"ws://{address}"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--listen", "nonsense"], "InvalidAddress"),
        (["--listen", "0.0.0.0:0"], "PlaintextRefused"),
        (["--peer", "http://127.0.0.1:1"], "InvalidAddress"),
        (["--peer", "ws://192.0.2.1:7700"], "PlaintextRefused"),
    ],
)
def test_addresses_that_cannot_be(tmp_path: Path, arguments: list[str], kind: str) -> None:
    assert error_of("up", "--home", str(tmp_path / "a"), *arguments)["type"] == kind
    assert not (tmp_path / "a").exists()


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert error_of("up", "--home", str(tmp_path / "file"))["type"] == "DataDirUnusable"


def test_files_that_cannot_be_distributed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    with MeshProcess(tmp_path / "a") as node:
        home = ["--home", str(node.home)]
        for command in ("distribute", "add"):
            assert error_of(*home, command, str(tmp_path))["type"] == "SourceNotAFile"
            assert error_of(*home, command, str(tmp_path / "missing"))["type"] == "SourceNotFound"
            if os.geteuid() != 0:
                assert error_of(*home, command, str(secret))["type"] == "SourceUnreadable"
        assert error_of(*home, "distribute", str(tmp_path / "f"), "--scope", "some")["type"] == "InvalidScope"
        assert error_of(*home, "distribute", "--blob", "ff" * 32)["type"] == "BlobNotFound"
        arguments = ["distribute", str(tmp_path / "f"), "--supersedes", "zz"]
        assert error_of(*home, *arguments)["type"] == "UnknownDistribution"
        assert node.mesh("distributions") == []


def test_requests_that_make_no_sense(tmp_path: Path) -> None:
    with MeshProcess(tmp_path / "a") as node:
        home = ["--home", str(node.home)]
        cases: list[tuple[list[str], str]] = [
            (["distribution", "zz"], "UnknownDistribution"),
            (["cancel", "zz"], "UnknownDistribution"),
            (["retry", "zz"], "UnknownDistribution"),
            (["query", "cars", "{nonsense"], "InvalidSelector"),
            (["query", "cars", '{"a": {"$nonsense": 1}}'], "InvalidSelector"),
            (["watch", "cars", '{"a": {"$nonsense": 1}}'], "InvalidSelector"),
            (["subscribe", "cars", '{"a": {"$nonsense": 1}}'], "InvalidSelector"),
            (["query", "no such/collection"], "InvalidCollectionName"),
            (["upsert", "cars", "[]"], "InvalidDocument"),
            (["upsert", "cars", '{"_id": 3}'], "InvalidDocument"),
            (["upsert", "nodes", '{"_id": "me"}'], "PermissionDenied"),
            (["connect", "nonsense"], "InvalidAddress"),
            (["connect", f"ws://127.0.0.1:{free_port()}"], "PeerUnreachable"),
        ]
        found: list[Any] = [(arguments, error_of(*home, *arguments)["type"]) for arguments, _ in cases]
        assert found == cases
