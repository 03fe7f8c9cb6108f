"""Random lives of small meshes, always ending in what the documents ask for."""

from __future__ import annotations

import pytest

from mesh.core.identity import node_id_of
from mesh.core.scopes import AllNodes, DistributionScope, Formation, Nodes, matches
from mesh.core.status import DistributionHandle, TransferState
from mesh.errors import LinkClosed
from tests.unit.distributions.world import FakePeer, World, in_a_world, later

VANS = tuple(node_id_of(name.encode()) for name in "abcd")
SCOPES: tuple[DistributionScope, ...] = (
    AllNodes(),
    Formation("north"),
    Formation("south"),
    Nodes([VANS[0], VANS[2]]),
)


async def _step(world: World, hq: FakePeer, handles: list[DistributionHandle]) -> None:
    random = world.random
    peer = world.peers[random.choice(VANS)]
    match random.randrange(9):
        case 0 | 1:
            token = hq.blobs.add(random.randbytes(random.randrange(2000)))
            handles.append(await hq.service.distribute(token, random.choice(SCOPES)))
        case 2 if handles:
            await hq.service.cancel(random.choice(handles))
        case 3 if handles:
            token = hq.blobs.add(random.randbytes(50))
            old = random.choice(handles)
            handles.append(await hq.service.distribute(token, random.choice(SCOPES), supersedes=old))
        case 4:
            world.disconnect(peer)
        case 5:
            world.reconnect(peer)
        case 6:
            await random.choice([peer, hq]).restart()
        case 7:
            await peer.set_formations(random.choice(["north", "south"]))
        case 8:
            peer.blobs.failures.append(LinkClosed("by chance"))
    await later(random.uniform(0, 3))


@pytest.mark.parametrize("seed", range(25))
def test_every_life_ends_as_the_documents_say(seed: int) -> None:
    async def run(world: World) -> None:
        world.unruly = seed % 2 == 0
        hq = await world.start("hq")
        await world.start("hub", hub=True)
        for name in VANS:
            peer = await world.start(name, [world.random.choice(["north", "south"])])
            peer.blobs.seconds = 2.0
        handles: list[DistributionHandle] = []
        for _ in range(40):
            await _step(world, hq, handles)
        for peer in world.peers.values():
            world.reconnect(peer)
        await later(3600)

        viewer = await world.start("viewer", hub=True, receive="off")
        await later(60)
        for handle in handles:
            status = await hq.service.status(handle)
            for name in VANS:
                peer = world.peers[name]
                receipt = peer.receipt(handle.distribution_id)
                shown = status.node_statuses.get(name)
                completed = receipt is not None and receipt.status is TransferState.COMPLETED
                assert completed == (shown is not None and shown.status is TransferState.COMPLETED)
                if completed:
                    assert handle.blob_hash in peer.blobs.held
                elif not status.is_cancelled:
                    assert not matches(handle.scope, name, "hq", peer.facts), "in the scope, but not served"
                    assert receipt is None or receipt.status is TransferState.CANCELLED
            # The viewer refuses what is for everybody, and is in no other scope.
            seen = await viewer.service.status(handle)
            for name in VANS:
                assert seen.node_statuses.get(name) == status.node_statuses.get(name)
        for peer in world.peers.values():
            assert not peer.blobs.running

    in_a_world(run, seed=seed)
