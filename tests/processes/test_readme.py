"""The README tells the truth: its programs run as they stand, and its commands are those that CI runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from tests.processes.mesh_process import ROOT, MeshProcess
from tests.processes.test_crashes import free_port
from tests.processes.yjs_client import install

pytestmark = pytest.mark.processes

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_programs_distribute_a_file_between_them(tmp_path: Path) -> None:
    port = str(free_port())
    publisher, subscriber = (block.replace("7700", port) for block in blocks("python")[:2])
    (tmp_path / "publisher.py").write_text(publisher)
    (tmp_path / "subscriber.py").write_text(subscriber)
    (tmp_path / "map.mbtiles").write_bytes(os.urandom(3_000_000))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )

    with run("subscriber.py") as receiving:
        with run("publisher.py", "map.mbtiles") as publishing:
            assert publishing.stdout is not None
            lines = publishing.stdout.read().splitlines()
            assert publishing.wait(60) == 0
        receiving.send_signal(signal.SIGTERM)
        receiving.wait(20)
    assert lines[-1] == "1 of 1, 100%"
    delivered = tmp_path / "inbox" / "map.mbtiles"
    assert delivered.read_bytes() == (tmp_path / "map.mbtiles").read_bytes()


def test_the_program_about_documents_prints_what_it_says(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    [program] = blocks("python")[2:]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found, index = done.stdout.splitlines()
    assert ast.literal_eval(found) == [
        {"_id": "van7", "at": {"city": "Bergen", "street": "Torgallmenningen"}, "trips": 1, "year": 2019}
    ]
    assert index == 'cars["year"]'
    query = "select id from documents where collection = 'cars'"
    assert query in README.replace("id, json", "id")
    store = tmp_path / "garage" / "store.sqlite"
    shown = subprocess.run(
        [sys.executable, "-m", "sqlite_utils", str(store), query], capture_output=True, text=True, timeout=60
    )
    assert '"id": "van7"' in shown.stdout


@pytest.mark.xdist_group("yjs")
def test_the_examples_of_the_gateway_do_what_they_say(tmp_path: Path) -> None:
    """In a browser, ``WebSocket`` is there already: Node gets it from a package."""
    port = str(free_port())
    [commands] = [block for block in blocks("sh") if "curl" in block]
    *requests, live = commands.replace("8080", port).splitlines()
    [program] = blocks("js")
    install(tmp_path)
    (tmp_path / "example.mjs").write_text(
        'import WebSocket from "ws"; globalThis.WebSocket = WebSocket;\n' + program.replace("8080", port)
    )
    (tmp_path / "FILE").write_bytes(b"a map")
    with MeshProcess(tmp_path / "hub", "--gateway", f"127.0.0.1:{port}"):
        shell = subprocess.run(
            ["sh", "-ec", "\n".join(requests)], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert shell.returncode == 0, shell.stderr
        assert '{"documents":[{"_id":"van7",' in shell.stdout
        assert '"at":{"city":"Bergen"}' in shell.stdout
        assert f'"hash":"{blake3(b"a map").hexdigest()}"' in shell.stdout
        following = ["sh", "-c", f"{requests[0]}; exec {live}"]
        with (
            subprocess.Popen(following, stdout=subprocess.PIPE, text=True) as curl,
            subprocess.Popen(
                ["node", "example.mjs"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
            ) as node,
        ):
            try:
                assert node.stdout is not None
                assert [node.stdout.readline().strip() for _ in range(2)] == ["Bergen", "Oslo"]
                assert curl.stdout is not None
                assert any('"at":{"city":"Oslo"}' in line for line in curl.stdout)
            finally:
                curl.kill()
                node.kill()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd to ask")
def test_the_service_is_one_that_systemd_understands(tmp_path: Path) -> None:
    [unit] = blocks("ini")
    [command] = re.findall(r"^ExecStart=(\S+) (.*)$", unit, re.MULTILINE)
    (tmp_path / "mesh.service").write_text(unit.replace(command[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "mesh.service")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert "mesh.service" not in done.stdout + done.stderr
    options = command[1].split()
    assert options[0] == "up"
    asked = subprocess.run(
        [sys.executable, "-m", "mesh", *options, "--help"], cwd=ROOT, capture_output=True, timeout=60
    )
    assert asked.returncode == 0


def test_ci_runs_the_test_command_of_the_readme() -> None:
    [command] = [line for block in blocks("sh") for line in block.splitlines() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text()


def test_every_command_that_it_shows_exists() -> None:
    shown = {
        word
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("mesh ")
        for word in re.sub(r"--home \S+", "", line).split()[1:2]
    }
    assert {"up", "distribute", "query", "peers"} <= shown
    for name in sorted(shown):
        done = subprocess.run(
            [sys.executable, "-m", "mesh", name, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
