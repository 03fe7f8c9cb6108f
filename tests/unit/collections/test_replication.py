"""Subscriptions and replication between nodes: what arrives, what it costs, and what if it cannot."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.collections.replication import Replicator
from mesh.core.document import MAX_DOCUMENT_BYTES
from mesh.core.interest import EVERYTHING, entry_digest
from mesh.core.routes import SOFT_STATE_SECONDS
from mesh.core.sync_serving import MAX_CATCHUPS
from mesh.core.sync_window import WINDOW_BYTES, WINDOW_FRAMES, Batch
from mesh.core.wire import Change, Changes, InterestEntry
from mesh.errors import PermissionDenied, SettleTimeout
from mesh.network.memory import Path as NetworkPath
from mesh.storage import replicas
from tests.simulation.virtual_clock import run_virtual
from tests.unit.collections.mesh_of_stores import DocumentNode, MeshOfStores, mesh_of_stores
from tests.unit.owned_bodies import node_body

CARS = InterestEntry("cars")


@pytest.fixture(autouse=True, params=[False, True], ids=["inline", "late"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds as well where a store tells late of what it has done."""
    monkeypatch.setattr(MeshOfStores, "late", request.param)


async def fill(node: DocumentNode, count: int, **fields: Any) -> None:
    cars = node.collection()
    documents = [
        {"_id": f"k{i:05}", "n": i, "text": node.rng.randbytes(50).hex()} | fields for i in range(count)
    ]
    await asyncio.gather(*[cars.upsert(document) for document in documents])


# --- subscriptions --------------------------------------------------------------------------------


def test_nothing_is_synced_that_nobody_asked_for() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await fill(a, 10)
            await world.settle()
            assert await b.contents() == {}
            subscription = await b.collection().subscribe({"n": {"$lt": 3}})
            await world.settle()
            assert sorted(await b.contents()) == ["k00000", "k00001", "k00002"]
            assert await a.contents("cars") != await b.contents()
            await subscription.cancel()
            await subscription.cancel()
            await world.settle()
            await a.collection().update("k00001", {"n": 0})
            await world.settle()
            assert (await b.contents())["k00001"]["n"] == 1, "what has arrived stays as it is"

    run_virtual(main())


def test_many_subscriptions_are_announced_few_times() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            for i in range(1500):
                await a.collection(f"c{i}").insert({"_id": "1"})
            await world.settle()
            before = b.traffic()[1]
            for i in range(1500):
                await b.collection(f"c{i}").subscribe()
                await asyncio.sleep(0.001)  # each in a turn of its own
            await world.settle()
            assert b.traffic()[1] - before < 1_500_000, "about 15 times all of them, not 1500 times"
            assert all([await b.collection(f"c{i}").get("1") for i in range(0, 1500, 50)])
            await a.collection("c7").insert({"_id": "2"})
            await world.settle()
            assert await b.collection("c7").count() == 2

    run_virtual(main())


def test_strangers_compare_many_collections() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.add("a"), await world.add("b")
            count = MAX_CATCHUPS + 1
            for node in (a, b):
                for i in range(count):
                    await node.collection(f"c{i}").insert({"_id": node.name})
                node.want(*(InterestEntry(f"c{i}") for i in range(count)))
            await a.connect(b)
            await world.settle()
            for node in (a, b):
                for i in range(0, count, 99):
                    assert await node.collection(f"c{i}").count() == 2

    run_virtual(main())


def test_subscriptions_are_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a = await world.add("a")
            b = await world.add("b", a)
            kept = await b.collection().subscribe({"n": {"$lt": 3}})
            gone = await b.collection().subscribe({"n": 7})
            assert (kept.collection, kept.selector) == ("cars", {"n": {"$lt": 3}})
            await gone.cancel()
            await b.stop()
            await fill(a, 10)
            await b.start(a)
            await asyncio.sleep(5)
            await world.settle()
            assert sorted(await b.contents()) == ["k00000", "k00001", "k00002"]

    run_virtual(main())


def test_the_same_selector_twice_is_one_subscription() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            one = await b.collection().subscribe({"n": 1, "text": "x"})
            two = await b.collection().subscribe({"text": "x", "n": 1})
            await one.cancel()
            await world.settle()
            await a.collection().insert({"_id": "1", "n": 1, "text": "x"})
            await world.settle()
            assert await b.contents() == {}, "there was one, and it is cancelled"
            await two.cancel()

    run_virtual(main())


def test_subscribing_and_cancelling_in_one_breath_keeps_the_link() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await fill(a, 5)
            since = b.peers.links[a.node_id].since
            for n in range(20):
                subscription = await b.collection().subscribe({"n": n + 100})
                await asyncio.sleep(0)
                await subscription.cancel()
            await b.collection().subscribe({"n": 1})
            await world.settle()
            assert sorted(await b.contents()) == ["k00001"]
            assert b.peers.links[a.node_id].since == since

    run_virtual(main())


def test_evicted_documents_come_back_with_the_next_subscription() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await fill(a, 20)
            subscription = await b.collection().subscribe()
            await world.settle()
            await subscription.cancel()
            await world.settle()
            assert await b.collection().evict({}) == 20
            assert await b.contents() == {}
            assert len(await a.contents()) == 20, "eviction is local"
            await b.collection().subscribe()
            await world.settle()
            assert await b.contents() == await a.contents()

    run_virtual(main())


def test_a_position_on_its_way_to_the_store_does_not_outlive_an_eviction() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await fill(a, 20)
            subscription = await b.collection().subscribe()
            await b.settled()
            await subscription.cancel()
            sync = b.replicator._syncs[a.node_id]
            entry = entry_digest(CARS)
            sync._save_soon(a.store.log_id, [entry], 20)
            await b.collection().evict({})
            await asyncio.sleep(5)
            [standing] = await b.store.read(lambda rows: replicas.read_standings(rows, a.node_id, [CARS]))
            assert standing.after == 0
            # Now it is under way while the eviction happens.
            sync._save_soon(a.store.log_id, [entry], 20)
            await b.collection().insert({"_id": "mine"})
            await asyncio.gather(b.collection().evict({}), sync._save())
            [standing] = await b.store.read(lambda rows: replicas.read_standings(rows, a.node_id, [CARS]))
            assert standing.after == 0

    run_virtual(main())


@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_what_is_evicted_while_it_is_on_its_way_to_a_peer_comes_back(delay: float) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            world.network.set_path("n0", "n1", NetworkPath(delay))
            for node in (a, b):
                await node.collection().subscribe()
            await world.settle()
            await b.collection().insert({"_id": "x"})
            await (await b.collection().subscribe()).cancel()
            assert await b.collection().evict({}) == 1
            await b.collection().subscribe()
            await world.settle()
            assert await a.contents() == await b.contents() == {"x": {}}

    run_virtual(main())


@pytest.mark.parametrize("lives", [1, 2, 4])
def test_what_was_evicted_and_is_written_again_merges_with_what_peers_hold(lives: int) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            early, writer, late = [await world.add(name) for name in ("early", "writer", "late")]
            await early.collection().subscribe()
            await late.collection().subscribe()
            await writer.connect(early)
            cars = writer.collection()
            for _ in range(1, lives):
                await cars.insert({"_id": "a", "gone": 1})
                await cars.remove("a")
            await cars.insert({"_id": "a", "old": 1})
            await cars.increment("a", "sum", 10)
            await world.settle()
            await writer.peers.disconnect(early.node_id)
            await cars.increment("a", "sum", 100)  # nobody knows of that
            await cars.evict("a")
            await cars.upsert({"_id": "a", "new": 2})
            await cars.increment("a", "sum", 5)
            await late.connect(writer)
            await world.settle()
            await late.connect(early)
            await world.settle()
            for node in (early, late):
                assert await node.contents() == {"a": {"old": 1, "new": 2, "sum": 15}}

    run_virtual(main())


@pytest.mark.parametrize("reader", ["itself", "neighbour", "stranger"])
def test_a_relay_that_evicts_what_it_passes_on_gets_it_back_when_somebody_asks(reader: str) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            ends_and_relay = one, relay, other = await world.line(3)
            for node in ends_and_relay:
                await node.collection().subscribe()
            await relay.collection().insert({"_id": "its own"})
            await fill(one, 5)
            await world.settle()
            await (await relay.collection().subscribe()).cancel()
            if reader == "neighbour":
                await other.peers.pause()
                await one.collection().insert({"_id": "missed by the other"})
            await asyncio.sleep(5)
            assert await relay.collection().evict({}) == 6 + (reader == "neighbour")
            await one.collection().insert({"_id": "new"})
            await asyncio.sleep(5)
            assert (await relay.contents()).keys() == {"new"}, "it does not come straight back"
            if reader == "itself":
                await relay.collection().subscribe()
            elif reader == "neighbour":
                await other.peers.resume()
                await asyncio.sleep(60)
            else:
                stranger = await world.add("stranger", relay)
                await stranger.collection().subscribe()
                await stranger.settled()
            await world.settle()
            for node in world.nodes.values():
                assert await node.contents() == await one.contents(), node.name

    run_virtual(main())


def test_a_node_that_has_lost_its_store_gets_back_what_it_wrote() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            for node in (a, b):
                await node.collection().subscribe()
            await fill(a, 20)
            await world.settle()
            await a.stop()
            await a.start(b)
            await a.collection().subscribe()
            await a.connect(b)
            await world.settle()
            assert len(await a.contents()) == 20

    run_virtual(main())


def test_a_hub_does_not_evict_what_it_wants() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            hub = await world.add("hub")
            hub.want(EVERYTHING)
            await hub.collection().insert({"_id": "1"})
            with pytest.raises(PermissionDenied):
                await hub.collection().evict({})

    run_virtual(main())


# --- what arrives ---------------------------------------------------------------------------------


def test_offline_writes_on_both_sides_merge() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            for node in (a, b):
                await node.collection().subscribe()
            await a.collection().insert({"_id": "1", "o": {"x": 1}, "gone": 1, "n": 0})
            await a.collection().insert({"_id": "removed", "n": 0})
            await world.settle()
            await b.peers.pause()
            await a.collection().update("1", {"o": {"a": 1}})
            await a.collection().increment("1", "n", 2)
            await a.collection().remove("removed")
            await b.collection().update("1", {"o": {"b": 2}})
            await b.collection().unset("1", "gone")
            await b.collection().increment("1", "n", 3)
            await b.collection().update("removed", {"n": 1})
            await b.peers.resume()
            await asyncio.sleep(60)
            await world.settle()
            expected = {"1": {"o": {"x": 1, "a": 1, "b": 2}, "n": 5}}
            assert await a.contents() == await b.contents() == expected

    run_virtual(main())


def test_a_document_that_leaves_a_selector_is_updated_at_its_holder() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await a.collection().insert({"_id": "live", "color": "red"})
            await a.collection().insert({"_id": "offline", "color": "red"})
            await b.collection().subscribe({"color": "red"})
            await world.settle()
            await a.collection().update("live", {"color": "blue"})
            await world.settle()
            assert (await b.contents())["live"] == {"color": "blue"}
            await b.peers.pause()
            await a.collection().update("offline", {"color": "green"})
            await a.collection().insert({"_id": "never seen", "color": "green"})
            await b.peers.resume()
            await asyncio.sleep(60)
            await world.settle()
            assert await b.contents() == {"live": {"color": "blue"}, "offline": {"color": "green"}}

    run_virtual(main())


def test_it_is_updated_by_a_peer_that_it_never_met_too() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await a.collection().insert({"_id": "1", "color": "red"})
            for node in (a, b):
                await node.collection().subscribe({"color": "red"})
            await world.settle()
            await a.peers.disconnect(b.node_id)
            await a.collection().update("1", {"color": "blue"})
            c = await world.add("c", a)
            await c.collection().subscribe()
            await asyncio.sleep(5)
            await world.settle()
            await b.connect(c)
            await world.settle()
            assert await b.contents() == {"1": {"color": "blue"}}

    run_virtual(main())


def test_large_documents_arrive() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            rng = random.Random(1)
            sizes = [1, 4000, 5000, 200_000, MAX_DOCUMENT_BYTES - 1000]
            for size in sizes * 3:
                await a.collection().insert({"big": rng.randbytes(size // 2).hex()})
            await b.collection().subscribe()
            await world.settle()
            assert await b.contents() == await a.contents()
            assert len(await b.contents()) == 15
            [largest, *_] = sorted(await a.collection().find(), key=lambda document: -len(document["big"]))
            before = a.traffic()[1]
            await a.collection().update(largest["_id"], {"small": 1})
            await world.settle()
            assert await b.contents() == await a.contents()
            assert a.traffic()[1] - before < 3000, "a change of a large document is small"

    run_virtual(main())


def test_a_change_that_is_refused_does_not_hold_up_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await b.collection().subscribe()
            await world.settle()
            link = a.peers.links[b.node_id]
            bad = Change("cars", "bad", (0, 0), {}, {b"evilevil": 1}, b"junk")
            sync = a.replicator._syncs[b.node_id]
            sync.run([sync.serving._window.frame(0, 0, Batch([bad]))])
            assert isinstance(sync.serving._window._in_flight, dict)
            await fill(a, 3)
            await world.settle()
            assert sorted(await b.contents()) == ["k00000", "k00001", "k00002"]
            assert a.peers.links[b.node_id] is link

    run_virtual(main())
    assert "refused cars/bad" in caplog.text


def test_what_was_not_asked_for_ends_the_link(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await world.settle()
            link = a.peers.links[b.node_id]
            link.send(Changes(1000, 0, 0, [Change("other", "1", (0, 0), {}, {b"evilevil": 1}, b"\0\0")]))
            await asyncio.sleep(1)
            assert link.closed
            assert await b.contents("other") == {}

    run_virtual(main())
    assert "not all of which were asked for" in caplog.text


# --- several hops ---------------------------------------------------------------------------------


def test_documents_travel_a_line_of_eight_with_only_the_ends_subscribed() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            nodes = await world.line(8)
            first, last = nodes[0], nodes[-1]
            await fill(first, 20)
            await last.collection().insert({"_id": "from the end", "n": 1})
            await first.collection().subscribe()
            subscription = await last.collection().subscribe({"n": {"$lt": 10}})
            await world.settle()
            assert len(await last.contents()) == 11
            assert len(await first.contents()) == 21
            await first.collection().update("k00015", {"n": 5})
            await last.collection().update("k00001", {"n": 500})
            await world.settle()
            assert (await last.contents())["k00015"]["n"] == 5
            assert (await first.contents())["k00001"]["n"] == 500
            # A relay holds what is asked of it and no more.
            assert await nodes[3].contents("other") == {}
            # A withdrawal goes all the way.
            await subscription.cancel()
            await world.settle()
            assert not first.replicator._table.wanted_by(nodes[1].node_id).covers(
                InterestEntry("cars", {"n": {"$lt": 10}})
            )

    run_virtual(main())


def test_an_edge_node_that_sleeps_is_served_from_its_neighbour() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, relay, edge = await world.line(3)
            await edge.collection().subscribe()
            await world.settle()
            await edge.peers.pause()
            await fill(a, 10)
            await asyncio.sleep(60)
            assert len(await relay.contents()) == 10, "what it asked for goes on to be relayed for a while"
            await asyncio.sleep(SOFT_STATE_SECONDS + 60)
            await a.collection().insert({"_id": "later"})
            await asyncio.sleep(60)
            assert len(await relay.contents()) == 10, "and not for ever"
            await edge.peers.resume()
            await asyncio.sleep(120)
            await world.settle()
            assert len(await edge.contents()) == 11

    run_virtual(main())


def test_links_that_go_one_after_the_other_are_all_forgotten() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            hub = await world.add("hub")
            edges = [await world.add(f"e{i}", hub) for i in range(3)]
            for edge in edges:
                await edge.collection().subscribe({"edge": edge.name})
            await asyncio.sleep(5)
            await world.settle()
            for edge in edges:
                await edge.peers.pause()
                await asyncio.sleep(SOFT_STATE_SECONDS / 2)
            await asyncio.sleep(SOFT_STATE_SECONDS + 10)
            assert hub.replicator._table.next_expiry is None
            assert not hub.replicator._table._origins

    run_virtual(main())


def test_a_circle_comes_to_rest() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            nodes = await world.line(5)
            await nodes[-1].connect(nodes[0])
            for node in nodes:
                await node.collection().subscribe()
                await node.collection().insert({"_id": node.name, "by": node.name})
            await world.settle()
            for node in nodes:
                assert sorted(await node.contents()) == ["n0", "n1", "n2", "n3", "n4"]
            before = [node.traffic()[1] for node in nodes]
            await nodes[0].collection().update("n0", {"again": True})
            await world.settle()
            spent = [node.traffic()[1] - was for node, was in zip(nodes, before, strict=True)]
            assert max(spent) < 4000, "each link carries a change once or twice, and nothing goes round"

    run_virtual(main())


def test_owned_documents_reach_neighbours_and_whoever_asks() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            nodes = await world.line(3)
            for node in nodes:
                await node.owned.write("nodes", node.node_id, node_body(name=node.name))
            await world.settle()
            names = [sorted(d["name"] for d in await node.owned.find("nodes")) for node in nodes]
            assert names == [["n0", "n1"], ["n0", "n1", "n2"], ["n1", "n2"]]
            await nodes[0].owned.want("nodes", "watch", {"name": "n2"})
            await world.settle()
            assert len(await nodes[0].owned.find("nodes")) == 3
            await nodes[0].owned.want("nodes", "watch", None)

    run_virtual(main())


# --- what it costs --------------------------------------------------------------------------------


def test_a_reconnect_costs_what_differs(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b = await world.line(2)
            for node in (a, b):
                await node.collection().subscribe()
            await fill(a, 2000)
            await world.settle()
            first = a.traffic()[1]
            for restarted in (False, True):
                if restarted:
                    await b.stop()
                else:
                    await b.peers.pause()
                before = a.traffic()
                await a.collection().update("k00001", {"n": -1 - restarted})
                if restarted:
                    await b.start(a)
                    await b.connect(a)
                else:
                    await b.collection().update("k00002", {"n": -2})
                    await b.peers.resume()
                    await asyncio.sleep(60)
                await world.settle()
                spent = sum(now - was for now, was in zip(a.traffic(), before, strict=True))
                assert spent < 6000 < first / 10
                assert await a.contents() == await b.contents()

    run_virtual(main())


def test_a_stranger_with_the_same_documents_costs_what_differs() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b, c = await world.line(3)
            for node in (a, b, c):
                await node.collection().subscribe()
            await fill(a, 2000)
            await world.settle()
            await a.peers.disconnect(b.node_id)
            await b.stop()
            await a.collection().update("k00001", {"n": -1})
            await c.collection().update("k00002", {"n": -2})
            before = a.traffic()
            await a.connect(c)
            await a.settled()
            await c.settled()
            spent = sum(now - was for now, was in zip(a.traffic(), before, strict=True))
            assert spent < 8_000
            assert await a.contents() == await c.contents()

    run_virtual(main())


def test_a_slow_peer_costs_itself_and_no_more_than_the_window() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, slow, fast = await world.add("a"), await world.add("slow"), await world.add("fast")
            world.network.set_path("a", "slow", NetworkPath(delay=2.0))
            world.network.set_bandwidth("slow", 20_000)
            for node in (slow, fast):
                await node.collection().subscribe()
                await node.connect(a)
            await world.settle()
            rng = random.Random(1)
            worst = 0
            for _ in range(40):
                await asyncio.gather(
                    *[a.collection().insert({"text": rng.randbytes(1000).hex()}) for _ in range(100)]
                )
                await fast.settled()
                serving = a.replicator._syncs[slow.node_id].serving
                worst = max(
                    worst, serving._window._bytes_in_flight, a.peers.links[slow.node_id].pending_bytes
                )
                assert len(serving._window._in_flight) <= WINDOW_FRAMES
                assert await fast.collection().count() == await a.collection().count()
            assert worst <= WINDOW_BYTES
            assert await slow.collection().count() < await a.collection().count()
            await slow.settled(100_000)
            assert await slow.collection().count() == 4000

    run_virtual(main())


# --- settled --------------------------------------------------------------------------------------


def test_a_node_alone_is_settled() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            await (await world.add("a")).settled(0.1)

    run_virtual(main())


def test_settled_includes_what_was_subscribed_to_a_moment_ago() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await world.settle()
            world.network.set_path("n0", "n1", NetworkPath(delay=0.5))
            await fill(a, 600)
            for i in range(5):
                await b.collection().subscribe({"n": i})
                await b.settled()
                assert len(await b.contents()) == i + 1

    run_virtual(main())


def test_settled_includes_what_is_written_here() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await b.collection().subscribe()
            await world.settle()
            world.network.set_path("n0", "n1", NetworkPath(delay=0.5))
            await fill(a, 10)
            await a.settled()
            assert len(await b.contents()) == 10

    run_virtual(main())


def test_settling_says_what_is_missing() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a = await world.add("a")
            away = await world.add("away")
            await away.stop()
            b = await world.add("b", a, away)
            await b.collection().subscribe()
            await asyncio.sleep(1)
            with pytest.raises(SettleTimeout) as unlinked:
                await b.settled(5)
            assert unlinked.value.waiting_for == ["ws://away:1 (not linked)"]
            assert unlinked.value.timeout == 5
            await b.peers.dialer.remove("ws://away:1")
            await b.settled(5)
            world.network.partition([["a"], ["b"]])
            await b.collection().insert({"_id": "1"})
            with pytest.raises(SettleTimeout) as stalled:
                await b.settled(5)
            assert stalled.value.waiting_for == ["sync with a"]
            world.network.heal()
            await b.settled(60)

    run_virtual(main())


def test_settling_survives_a_link_that_comes_and_goes() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await b.collection().subscribe()
            world.network.set_path("n0", "n1", NetworkPath(delay=0.2))
            await fill(a, 3000)
            settling = asyncio.create_task(b.settled(3600))
            for _ in range(5):
                await asyncio.sleep(0.7)
                world.network.drop("n0", "n1")
            await asyncio.sleep(60)
            await settling
            await world.settle()
            assert await b.contents() == await a.contents()

    run_virtual(main())


def test_a_busy_writer_does_not_keep_a_barrier_from_being_answered() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            world.network.set_path("n0", "n1", NetworkPath(delay=0.05))
            await b.collection().subscribe()
            await world.settle()
            stop = asyncio.Event()

            async def write() -> None:
                n = 0
                while not stop.is_set():
                    n += 1
                    await a.collection().upsert({"_id": "busy", "n": n})
                    await asyncio.sleep(0.02)

            writing = asyncio.create_task(write())
            await asyncio.sleep(1)
            sync = b.replicator._syncs[a.node_id]
            await asyncio.wait_for(sync.barrier(), 5)
            stop.set()
            await writing

    run_virtual(main())


# --- failures -------------------------------------------------------------------------------------


def test_a_store_that_cannot_write_ends_the_link_and_no_position_is_ahead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b = await world.line(2)
            await fill(a, 1200)
            original = b.store.submit
            failing = 3

            def burn(rows: Any) -> None:
                raise OSError("the disk is on fire")

            def submit(job: Any, **how: Any) -> asyncio.Future[Any]:
                nonlocal failing
                if "SyncSession._apply" in getattr(job, "__qualname__", ""):
                    failing -= 1
                    if failing == 0:
                        return original(burn, **how)
                return original(job, **how)

            b.store.submit = submit  # type: ignore[method-assign]
            await b.collection().subscribe()
            await asyncio.sleep(600)
            await world.settle()
            assert await b.contents() == await a.contents()

    run_virtual(main())
    assert "the disk is on fire" in caplog.text


def test_a_restored_backup_goes_on_under_a_new_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b = await world.line(2)
            for node in (a, b):
                await node.collection().subscribe()
            await fill(a, 20)
            await world.settle()
            await a.stop()
            backup = (tmp_path / "n0.sqlite").read_bytes()
            await a.start(b)
            await a.connect(b)
            await fill(a, 20, newer=True)
            await a.collection().insert({"_id": "after the backup"})
            await world.settle()
            await a.stop()
            (tmp_path / "n0.sqlite").write_bytes(backup)
            await a.start(b)
            await a.connect(b)
            await asyncio.sleep(60)
            await world.settle()
            assert "after the backup" in await a.contents()
            assert await a.contents() == await b.contents()
            for i in range(20):
                await a.collection().update(f"k{i:05}", {"written": "after"})
                await b.collection().update(f"k{i:05}", {"there": "too"})
            await world.settle()
            assert await a.contents() == await b.contents()
            assert all(
                "written" in d and "there" in d for i, d in (await b.contents()).items() if i[0] == "k"
            )

    run_virtual(main())
    assert "restored from a backup" in caplog.text


def test_in_a_closed_mesh_nobody_is_synced_with_who_has_no_rights() -> None:
    nothing: Any = None
    closed: Any = SimpleNamespace(grant=None)
    stranger: Any = SimpleNamespace(node_id="b", member=None)
    replicator = Replicator(nothing, nothing, node_id="a", clock=lambda: 0.0, membership=closed)
    with pytest.raises(AssertionError):  # which ends the link
        replicator._link_up(stranger)
    assert not replicator._syncs
