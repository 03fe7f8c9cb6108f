"""What a node says of itself: detected or declared, changed while it runs, and acted upon."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mesh import Capabilities, Capable, Formation, InvalidNode, Node, NotStarted, TransferState
from mesh.node import probe
from mesh.node.probe import declaring, detect_capabilities
from mesh.node.profile import PROBE_SECONDS, is_notable
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

DONE = TransferState.COMPLETED


async def _said(node: Node) -> dict[str, Any]:
    (document,) = [member for member in await node.members() if member["_id"] == node.node_id]
    return document


async def test_what_is_not_declared_is_detected(tmp_path: Path) -> None:
    async with Node(tmp_path / "van") as node:
        found = (await _said(node))["capabilities"]
        assert found["cpu_arch"]
        assert found["storage_mb"] > 0
        await node.set_capabilities(Capabilities(tags=("camera",)))
        assert (await _said(node))["capabilities"] == Capabilities(tags=("camera",)).to_dict()
        await node.set_capabilities(None)
        assert (await _said(node))["capabilities"]["cpu_arch"] == found["cpu_arch"]


async def test_a_probe_of_ones_own_sees_the_data_directory(tmp_path: Path) -> None:
    asked: list[Path | None] = []

    def mine(data_dir: Path | None) -> Capabilities:
        asked.append(data_dir)
        return Capabilities(gpu_gb=24.0)

    async with Node(tmp_path / "van", capabilities=mine) as node:
        assert (await _said(node))["capabilities"]["gpu_gb"] == 24.0
    assert asked == [tmp_path / "van"]


def _broken(data_dir: Path | None) -> Capabilities:
    raise OSError("no such device")


@pytest.mark.parametrize("source", [_broken, lambda data_dir: {"gpu_gb": 4}, Capabilities(gpu_gb=-1.0), 7])
async def test_what_no_node_can_be_is_refused_and_changes_nothing(source: Any) -> None:
    async with Node(capabilities=Capabilities(gpu_gb=1.0), formations=["north"]) as node:
        before = await _said(node)
        with pytest.raises(InvalidNode):
            await node.set_capabilities(source)
        with pytest.raises(InvalidNode):
            await node.set_formations([""])
        assert await _said(node) == before
    with pytest.raises(NotStarted):
        await node.set_formations([])
    with pytest.raises(InvalidNode):
        async with Node(capabilities=source):
            pass


def test_what_another_process_wrote_in_the_name_of_a_node_is_put_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy of a hub's data directory runs twice before its key is moved, and brings that to the hub."""

    def complaints() -> int:
        return len([r for r in caplog.records if "another process has written" in r.message])

    async def main() -> None:
        world = World(2, tmp_path)
        hub = await world.start("hub", hub=True)
        await world.stop("hub")
        shutil.copytree(tmp_path / "hub", tmp_path / "copy")
        hub = await world.restart("hub")
        for _ in range(2):
            await world.start("copy", formations=["north"])
            await world.stop("copy")
        (tmp_path / "copy" / "identity.key").unlink()
        before = await _said(hub)
        assert not complaints()
        copy = await world.restart("copy", peers=("hub",))
        assert copy.node_id != hub.node_id
        for node in (copy, hub):
            await node.collection("nodes").subscribe()
            await node.settled(60)
        await asyncio.sleep(1)
        assert complaints() == 1
        await copy.settled(60)
        for node in (hub, copy):
            said = await node.collection("nodes").get(hub.node_id)
            assert said is not None
            assert said | {"answers": None} == before
        await world.stop("hub")
        hub = await world.restart("hub")
        await copy.settled(60)
        assert (await copy.collection("nodes").get(hub.node_id)) == await _said(hub) != before
        assert complaints() == 1
        await world.close()

    run_virtual(main())


async def test_formations_stay_as_they_were_set_when_the_node_starts_again() -> None:
    node = Node(formations=["north"])
    async with node:
        await node.set_formations("south")
        assert (await _said(node))["formations"] == ["south"]
    async with node:
        assert (await _said(node))["formations"] == ["south"]


def test_a_node_that_joins_a_formation_or_gains_a_capability_fetches_and_one_that_leaves_stops() -> None:
    async def run() -> None:
        world = World(2)
        hq = await world.start("hq")
        van = await world.start("van", ["hq"])
        token = await hq.attachments.add(b"x" * 100_000)
        north = await hq.distributions.distribute(token, Formation("north"))
        camera = await hq.distributions.distribute(token, Capable(tags=("camera",)))
        await van.settled(60)
        assert (await hq.distributions.status(north)).total_targets == 0
        await van.set_formations(["north"])
        assert (await hq.distributions.wait_for_completion(north, 60)).is_success
        await van.set_capabilities(Capabilities(tags=("camera", "gps")))
        assert (await hq.distributions.wait_for_completion(camera, 60)).is_success
        assert set(await hq.distributions.dry_run(Formation("north"))) == {van.node_id}

        van.set_limits(download=4096)
        large = await hq.attachments.add(bytes(range(256)) * 40_000)
        handle = await hq.distributions.distribute(large, Formation("north"))
        async with hq.distributions.subscribe_progress(handle) as statuses:
            async for status in statuses:
                if status.in_progress:
                    break
        await van.set_formations([])
        await van.settled(60)
        status = await hq.distributions.status(handle)
        assert status.total_targets == 0, "it is no target any more, and its receipt says so"
        assert (await hq.distributions.status(north)).node_statuses[van.node_id].status is DONE
        assert await van.attachments.info(large.hash) is None
        await world.close()

    run_virtual(run())


def test_what_was_detected_is_looked_at_again_every_hour() -> None:
    async def run() -> None:
        free = 1000

        def mine(data_dir: Path | None) -> Capabilities:
            return Capabilities(storage_mb=free)

        node = Node(listen=None, capabilities=mine)
        async with node:
            for wanted, told in ((950, 1000), (500, 500), (-1, 500), (2000, 2000)):
                free = wanted  # what cannot be is logged, and the last word stands
                await asyncio.sleep(PROBE_SECONDS)
                assert (await _said(node))["capabilities"]["storage_mb"] == told

    run_virtual(run())


@pytest.mark.parametrize(
    ("before", "after", "notable"),
    [
        (Capabilities(storage_mb=100), Capabilities(storage_mb=91), False),
        (Capabilities(storage_mb=100), Capabilities(storage_mb=89), True),
        (Capabilities(storage_mb=100), Capabilities(storage_mb=None), True),
        (Capabilities(storage_mb=0), Capabilities(storage_mb=1), True),
        (Capabilities(gpu_gb=1), Capabilities(gpu_gb=2), True),
        (Capabilities(), Capabilities(), False),
    ],
)
def test_what_is_worth_a_new_document(before: Capabilities, after: Capabilities, notable: bool) -> None:
    assert is_notable(before, after) is notable


def test_gpus_are_detected_where_a_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_nvidia_bytes", list)
    assert probe._gpu_gb(tmp_path) is None
    for card, said in (("card0", "8573157376\n"), ("card1", "?"), ("card2", "4000000000")):
        (tmp_path / card / "device").mkdir(parents=True)
        (tmp_path / card / "device" / "mem_info_vram_total").write_text(said)
    assert probe._gpu_gb(tmp_path) == 8.6


@pytest.mark.parametrize(
    ("script", "found"),
    [("echo 24576; echo 8192", [24576 << 20, 8192 << 20]), ("exit 9", []), ("echo '[N/A]'", [])],
)
def test_the_drivers_tool_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: list[int]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert probe._nvidia_bytes() == found
    monkeypatch.setattr(subprocess, "run", _no_tool)
    assert probe._nvidia_bytes() == []


def _no_tool(*_: Any, **__: Any) -> None:
    raise FileNotFoundError("nvidia-smi")


def test_declaring_replaces_only_what_is_given(tmp_path: Path) -> None:
    found = declaring({"gpu_gb": 4.0, "tags": ["camera"]})(tmp_path)
    assert (found.gpu_gb, found.tags) == (4.0, ("camera",))
    assert found.cpu_arch == detect_capabilities(tmp_path).cpu_arch
