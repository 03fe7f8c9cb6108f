"""A copied data directory that runs beside the original, and the two meet neither each other nor anybody who
is linked with both."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mesh import IdentityCloned, Node
from mesh.core import clones, records
from mesh.core.clones import Finding
from mesh.core.document import ABSENT
from mesh.core.numbering import MIN_GAP
from mesh.core.receipts import NodeRecord
from mesh.core.rivals import MAX_RISES, RISE_SECONDS
from mesh.core.wire import Change, Interest, Resume
from mesh.node import clone_watch
from mesh.node.clone_watch import MAX_ANSWERS
from mesh.node.doctor import examine_running
from mesh.storage import lineage
from mesh.storage.rows import Rows
from tests.adversary.adversary import Adversary, offer
from tests.simulation.closed_mesh import member
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

CLONED = "another running node has the same identity"
PUT_RIGHT = "another process has written in the name of this node"


def complaints(caplog: pytest.LogCaptureFixture, what: str, level: int) -> int:
    return sum(what in record.getMessage() and record.levelno == level for record in caplog.records)


async def copied(world: World, root: Path) -> None:
    """x - y - z, and ``other`` is a copy of ``one``."""
    node = await world.start("one")
    await node.collection("cars").insert({"_id": "shared", "n": 0})
    await world.stop("one")
    shutil.copytree(root / "one", root / "other")
    for name, peers in (("x", []), ("y", ["x"]), ("z", ["y"])):
        await world.start(name, peers)


async def run_apart(world: World, *, skew: float = 0.0) -> None:
    """one - x - y - z - other"""
    for name, peer in (("one", "x"), ("other", "z")):
        await asyncio.sleep(5)
        node = await world.start(name, [peer], skew=skew if name == "other" else 0.0)
        await node.collection("cars").subscribe()


def stopped(world: World) -> list[str]:
    return [name for name in ("one", "other") if name in world.nodes and world.nodes[name].presence().cloned]


async def cars(world: World) -> list[list[dict[str, Any]]]:
    return [await node.collection("cars").find() for node in world.nodes.values()]


async def assert_equal(world: World) -> list[dict[str, Any]]:
    first, *others = await cars(world)
    for other in others:
        assert other == first
    return first


@pytest.mark.parametrize(("relays", "skew"), [("subscribe", 0.0), ("pass on", 0.0), ("subscribe", -1e9)])
def test_one_of_them_stops_and_says_what_to_do_and_the_other_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, relays: str, skew: float
) -> None:
    """Where relays subscribe, nobody hears what is wanted beyond them."""

    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        await copied(world, tmp_path)
        if relays == "subscribe":
            for name in "xyz":
                await world.nodes[name].collection("cars").subscribe()
        await run_apart(world, skew=skew)
        await asyncio.sleep(2)
        [loser] = stopped(world)
        assert loser == ("one" if skew else "other"), "the one that says it was started later"
        winner = world.nodes["other" if loser == "one" else "one"]
        node = world.nodes[loser]
        presence = node.presence()
        assert (presence.online, presence.address, presence.peers) == (False, None, [])
        assert complaints(caplog, CLONED, logging.ERROR) in (1, 2)
        assert "Stop one of the two" in (presence.cloned or "")
        assert "identity" in [finding.subject for finding in examine_running(presence)]
        for attempt in (node.resume(), node.connect("ws://y:7700")):
            with pytest.raises(IdentityCloned, match="Stop one of the two"):
                await attempt

        await node.collection("cars").insert({"_id": "unsynced", "n": 1})
        await node.collection("cars").update("shared", {"by loser": 1})
        await node.set_formations(["north"])
        await winner.collection("cars").insert({"_id": "1"})
        await asyncio.sleep(RISE_SECONDS)
        await world.nodes["y"].collection("cars").insert({"_id": "2"})
        await asyncio.sleep(10)
        assert await winner.collection("cars").get("2") is not None, "it is heard again, if it was not"
        assert await winner.collection("cars").get("unsynced") is None
        assert len(stopped(world)) == 1

        await world.stop(loser)
        (tmp_path / loser / "identity.key").unlink()
        node = await world.restart(loser)
        assert node.node_id != winner.node_id
        await asyncio.sleep(60)
        assert {document["_id"] for document in await winner.collection("cars").find()} == {
            "1", "2", "shared", "unsynced"
        }  # fmt: skip
        if relays == "subscribe":
            await assert_equal(world)
        assert (await winner.collection("cars").get("shared")) == {"_id": "shared", "n": 0, "by loser": 1}
        assert not stopped(world)
        await world.close()

    run_virtual(main())


def test_one_that_is_started_again_while_the_other_runs_stops_again_and_after_its_end_does_not(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        await copied(world, tmp_path)
        await run_apart(world)
        await asyncio.sleep(60)
        assert stopped(world) == ["other"]
        await world.stop("other")
        await world.restart("other")
        await asyncio.sleep(60)
        assert stopped(world) == ["other"]
        await world.stop("one")
        await world.stop("other")
        for _ in range(3):
            for name in ("other", "one"):
                await world.restart(name)
                await asyncio.sleep(60)
                assert not stopped(world)
                await world.stop(name)
        await world.close()

    run_virtual(main())


def test_members_of_a_closed_mesh_between_which_relays_are(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        await world.start("one", credentials=member("one"))
        await world.stop("one")
        shutil.copytree(tmp_path / "one", tmp_path / "other")
        for name, peers in (("x", []), ("y", ["x"]), ("z", ["y"])):
            await world.start(name, peers, credentials=member(name, role="relay"))
        for name, peer in (("one", "x"), ("other", "z")):
            await world.start(name, [peer], credentials=member("one"))
            await asyncio.sleep(5)
        assert stopped(world) == ["other"]
        await world.close()

    run_virtual(main())


def test_three_of_them(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(4, tmp_path, delay=0.02)
        await copied(world, tmp_path)
        shutil.copytree(tmp_path / "one", tmp_path / "third")
        await world.start("w", ["y"])
        await run_apart(world)
        await world.start("third", ["w"])
        await asyncio.sleep(60)
        assert [name for name, node in world.nodes.items() if not node.presence().online] == [
            "other",
            "third",
        ]
        await world.close()

    run_virtual(main())


def test_whole_machines_that_were_copied_find_out_and_hold_the_same_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells the copy that it is one: both write under one clock identity, the same Yjs client ids and
    the same numbers, and everybody subscribes. They have gone on from one snapshot: none was started."""
    monkeypatch.setattr(lineage, "host_of", lambda path: "everywhere")
    monkeypatch.setattr(lineage, "MAX_GAP", MIN_GAP)
    monkeypatch.setattr(clone_watch, "CALM_SECONDS", 300.0)

    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        await copied(world, tmp_path)
        for name in "xyz":
            await world.nodes[name].collection("cars").subscribe()
        world.network.partition([["one", "x"], ["y"], ["z", "other"]])
        await asyncio.gather(world.start("one", ["x"]), world.start("other", ["z"]))
        for name in ("one", "other"):
            node = world.nodes[name].collection("cars")
            await node.subscribe()
            await node.update("shared", {name: 1, "both": name})
            await node.insert({"_id": "new", "by": name, name: 1})
            await node.insert({"_id": name})
        await asyncio.sleep(5)
        world.network.heal()
        await asyncio.sleep(10)
        assert not stopped(world)
        found = await cars(world)
        assert any(each != found[0] for each in found), "what the numbers hide"
        await asyncio.sleep(1500)
        [loser] = stopped(world)
        await world.stop(loser)
        (tmp_path / loser / "identity.key").unlink()
        await world.restart(loser)
        await asyncio.sleep(60)
        by_id = {document["_id"]: document for document in await assert_equal(world)}
        assert by_id.keys() == {"shared", "new", "one", "other"}
        assert by_id["shared"].keys() == {"_id", "n", "one", "other", "both"}
        assert by_id["new"].keys() == {"_id", "by", "one", "other"}
        await world.close()

    run_virtual(main())


def test_nobody_without_the_key_stops_a_node(tmp_path: Path) -> None:
    """A peer speaks in its name, brings back what it said in earlier runs, and signs what it can."""

    async def main() -> None:
        world = World(2, tmp_path)
        said: list[Change] = []
        for _ in range(4):
            node = await world.start("one")
            said.append(await own_document(node))
            await world.stop("one")
        node = await world.restart("one")
        held = await own_document(node)
        record = NodeRecord.parse((await node.members())[0])
        adversary = await Adversary.dial(world.network.transport("evil"), "ws://one:7700", random.Random(1))
        await adversary.until(Resume)
        for number in range(2 * MAX_RISES):
            await adversary.send(Interest(node.node_id, 2 * 10**12 + 100 * number, 1, []))
        answer = {**record.body(), "instance": "another", "answers": record.instance, "started_at": 0.0}
        forged, _ = records.sign(
            adversary.identity,
            "nodes",
            adversary.identity.node_id,
            answer,
            ABSENT,
            b"f" * 8,
            1,
            adopted=False,
        )
        forged = msgspec.structs.replace(forged, id=node.node_id)
        newer = [msgspec.structs.replace(change, rank=(9, 9)) for change in (*said, forged)]
        await offer(adversary, *said, forged, *newer)
        assert adversary.ended is None
        assert (await own_document(node)).update == held.update
        assert node.presence().cloned is None
        await adversary.close()
        await world.close()

    run_virtual(main())


async def own_document(node: Node) -> Change:
    def job(rows: Rows) -> Change:
        row = rows.get("nodes", node.node_id)
        assert row is not None
        return Change("nodes", node.node_id, row.state.rank, {}, row.state.vector, row.state.update)

    assert node._parts is not None
    return await node._parts.store.write(job)


def deaf(self: clones.Clones, record: NodeRecord, started_at: float, fresh: str) -> Finding:
    """As if the other one were of a version that does not answer."""
    return Finding(proven=False, stops=False, forked=False)


@pytest.mark.limit("node.clone_watch.MAX_ANSWERS")
def test_two_of_which_none_stops_do_not_answer_each_other_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clones.Clones, "meet", deaf)

    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        await copied(world, tmp_path)
        await run_apart(world)
        await asyncio.sleep(RISE_SECONDS / 2)
        assert 1 <= complaints(caplog, CLONED, logging.WARNING) <= 2
        before = world.nodes["x"]._parts.peers.bytes_out  # type: ignore[union-attr]
        await asyncio.sleep(RISE_SECONDS / 4)
        assert world.nodes["x"]._parts.peers.bytes_out - before < 1000  # type: ignore[union-attr]
        await asyncio.sleep(2 * RISE_SECONDS)
        assert 2 <= complaints(caplog, CLONED, logging.WARNING) <= 8
        assert complaints(caplog, PUT_RIGHT, logging.WARNING) <= 2 * MAX_ANSWERS * 4
        # Once one of them is gone, the other is heard again.
        await world.stop("other")
        await asyncio.sleep(2 * RISE_SECONDS)
        await world.nodes["y"].collection("cars").insert({"_id": "1"})
        await asyncio.sleep(10)
        assert await world.nodes["one"].collection("cars").get("1") is not None
        await world.close()

    run_virtual(main())


def test_a_node_that_is_restarted_under_an_earlier_clock_is_no_clone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it said before is still about, as it moves from one peer to another, and links part."""

    async def main() -> None:
        world = World(2, tmp_path, delay=0.02)
        for name, peers in (("x", []), ("y", ["x"]), ("z", ["y"])):
            await world.start(name, peers)
        node = await world.start("one", ["x"])
        await node.collection("cars").subscribe()
        for number in range(12):
            await asyncio.sleep(1)
            if number % 3:
                await world.stop("one")
            else:
                await world.crash("one")
            if number % 4 == 0:
                world.network.cut("x", "y")
            await world.restart("one", peers=("x", "z")[number % 2 :], skew=-100.0 * number)
            await asyncio.sleep(1)
            world.network.heal()
        await asyncio.sleep(60)
        await world.nodes["x"].collection("cars").insert({"_id": "1"})
        await asyncio.sleep(10)
        assert await world.nodes["one"].collection("cars").get("1") is not None
        assert not any(complaints(caplog, CLONED, level) for level in (logging.WARNING, logging.ERROR))
        await world.close()

    run_virtual(main())
