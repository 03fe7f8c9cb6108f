"""What only direct distributions meet: peers that do not know them, rubbish, and offers without end."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from mesh import AllNodes, Nodes, TransferState
from mesh.core.direct import MAX_HELD_BYTES
from mesh.core.identity import node_id_of
from mesh.core.wire import DirectOffer, DirectReceipt
from tests.behaviour.stage import DONE, FAILED, PENDING, Mesh, later, only_direct

CROWD = [node_id_of(b"%d" % number) for number in range(1000)]
"""An offer to all of these takes some 55 kB."""


def offers(mesh: Mesh, name: str) -> Any:
    return mesh.node(name).direct._offers


@only_direct("it is about messages that documents do not need")
async def test_given_a_peer_that_does_not_know_direct_distributions_then_it_is_never_offered_one(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    with patch("mesh.node.assembly.FEATURE", "something else"):
        await mesh.start("old", "hq")
    await mesh.start("new", "hq")
    handle = await mesh.distribute(scope=AllNodes())
    await later()
    assert await mesh.states(handle) == {"old": PENDING, "new": DONE}
    assert mesh.delivered() == ["new"]


@only_direct("it is about messages that documents do not need")
async def test_given_rubbish_when_it_is_offered_or_acknowledged_then_it_is_ignored_and_the_link_stays(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute()
    await later()
    link = mesh.world.link("hq", "van")
    offered = msgspec.json.encode({"_id": handle.distribution_id, "publisher": mesh.id("van")})
    for data in (b"", b"\xff", b"[" * 10_000, b"{}", offered):
        link.send(DirectOffer(data))
        link.send(DirectReceipt(data))
    await later()
    assert mesh.world.link("hq", "van") is link
    assert caplog.text.count("is ignored") == caplog.text.count("is not counted") == 5
    assert await mesh.states(handle) == {"van": DONE}


@only_direct("documents are bounded by their publisher's store and their retention")
async def test_given_offers_without_end_when_nothing_is_under_way_then_the_oldest_are_forgotten(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    handles = [await mesh.distribute(scope=Nodes(CROWD)) for _ in range(100)]
    await later()
    held = offers(mesh, "van")
    assert sum(held._sizes[mesh.id("hq")].values()) <= MAX_HELD_BYTES
    known = [held._catalogue.get(handle.distribution_id) is not None for handle in handles]
    assert known == sorted(known)
    assert 50 < sum(known) < 100
    handle = await mesh.distribute()
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@only_direct("documents are bounded by their publisher's store and their retention")
async def test_given_offers_without_end_when_all_are_undecided_then_more_fail_until_there_is_room(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("van", "hq", receive="manual")
    await later(1)
    scope = Nodes([*CROWD, mesh.id("van")])
    handles = [await mesh.distribute(bytes([n]), scope) for n in range(90)]
    await later()
    last = handles[-1]
    assert (await mesh.files().status(handles[0])).node_statuses[mesh.id("van")].status is PENDING
    assert (await mesh.files().status(last)).node_statuses[mesh.id("van")].status is FAILED
    assert "retry() later" in await mesh.reason(last, "van")
    for handle in handles[:20]:
        await mesh.files().cancel(handle)
    await later()
    await mesh.files().retry(last)
    await later()
    assert (await mesh.files().status(last)).node_statuses[mesh.id("van")].status is TransferState.PENDING
    assert len(offers(mesh, "van").subscriber.deliveries._open) < 90
