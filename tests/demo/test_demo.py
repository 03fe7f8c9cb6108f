"""The demo as somebody who tries it out meets it."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest
from blake3 import blake3

from tests.demo.demo_process import DemoProcess

pytestmark = pytest.mark.processes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of a few chunks."""
    path = tmp_path / "map.bin"
    path.write_bytes(random.Random(1).randbytes(8_000_000))
    return path


def test_once_ends_by_itself_with_every_copy_proven(tmp_path: Path, file: Path) -> None:
    with DemoProcess(tmp_path / "mesh", str(file), "--once") as demo:
        assert demo.wait() == 0, demo.output
        assert demo.nodes() == []
    checksum = blake3(file.read_bytes()).hexdigest()
    assert f"All copies are identical, b3sum {checksum}" in demo.output
    killed = re.search(r"kill -9 \d+: north-2 is gone; its last receipt said (\d+)%", demo.output)
    assert killed is not None
    assert 25 <= int(killed[1]) <= 90, demo.output
    kept = re.search(r"north-2 went on where it was: (\d[\d.]*) (\w+) were on its disk", demo.output)
    assert kept is not None
    assert kept[2] == "MB", demo.output
    for name in ("hub", "north-1", "north-2", "south-1"):
        assert (tmp_path / "mesh" / name / "inbox" / file.name).read_bytes() == file.read_bytes()
    got_it = {path.parent.parent.name for path in (tmp_path / "mesh").glob("*/inbox/story.py")}
    assert got_it == {"north-1", "north-2"}


def test_ctrl_c_ends_the_page_and_every_node(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ("--port", str(port), "--scenario", "conflict", "--pace", "0")
        with DemoProcess(tmp_path / "mesh", *arguments) as demo:
            url = demo.until("watch and control it at").split()[-1]
            assert httpx.URL(url).port not in (None, port)  # that one is taken
            demo.until("Both edits survive, on every node")
            with httpx.stream("GET", f"{url}demo/events", timeout=20) as response:
                data = next(line for line in response.iter_lines() if line.startswith("data: "))
                nodes = json.loads(data.removeprefix("data: "))["nodes"]
                assert [node["name"] for node in nodes] == ["hub", "north-1", "north-2", "south-1", "south-2"]
                seen = httpx.get(f"{nodes[-1]['gateway']}/api/collections/tasks/documents/shift-plan").json()
                assert seen == {
                    "_id": "shift-plan",
                    "title": "Plan the night shift",
                    "driver": "Ada, shift 1",
                    "vehicle": "van 1",
                }
                demo.send(signal.SIGINT)  # with a browser that looks
                assert demo.wait() == 0, demo.output
        assert demo.nodes() == []
        assert "Traceback" not in demo.output


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGTERM, "map.bin"), (signal.SIGHUP, "to all, distribution")]
)
def test_a_signal_leaves_no_node_behind(
    tmp_path: Path, file: Path, number: signal.Signals, line: str
) -> None:
    with DemoProcess(tmp_path / "mesh", str(file), "--once") as demo:
        demo.until(line)
        demo.send(number)
        assert demo.wait() == 128 + number, demo.output
        assert demo.nodes() == []
    assert "Traceback" not in demo.output


def test_a_start_that_fails_half_way_leaves_no_node_behind(tmp_path: Path, file: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "north-2").write_text("this is no directory")
    with DemoProcess(tmp_path / "mesh", str(file), "--once") as demo:
        assert demo.wait() == 1
        assert demo.nodes() == []
    assert "demo: north-2 did not start" in demo.output
    assert "Traceback" not in demo.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["file.bin"], "a FILE is for --once"),
        (["--once", "--scenario", "cancel"], "--once has none"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str], reason: str) -> None:
    with DemoProcess(tmp_path / "mesh", *arguments) as demo:
        assert demo.wait() == 2
    assert reason in demo.output


@pytest.mark.parametrize(("name", "reason"), [("nothing", "No such file"), (".", "s a directory")])
def test_a_bad_file_is_refused_before_anything_starts(tmp_path: Path, name: str, reason: str) -> None:
    with DemoProcess(tmp_path / "mesh", str(tmp_path / name), "--once") as demo:
        assert demo.wait() == 2
    assert reason in demo.output
    assert "Traceback" not in demo.output
    assert not (tmp_path / "mesh").exists()
