"""A store whose file is replaced by an older copy of itself, and that nothing on this machine tells so.

It is the same file on the same host. It writes on, meets peers that know what its former self has written
since, and all of them end up equal. ``MESH_TEST_THOROUGH=20`` tries so many times as much as usual.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from mesh.collections.sessions import POSITION_DELAY_SECONDS
from mesh.core.wire import InterestEntry
from mesh.storage import restored
from tests.simulation.virtual_clock import run_virtual
from tests.unit.collections.mesh_of_stores import DocumentNode, MeshOfStores, mesh_of_stores

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))

Contents = dict[str, tuple[Any, Any, Any]]


async def everything(node: DocumentNode) -> Contents:
    """Every document: its JSON to the letter, its rank and its version vector."""

    def job(rows: Any) -> Contents:
        found = {}
        for document_id, json in rows.connection.execute("SELECT id, json FROM documents").fetchall():
            row = rows.get("cars", document_id)
            found[document_id] = (json, row.state.rank, row.state.vector)
        return found

    return await node.store.read(job)


def put_back(node: DocumentNode, backup: bytes) -> None:
    """Into the same file, so that it stays the same one."""
    assert node.path is not None
    with node.path.open("r+b") as file:
        file.write(backup)
        file.truncate()


async def backed_up(node: DocumentNode) -> bytes:
    """A copy of a stopped node's file; the node runs again."""
    assert node.path is not None
    await node.stop()
    backup = node.path.read_bytes()
    await node.start()
    node.want(InterestEntry("cars"))
    return backup


async def mesh(world: MeshOfStores, *names: str) -> list[DocumentNode]:
    nodes = [await world.add(name) for name in names]
    for node in nodes:
        node.want(InterestEntry("cars"))
    return nodes


async def all_equal(*nodes: DocumentNode) -> Contents:
    first, *others = [await everything(node) for node in nodes]
    for other in others:
        assert other == first
    return first


@pytest.mark.parametrize("written_since", [1, 3, 40])
@pytest.mark.parametrize("third", [False, True])
def test_a_backup_that_was_written_to_offline(tmp_path: Path, written_since: int, third: bool) -> None:
    """``third``: it meets somebody first who knows what its former self wrote from hearsay only."""

    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b, c = await mesh(world, "a", "b", "c")
            cars = a.collection()
            await cars.upsert({"_id": "shared", "n": 0, "old": True})
            await cars.upsert({"_id": "untouched", "by": "a"})
            await b.connect(a)
            await c.connect(b)
            await world.settle()
            backup = await backed_up(a)
            await b.connect(a)
            await world.settle()
            for n in range(5):
                await a.collection().upsert({"_id": "shared", "n": f"former {n}", "former": n})
            await a.collection().upsert({"_id": "only former", "n": 1})
            await b.collection().upsert({"_id": "untouched", "by": "b"})
            await world.settle()
            await a.stop()
            put_back(a, backup)
            for other in (b, c):
                await other.peers.disconnect(a.node_id)

            await a.start()
            clock = await a.store.write(lambda rows: rows.lineage.clock)
            a.want(InterestEntry("cars"))
            for n in range(written_since):
                await a.collection().upsert({"_id": "shared", "n": f"restored {n}", "restored": n})
                await a.collection().upsert({"_id": f"only restored {n}", "n": n})
            await (c if third else b).connect(a)
            await asyncio.sleep(60)
            if third:
                await b.connect(a)
            await world.settle()
            assert await a.store.write(lambda rows: rows.lineage.clock) != clock
            await all_equal(a, b, c)
            held = await a.contents()
            assert held["shared"]["n"] in ("former 4", f"restored {written_since - 1}")
            assert held["shared"]["former"] == 4
            assert held["shared"]["restored"] == written_since - 1
            assert held["untouched"] == {"by": "b"}, "what was not written since is not written again"
            assert held["only former"] == {"n": 1}
            for n in range(written_since):
                assert held[f"only restored {n}"] == {"n": n}
            # And so it goes on.
            await a.collection().upsert({"_id": "shared", "n": "after"})
            await c.collection().upsert({"_id": "only former", "n": "after"})
            await world.settle()
            after = await all_equal(a, b, c)
            assert '"after"' in after["shared"][0]
            assert '"after"' in after["only former"][0]

    run_virtual(main())


def test_what_a_backup_has_counted_before_it_was_found_out_counts(tmp_path: Path) -> None:
    """Beside what its former self had counted, once each."""

    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b, c = await mesh(world, "a", "b", "c")
            await a.collection().insert({"_id": "again"})
            await a.collection().remove("again")
            for document_id in ("shared", "again"):
                await a.collection().insert({"_id": document_id})
                await a.collection().increment(document_id, "n", 1)
            await b.connect(a)
            await c.connect(b)
            await world.settle()
            await b.peers.disconnect(a.node_id)
            await a.collection().increment("shared", "n", 10)
            backup = await backed_up(a)
            await b.connect(a)
            for document_id in ("shared", "again"):
                await a.collection().increment(document_id, "n", 100)
            await world.settle()
            await a.stop()
            put_back(a, backup)
            await b.peers.disconnect(a.node_id)
            await a.start()
            a.want(InterestEntry("cars"))
            for n in (1000, 2000):
                await a.collection().increment("shared", "n", n)
                await a.collection().increment("shared", "new", 1)
                await a.collection().remove("again")
                await a.collection().insert({"_id": "again"})
                await a.collection().increment("again", "n", 5)
            await b.connect(a)
            await asyncio.sleep(60)
            await world.settle()
            await all_equal(a, b, c)
            held = await c.contents()
            assert held["shared"] == {"n": 3111, "new": 2}
            assert held["again"] == {"n": 5}
            await a.collection().increment("shared", "n", 10_000)
            await world.settle()
            assert (await c.contents())["shared"]["n"] == 13_111

    run_virtual(main())


def test_what_peers_hold_is_not_counted_twice(tmp_path: Path) -> None:
    """Whatever a peer says, to have been another store: what was counted then is known."""

    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b = await mesh(world, "a", "b")
            await backed_up(a)
            await b.connect(a)
            await a.collection().insert({"_id": "shared"})
            for _ in range(3):
                await a.collection().increment("shared", "n", 1)
            await world.settle()
            await asyncio.sleep(2 * POSITION_DELAY_SECONDS)
            await a.store.write(lambda rows: restored.renew(rows, rows.lineage.seq + 1000))
            await asyncio.sleep(60)
            await world.settle()
            await all_equal(a, b)
            assert await b.contents() == {"shared": {"n": 3}}

    run_virtual(main())


def test_a_backup_that_is_older_than_one_that_was_found_out(tmp_path: Path) -> None:
    """It meets somebody who knows its former self only from after that."""

    async def main() -> None:
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b, c = await mesh(world, "a", "b", "c")

            async def clock() -> bytes:
                return await a.store.write(lambda rows: rows.lineage.clock)

            async def written(n: int) -> None:
                await a.collection().upsert({"_id": "shared", "n": n})
                await b.connect(a)
                await world.settle()

            backups = []
            for n in range(2):
                await written(n)
                backups.append(await backed_up(a))
            await written(2)
            first = await clock()
            await a.stop()
            put_back(a, backups[1])
            await a.start()
            a.want(InterestEntry("cars"))
            await written(3)
            await asyncio.sleep(60)
            second = await clock()
            assert second != first
            await b.stop()
            await c.connect(a)
            await world.settle()
            await a.stop()
            put_back(a, backups[0])
            await a.start()
            a.want(InterestEntry("cars"))
            await a.collection().upsert({"_id": "new", "n": 1})
            assert await clock() == first
            await c.connect(a)
            await asyncio.sleep(60)
            await world.settle()
            third = await clock()
            assert third not in (first, second)
            assert (await all_equal(a, c)).keys() == {"shared", "new"}
            assert (await a.contents())["shared"] == {"n": 3}
            await b.start(a)
            b.want(InterestEntry("cars"))
            await asyncio.sleep(60)
            await world.settle()
            await all_equal(a, b, c)
            assert await clock() == third, "it is found out once"

    run_virtual(main())


@pytest.mark.parametrize("seed", range(10 * THOROUGH))
def test_any_backup_of_any_age(tmp_path: Path, seed: int) -> None:
    """Backups are put back any number of times, after any number of starts, in a line of four."""

    async def main() -> None:
        rng = random.Random(seed)
        async with mesh_of_stores(seed, folder=tmp_path) as world:
            nodes = await mesh(world, "a", "b", "c", "d")
            backups: dict[str, list[bytes]] = {node.name: [] for node in nodes}
            wrote: dict[str, dict[str, int]] = {}
            number = 0

            async def write() -> None:
                nonlocal number
                node = rng.choice([node for node in nodes if node.running])
                number += 1
                document_id = f"doc{rng.randrange(4)}"
                await node.collection().upsert(
                    {"_id": document_id, rng.choice("xyz"): number, node.name: number}
                )
                wrote.setdefault(document_id, {})[node.name] = number

            async def link() -> None:
                at = rng.randrange(3)
                if nodes[at].running and nodes[at + 1].running:
                    await nodes[at].connect(nodes[at + 1])

            async def restart(node: DocumentNode, *, old: bool) -> None:
                assert node.path is not None
                await node.stop()
                if old and backups[node.name]:
                    put_back(node, rng.choice(backups[node.name]))
                else:
                    backups[node.name].append(node.path.read_bytes())
                for target in list(node.peers.dialer.targets):
                    await node.peers.dialer.remove(target.url)
                await node.start()
                node.want(InterestEntry("cars"))

            for _ in range(60):
                match rng.randrange(10):
                    case 0:
                        await restart(rng.choice(nodes), old=False)
                    case 1 if nodes[0].running:
                        await restart(nodes[0], old=True)
                    case 2:
                        await link()
                    case 3:
                        await asyncio.sleep(rng.choice([0.01, 1.0, 30.0]))
                    case _:
                        await write()
            for at in range(3):
                await nodes[at].connect(nodes[at + 1])
            await asyncio.sleep(300)
            await world.settle()
            await all_equal(*nodes)
            held = await nodes[0].contents()
            for document_id, values in wrote.items():
                for name, value in values.items():
                    if (
                        name != "a"
                    ):  # what the lives of a have written that no peer had seen is gone with them
                        assert held[document_id][name] == value

    run_virtual(main())
