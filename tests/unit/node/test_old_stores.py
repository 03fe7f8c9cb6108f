"""Data directories that older versions have left: today's code opens them, and nothing is missing.

An archive holds those of two nodes that have met, ``hq`` and ``van``, and what was found at ``hq`` in
the end, as ``facts.json``. Since they met, ``hq`` had written on.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mesh import Node

ARCHIVES = sorted((Path(__file__).parent / "old_stores").glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Whether these are the same documents, values told apart as JSON does, but for the order of keys."""
    return [json.dumps(d, sort_keys=True) for d in found] == [json.dumps(d, sort_keys=True) for d in wanted]


async def test_an_old_data_directory_is_opened_and_nothing_is_missing(old: Path) -> None:
    facts = json.loads((old / "facts.json").read_text())
    for _ in range(2):  # migrated, and as it is then
        async with Node(old / "hq", name="hq", listen=None) as hq:
            assert hq.node_id == facts["node_id"]
            for collection in ("cars", "notes", "distributions", "receipts"):
                assert same(await hq.collection(collection).find(), facts[collection]), collection
            assert [(one.collection, one.selector) for one in await hq.subscriptions()] == [
                ("cars", {"region": "north"}),
                ("notes", {}),
            ]
            assert {token.hash for token in await hq.attachments.tokens()} == {facts["small"], facts["large"]}
            verified = await hq.attachments.verify()
            assert (verified.checked, verified.lost, verified.repaired) == (2, [], [])
            status = await hq.distributions.status(facts["distribution"])
            assert status.is_success
            assert [target.node_id for target in status.node_statuses.values()] == [facts["van"]]


async def test_an_old_data_directory_syncs_with_old_and_new_nodes(old: Path) -> None:
    facts = json.loads((old / "facts.json").read_text())
    async with Node(old / "hq", name="hq") as hq, Node(name="new", peers=[hq.address or ""]) as new:
        for collection in ("cars", "notes", "receipts"):
            await new.collection(collection).subscribe()
        await new.settled(20)
        assert same(await new.collection("cars").find(), facts["cars"])
        assert same(await new.collection("notes").find(), facts["notes"])
        [receipt] = facts["receipts"]
        assert same([await new.collection("receipts").get(receipt["_id"]) or {}], [receipt])
        # Its counters and its removals are what they were, too.
        await new.collection("cars").increment("car1", "km", 1)
        assert await new.collection("cars").insert({"_id": "car3", "by": "new"}) == "car3"
        await hq.collection("cars").increment("car1", "km", 2)
        async with Node(old / "van", name="van", peers=[hq.address or ""], receive="off") as van:
            cars = van.collection("cars")
            before = await cars.get("car8")
            assert before is not None
            assert "offline" not in before, "it was not there any more"
            await van.settled(20)
            await new.settled(20)
            await van.settled(20)
            everywhere = [await node.collection("cars").find() for node in (hq, van, new)]
            assert same(everywhere[1], everywhere[2])
            by_id = {document["_id"]: document for document in everywhere[1]}
            assert by_id["car1"]["km"] == 15
            assert by_id["car3"] == {"_id": "car3", "by": "new"}
            assert by_id["car4"] == {"_id": "car4", "reborn": True}
            assert by_id["car8"]["offline"]
            assert by_id.keys().isdisjoint({"car5", "car9"})
