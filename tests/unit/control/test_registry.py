"""What an endpoint keeps of its node."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from mesh.control.registry import Served
from mesh.core.scopes import AllNodes
from tests.unit.distributions.world import World, in_a_world, later


def test_deliveries_are_kept_until_they_are_decided_or_over() -> None:
    async def run(world: World) -> None:
        hq, van = await world.start("hq"), await world.start("van", receive="manual")
        served = Served(cast(Any, van.service), lambda: None)
        collecting = asyncio.ensure_future(served.collect_deliveries())
        handles = [await hq.service.distribute(hq.blobs.add(b"%d" % n), AllNodes()) for n in range(3)]
        accepted, cancelled, left = (handle.distribution_id for handle in handles)
        await later(1)
        assert set(served.deliveries) == {accepted, cancelled, left}
        await served.deliveries[accepted].accept()
        await hq.service.cancel(cancelled)
        await later(1)
        assert set(served.deliveries) == {left}
        await served.deliveries[left].reject("no room")
        await later(1)
        assert not served.deliveries
        await van.service.close()
        await collecting

    in_a_world(run)
