"""`mesh up --gateway`."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.processes.mesh_process import MeshProcess, run_mesh

pytestmark = pytest.mark.processes


def test_a_node_with_a_gateway(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("correct-horse-battery-staple\n")
    with MeshProcess(
        tmp_path / "hub", "--gateway", "0.0.0.0:0", "--gateway-token-file", str(token), "-v"
    ) as hub:
        url = hub.gateway.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/api/node").status_code == 401
        node = httpx.get(f"{url}/api/node", params={"access_token": token.read_text().strip()}).json()
        assert node["node_id"] == hub.node_id
        assert hub.stop() == 0
        assert token.read_text().strip() not in hub.stderr


def test_what_it_refuses(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    refused = run_mesh("up", "--home", home, "--gateway", "0.0.0.0:0")
    assert refused.returncode == 4
    assert "needs a token" in refused.stderr
