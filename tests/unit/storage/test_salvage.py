"""Damaged stores: noticed when they are opened, rebuilt with what can be read, and filled up by peers."""

from __future__ import annotations

import random
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh.core.certificates import grant_of, issue, revoke
from mesh.core.identity import Identity
from mesh.core.wire import Change, InterestEntry
from mesh.errors import StoreCorrupt
from mesh.storage import documents, finding, graves, indexes, membership, salvage, writes
from mesh.storage.data_dir import DataDir
from mesh.storage.documents import DocumentStore
from mesh.storage.identity import load_or_create_identity
from mesh.storage.lineage import ERA_BYTES
from mesh.storage.rows import Rows
from mesh.storage.worker import InlineWorker
from tests.simulation.virtual_clock import run_virtual
from tests.unit.collections.mesh_of_stores import DocumentNode, mesh_of_stores
from tests.unit.edits import edit, plan_merge
from tests.unit.owned_bodies import node_body

PAGE = 4096
NOW = 1.7e9


def a_store(path: Path, seed: int = 1) -> DocumentStore:
    return DocumentStore(path, InlineWorker(), rng=random.Random(seed), clock=lambda: NOW)


def fill(rows: Rows, numbers: range) -> None:
    for n in numbers:
        fields = {"n": n, "text": f"{n} " * random.Random(n).randrange(1, 80), "a": {"b": [n, None, 1.5]}}
        edit(rows, "c", f"doc{n}", partial(plan_merge, fields=fields))


async def filled(path: Path, count: int) -> dict[str, Any]:
    """Make a store; what is in it."""
    store = a_store(path)
    await store.open()
    for start in range(0, count, 500):
        await store.write(partial(fill, numbers=range(start, min(count, start + 500))))
    me = Identity(b"1" * 32)
    await store.write(lambda rows: writes.write_record(rows, me, "nodes", me.node_id, node_body(n=1)))
    await store.write(lambda rows: writes.remove(rows, "c", ["doc0"]))
    await store.write(lambda rows: documents.remember_subscription(rows, "s", "c", {"n": {"$gt": 1}}))
    held = await contents(store)
    await store.close()
    return held


async def contents(store: DocumentStore) -> dict[str, Any]:
    return {d["_id"]: d for name in ("c", "nodes") for d in await store.read(lambda r: finding.find(r, name))}  # noqa: B023


def damaged(path: Path, page: int, junk: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[page * PAGE : page * PAGE + len(junk)] = junk
    path.write_bytes(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def kept(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.damaged-*"))


async def test_whatever_page_is_damaged_the_rest_is_there(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = await filled(path, 600)
    whole = path.read_bytes()
    log_id, clock = identity(path)
    for page in range(0, len(whole) // PAGE, 11):
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(whole)
        damaged(path, page, random.Random(page).randbytes(PAGE))
        before = path.read_bytes()
        caplog.clear()
        store = a_store(path, seed=2)
        await store.open()
        found = await contents(store)
        assert all(held[document_id] == document for document_id, document in found.items())
        assert store.documents == len(found)
        if store.rebuilt is None:
            assert found.keys() == held.keys(), page
        else:
            assert store.rebuilt.kept_as == kept(path)[0]
            assert kept(path)[0].name == "store.sqlite.damaged-20231114T221320Z"
            assert kept(path)[0].read_bytes() == before
            assert "was damaged" in caplog.text
            assert str(kept(path)[0]) in caplog.text
            assert store.log_id != log_id
            assert not (await store.read(lambda rows: rows.lineage.clock)).startswith(clock[:-ERA_BYTES])
            assert await store.write(lambda rows: edit(rows, "c", "new", lambda r: plan_merge(r, {})))
        await store.close()
        if page > len(whole) // PAGE // 2 and store.rebuilt is not None:  # a leaf, very likely
            assert len(found) > len(held) * 0.8


def identity(path: Path) -> tuple[bytes, bytes]:
    connection = sqlite3.connect(path)
    log_id, clock = connection.execute("SELECT log_id, clock FROM store").fetchone()
    connection.close()
    return log_id, clock


async def test_what_was_written_here_and_subscribed_to_is_carried_over(path: Path) -> None:
    held = await filled(path, 600)
    pages = path.stat().st_size // PAGE
    damaged(path, pages - 3, b"\xff" * PAGE)
    store = a_store(path, seed=2)
    await store.open()
    assert store.rebuilt is not None
    assert store.rebuilt.documents >= len(await contents(store)) > 0.9 * len(held)
    assert await store.read(documents.subscriptions) == [("s", "c", {"n": {"$gt": 1}})]
    row = await store.read(lambda rows: rows.get("c", "doc0"))
    assert row is None or row.state.dead, "what was removed does not come back"
    assert not [p.name for p in path.parent.iterdir() if "rebuilding" in p.name]
    await store.close()
    again = a_store(path, seed=3)
    await again.open()
    assert again.rebuilt is None
    await again.close()


@pytest.mark.parametrize(
    "content", [b"this is no database, but a text that is long enough" * 100, b"\0" * 8192, b"short"]
)
async def test_a_file_that_is_no_database_is_put_aside(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    store = a_store(path)
    await store.open()
    assert store.rebuilt is not None
    assert (store.documents, store.rebuilt.documents) == (0, 0)
    assert kept(path)[0].read_bytes() == content
    await store.write(partial(fill, numbers=range(3)))
    await store.close()
    path.write_bytes(content)
    again = a_store(path)
    await again.open()
    await again.close()
    assert [p.name[-2:] for p in kept(path)] == ["0Z", "-2"], "what was put aside before is left alone"


async def test_a_truncated_store_is_rebuilt(path: Path) -> None:
    held = await filled(path, 600)
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * part) // PAGE * PAGE])
        before = path.read_bytes()
        store = a_store(path)
        await store.open()
        found = await contents(store)
        assert store.rebuilt is not None
        assert all(held[document_id] == document for document_id, document in found.items())
        assert len(found) > len(held) * (part - 0.2)
        await store.close()
        assert kept(path)[-1].read_bytes() == before
        assert not list(path.parent.glob("*rebuilding*"))


async def test_a_store_that_is_gone_is_missed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = DataDir(path.parent)
    assert not folder.lost_its_store()
    await filled(path, 10)
    load_or_create_identity(folder.identity)
    assert not folder.lost_its_store()
    for content in (None, b"", b"S"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert folder.lost_its_store()
        store = DocumentStore(path, InlineWorker(), lost=True, rng=random.Random(1), clock=lambda: NOW)
        await store.open()
        assert store.rebuilt is not None
        assert store.rebuilt.kept_as is None
        assert "begins again with no documents" in caplog.text
        await store.close()
        assert not folder.lost_its_store()
        caplog.clear()


async def test_rows_that_are_not_what_was_written_are_not_believed(path: Path) -> None:
    await filled(path, 50)
    connection = sqlite3.connect(path)
    for n, change in enumerate(
        [
            "json = json_set(json, '$.n', 77)",
            "json = 'no json'",
            "json = NULL",
            "state = x'0102'",
            "vector = x'80'",
            "rank_major = 5",
            "collection = 'other'",
            "id = 'another'",
            "state = (SELECT state FROM documents WHERE id = 'doc40')",
            "key_hash = 1",
            "json = x'ff00ff'",
        ]
    ):
        connection.execute(f"UPDATE documents SET {change} WHERE id = 'doc{n + 1}'")
    connection.commit()
    connection.close()
    rebuilt = salvage.rebuild(path, "for the test", random.Random(2), lambda: NOW)
    assert rebuilt.refused == 11
    store = a_store(path)
    await store.open()
    assert sorted(await contents(store)) == sorted(
        [f"doc{n}" for n in range(12, 50)] + [Identity(b"1" * 32).node_id]
    )
    await store.close()


async def test_damage_that_is_met_while_running_says_what_to_do(path: Path) -> None:
    await filled(path, 600)
    store = a_store(path)
    await store.open()
    await store.write(lambda rows: rows.connection.execute("PRAGMA cache_size=0").fetchall())
    await store.write(lambda rows: rows.connection.execute("PRAGMA shrink_memory").fetchall())
    for page in range(3, path.stat().st_size // PAGE):
        with path.open("r+b") as file:
            file.seek(page * PAGE)
            file.write(b"\xff" * PAGE)
    with pytest.raises(StoreCorrupt, match="restart the node to rebuild"):
        await contents(store)
    await store.close()


def test_a_node_with_a_damaged_store_is_filled_up_by_its_peer(tmp_path: Path) -> None:
    async def cut(node: DocumentNode, rng: random.Random) -> bool:
        """Damage a page of a stopped node's file, and start it again; whether that was noticed."""
        assert node.path is not None
        pages = node.path.stat().st_size // PAGE
        damaged(node.path, rng.randrange(pages), rng.randbytes(rng.choice([64, PAGE])))
        await node.start()
        assert all("n" in document for document in (await node.contents("c")).values())
        return node.store.rebuilt is not None

    async def main() -> None:
        rng = random.Random(7)
        async with mesh_of_stores(folder=tmp_path) as world:
            a, b = await world.add("a"), await world.add("b")
            for start in range(0, 2000, 500):
                await a.store.write(partial(fill, numbers=range(start, start + 500)))
            for node in (a, b):
                node.want(InterestEntry("c"))
            await b.connect(a)
            await world.settle()
            noticed = 0
            for _ in range(20):
                await a.stop()
                noticed += await cut(a, rng)
                a.want(InterestEntry("c"))
                await a.collection("c").upsert({"_id": f"doc{rng.randrange(2000)}", "again": rng.random()})
                await a.connect(b)
                await world.settle()
                held = await versions(a)
                assert len(held) == 2000
                assert held == await versions(b)
            assert noticed > 10

    run_virtual(main())


async def versions(node: DocumentNode) -> dict[str, Any]:
    def job(rows: Rows) -> dict[str, Any]:
        ids = rows.connection.execute("SELECT id FROM documents WHERE collection = 'c'").fetchall()
        held = {document_id: rows.get("c", document_id) for (document_id,) in ids}
        return {
            key: (row.json, row.state.rank, row.state.vector) for key, row in held.items() if row is not None
        }

    return await node.store.read(job)


async def test_what_else_there_was_is_carried_over(path: Path) -> None:
    await filled(path, 300)
    store = a_store(path)
    await store.open()
    gone = Change("c", "bad", (0, 0), {}, {b"12345678": 1}, b"junk")
    root = Identity(b"root".ljust(32))
    admin = issue(root, [], root.public_key, grant_of("admin"), NOW)
    fact = revoke(root, admin, Identity(b"van".ljust(32)).node_id, 1, NOW)

    def job(rows: Rows) -> None:
        indexes.create(rows, "c", ["n", "a.b"])
        graves.bury(rows, NOW + graves.TOMBSTONE_SECONDS)
        rows.quarantine(gone, "peer", "no update")
        membership.remember_revocations(rows, [fact])
        [(raw,)] = rows.connection.execute("SELECT fact FROM revocations").fetchall()
        flipped = raw.replace(root.node_id.encode(), b"\xff" + root.node_id[1:].encode())
        rows.connection.execute("INSERT INTO revocations VALUES ('damaged', ?)", (flipped,))

    await store.write(job)
    await store.close()
    pages = path.stat().st_size // PAGE
    damaged(path, pages // 2, random.Random(1).randbytes(PAGE))

    store = a_store(path)
    await store.open()
    assert store.rebuilt is not None
    assert store.rebuilt.at == NOW

    def found(rows: Rows) -> Any:
        row = rows.get("c", "doc0")
        refused = rows.connection.execute("SELECT id, peer FROM quarantine").fetchall()
        declared = list(indexes.declared(rows, "c").values())
        return declared, row and row.buried, refused, membership.revocations(rows)

    assert await store.write(found) == ([("n", "a.b")], True, [("bad", "peer")], [fact])
    [(floor, last)] = await store.read(
        lambda rows: rows.connection.execute(
            "SELECT (SELECT seq FROM store), (SELECT max(seq) FROM graves)"
        ).fetchall()
    )
    assert floor >= last
    await store.close()
