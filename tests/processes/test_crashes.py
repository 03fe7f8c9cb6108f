"""kill -9 of any process at any moment: after a restart the job completes, and no copy is corrupt."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tests.processes.mesh_process import MeshProcess

pytestmark = pytest.mark.processes

SIZE = 40_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[dict[str, MeshProcess]]:
    """A publisher and an edge, which know only the hub between them."""
    hub = f"127.0.0.1:{free_port()}"
    nodes = {
        "hub": MeshProcess(tmp_path / "hub", "--name", "hub", "--hub", "--listen", hub),
        "publisher": MeshProcess(
            tmp_path / "publisher", "--name", "publisher", "--listen", "none", "--peer", f"ws://{hub}"
        ),
        "edge": MeshProcess(
            tmp_path / "edge", "--name", "edge", "--formation", "north", "--listen", "none", "--peer", f"ws://{hub}"
        ),
    }  # fmt: skip
    try:
        for node in nodes.values():
            node.start()
        yield nodes
    finally:
        for node in nodes.values():
            node.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "map.mbtiles"
    path.write_bytes(random.Random(7).randbytes(SIZE))
    return path


def digest(path: Path) -> str:
    return blake3(path.read_bytes()).hexdigest()


def completed(node: MeshProcess, distribution_id: str, targets: int) -> dict[str, Any]:
    """The status once the distribution is complete, watched until then."""
    deadline = time.monotonic() + 60
    status: dict[str, Any] = {}
    while time.monotonic() < deadline:
        status = node.mesh("distribution", distribution_id)["status"]
        if status["completed"] == status["total_targets"] >= targets:
            return status
        time.sleep(0.2)
    raise AssertionError(f"not complete: {status}\nthe node's log:\n{node.stderr}")


@pytest.mark.parametrize("victim", ["publisher", "hub", "edge"])
@pytest.mark.parametrize("moment", [0.0, 0.3])
def test_the_job_completes_after_any_process_was_killed(
    mesh: dict[str, MeshProcess], file: Path, victim: str, moment: float
) -> None:
    handle = mesh["publisher"].mesh("distribute", str(file))["handle"]
    time.sleep(moment)  # not to wait for something: the moment is what is varied
    mesh[victim].kill()
    mesh[victim].start()
    before = completed(mesh["publisher"], handle["distribution_id"], targets=2)
    delivered = mesh["edge"].home / "inbox" / file.name
    assert digest(delivered) == digest(file) == handle["blob_hash"]
    assert sorted(path.name for path in delivered.parent.iterdir()) == [file.name]
    mesh["publisher"].stop()
    mesh["publisher"].start()
    after = mesh["publisher"].mesh("distribution", handle["distribution_id"])["status"]
    assert after == before


def test_a_late_joiner_is_served_by_the_hub_when_the_publisher_has_left(
    mesh: dict[str, MeshProcess], file: Path, tmp_path: Path
) -> None:
    handle = mesh["publisher"].mesh("distribute", str(file), "--wait", "--scope", "formation:north")["handle"]
    mesh["publisher"].stop()
    mesh["edge"].stop()
    late = MeshProcess(
        tmp_path / "late", "--name", "late", "--formation", "north", "--listen", "none",
        "--peer", mesh["hub"].address,
    )  # fmt: skip
    with late:
        completed(late, handle["distribution_id"], targets=1)
        assert digest(late.home / "inbox" / file.name) == handle["blob_hash"]
    assert not (mesh["hub"].home / "inbox" / file.name).exists()
