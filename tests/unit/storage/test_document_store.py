"""The document store, in a file on a thread of its own and in memory on none: the same contract."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pycrdt
import pytest

from mesh.core.commits import Commit
from mesh.core.identity import Identity
from mesh.core.interest import entry_digest
from mesh.core.plans import plan_increment
from mesh.core.sync_effects import Standing
from mesh.core.wire import Change, Changes, InterestEntry, Want
from mesh.errors import (
    DataDirInUse,
    DataDirUnusable,
    DocumentExists,
    DocumentNotFound,
    InvalidDocument,
    MeshError,
    NotStarted,
    StorageFull,
    StoreTooNew,
)
from mesh.storage import documents, finding, indexes, replicas, restored, writes
from mesh.storage.data_dir import DataDir
from mesh.storage.documents import DocumentStore
from mesh.storage.queries import compile_query
from mesh.storage.rows import MAX_QUARANTINE, Rows
from mesh.storage.worker import InlineWorker, ThreadWorker
from tests.unit.edits import edit, plan_merge
from tests.unit.owned_bodies import node_body
from tests.unit.small_disks import small_disk

ROOT = os.getuid() == 0
Make = Callable[[], DocumentStore]


def a_store(path: Path | None, seed: int = 1) -> DocumentStore:
    rng = random.Random(seed)
    if path is None:
        return DocumentStore(None, InlineWorker(), rng=rng, clock=lambda: 1.7e9)
    workers = ThreadWorker("test-store"), ThreadWorker("test-store-read")
    return DocumentStore(path, *workers, rng=rng, clock=lambda: 1.7e9)


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DocumentStore]:
    made = a_store(tmp_path / "store.sqlite" if request.param == "file" else None)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@contextlib.asynccontextmanager
async def opened(path: Path, seed: int = 1) -> AsyncIterator[DocumentStore]:
    made = a_store(path, seed)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def put(document_id: str, fields: dict[str, Any], collection: str = "c") -> Callable[[Rows], bool]:
    return lambda rows: edit(rows, collection, document_id, lambda held: plan_merge(held, fields))


def get(document_id: str, collection: str = "c") -> Callable[[Rows], dict[str, Any] | None]:
    return lambda rows: finding.get(rows, collection, document_id)


def followed(store: DocumentStore) -> list[Commit]:
    seen: list[Commit] = []
    store.follow(seen.extend)
    return seen


# --- reading and writing --------------------------------------------------------------------------


async def test_an_index_is_explained_as_soon_as_it_is_there(store: DocumentStore) -> None:
    query = compile_query({"n": 5})
    for expected in (None, 'c["n"]'):
        plan = await store.read(lambda rows: indexes.explain(rows, "c", query))
        assert plan["index"] == expected
        await store.write(lambda rows: indexes.create(rows, "c", ["n"]))


async def test_what_is_written_is_read(store: DocumentStore) -> None:
    await store.write(put("1", {"a": {"b": 1}, "l": [1, {"x": None}]}))
    assert await store.read(get("1")) == {"_id": "1", "a": {"b": 1}, "l": [1, {"x": None}]}
    assert await store.read(get("2")) is None
    assert await store.read(get("1", "other")) is None
    assert await store.read(lambda rows: finding.count(rows, "c")) == 1
    assert store.documents == 1


async def test_ids_that_are_strange_are_still_ids(store: DocumentStore) -> None:
    strange = ["a\0b", "a", "é", "e\u0301", " ", "%", "'", "a/b", "x" * 512]
    for document_id in strange:
        await store.write(put(document_id, {"me": document_id}))
    for document_id in strange:
        found = await store.read(get(document_id))
        assert found == {"_id": document_id, "me": document_id}
    assert {d["_id"] for d in await store.read(lambda rows: finding.find(rows, "c"))} == set(strange)


async def test_a_field_cannot_pass_for_the_id(store: DocumentStore) -> None:
    await store.write(put("1", {"n": 1}))
    row = await store.read(lambda rows: rows.get("c", "1"))
    assert row is not None
    doc_with_id = writes_of({"/_id": "forged", "/_id/x": 1, "+0.c/_id": 5, "/n": 2})
    frame = Changes(1, 0, 0, [Change("c", "1", (1, 0), {}, {b"evilevil": 1}, doc_with_id)])
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", frame))
    assert await store.read(get("1")) == {"_id": "1", "n": 2}
    assert await store.read(lambda rows: finding.find(rows, "c")) == [{"_id": "1", "n": 2}]


def writes_of(registers: dict[str, Any]) -> bytes:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=99)
    doc.get("doc", type=pycrdt.Map).update(registers)
    return doc.get_update()


async def test_followers_are_told_in_order_before_the_writer_goes_on(store: DocumentStore) -> None:
    seen = followed(store)
    await store.write(put("1", {"n": 1}))
    assert [(c.seq, c.before, c.after) for c in seen] == [(1, None, {"_id": "1", "n": 1})]
    await store.write(put("1", {"n": 2}))
    await store.write(lambda rows: writes.remove(rows, "c", ["1", "no such"]))
    assert [(c.seq, c.before, c.after) for c in seen[1:]] == [
        (2, {"_id": "1", "n": 1}, {"_id": "1", "n": 2}),
        (3, {"_id": "1", "n": 2}, None),
    ]
    assert store.head == 3
    assert store.documents == 0


async def test_writes_that_change_nothing_are_nothing(store: DocumentStore) -> None:
    await store.write(put("1", {"n": 1}))
    seen = followed(store)
    assert await store.write(put("1", {"n": 1})) is False
    assert await store.write(lambda rows: writes.remove(rows, "c", ["2"])) == 0
    assert seen == []
    assert store.head == 1


async def test_a_follower_that_fails_harms_nobody(
    store: DocumentStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(commits: list[Commit]) -> None:
        raise RuntimeError("oops")

    store.follow(fails)
    seen = followed(store)
    await store.write(put("1", {"n": 1}))
    assert len(seen) == 1
    assert "a follower of the store failed" in caplog.text


# --- group commit ---------------------------------------------------------------------------------


async def test_a_job_that_fails_takes_nothing_with_it(store: DocumentStore) -> None:
    seen = followed(store)

    def half(rows: Rows) -> None:
        put("half", {"n": 1})(rows)
        writes.remove(rows, "c", ["0"])
        raise KeyError("mine")

    def broken_sql(rows: Rows) -> None:
        put("half", {"n": 2})(rows)
        rows.connection.execute("INSERT INTO no_such_table VALUES (1)")

    jobs: list[Callable[[Rows], Any]] = [put("0", {"n": 0})]
    for i in range(1, 6):
        jobs += [put(str(i), {"n": i}), half, broken_sql]
    results = await asyncio.gather(*[store.write(job) for job in jobs], return_exceptions=True)
    assert [type(result) for result in results] == [bool] + [bool, KeyError, MeshError] * 5
    assert await store.read(get("half")) is None
    assert [c.change.id for c in seen] == list("012345")
    # Positions and ticks have no gaps: what failed has not used them up.
    assert [c.seq for c in seen] == list(range(1, 7))
    assert [list(c.change.until.values()) for c in seen] == [[n] for n in range(1, 7)]
    await store.write(put("6", {"n": 6}))
    assert seen[-1].seq == 7
    assert list(seen[-1].change.until.values()) == [7]


async def test_jobs_that_wait_together_are_committed_together(path: Path) -> None:
    async with opened(path) as store:
        batches: list[int] = []
        store.follow(lambda commits: batches.append(len(commits)))
        await asyncio.gather(*[store.write(put(str(i), {"n": i})) for i in range(300)])
        assert sum(batches) == 300
        assert len(batches) <= 3


async def test_a_writer_that_gives_up_leaves_the_others_alone(store: DocumentStore) -> None:
    jobs = [asyncio.create_task(store.write(put(str(i), {"n": i}))) for i in range(10)]
    await asyncio.sleep(0)
    for job in jobs[::2]:
        job.cancel()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [r for r in results if r is True] == [True] * 5
    for i in range(1, 10, 2):
        assert await store.read(get(str(i))) is not None


async def test_a_commit_that_fails_is_undone_in_memory_too(store: DocumentStore) -> None:
    await store.write(put("1", {"n": 1}))
    seen = followed(store)
    big = "x" * 60_000

    def fill(rows: Rows) -> None:
        rows.connection.execute("PRAGMA max_page_count = 100")
        for i in range(20):
            put(f"big{i}", {"big": big})(rows)

    with pytest.raises(StorageFull):
        await store.write(fill)
    assert seen == []
    assert store.head == 1
    assert store.documents == 1
    assert await store.read(get("big0")) is None
    assert await store.read(get("1")) == {"_id": "1", "n": 1}

    def free(rows: Rows) -> None:
        rows.connection.execute("PRAGMA max_page_count = 1000000")

    await store.write(free)
    await store.write(fill_later())
    assert seen[-1].seq == 2
    assert list(seen[-1].change.until.values()) == [2]


def fill_later() -> Callable[[Rows], bool]:
    return put("2", {"n": 2})


async def test_errors_of_jobs_are_the_writers(store: DocumentStore) -> None:
    await store.write(put("1", {"n": "text"}))
    with pytest.raises(DocumentExists) as exists:
        await store.write(lambda rows: edit(rows, "c", "1", lambda held: plan_merge(held, {}), exists=False))
    assert (exists.value.collection, exists.value.document_id) == ("c", "1")
    with pytest.raises(DocumentNotFound):
        await store.write(lambda rows: edit(rows, "c", "2", lambda held: plan_merge(held, {}), exists=True))
    with pytest.raises(InvalidDocument):
        await store.write(lambda rows: edit(rows, "c", "1", lambda held: plan_increment(held, "/n", 1, "x")))
    assert store.head == 1


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    for path in (None, tmp_path / "store.sqlite"):
        made = a_store(path)
        for use in (made.write, made.read):
            with pytest.raises(NotStarted):
                await use(put("1", {}))
        await made.open()
        await made.close()
        await made.close()
        for use in (made.write, made.read):
            with pytest.raises(NotStarted):
                await use(put("1", {}))


async def test_closing_finishes_what_was_asked_for(path: Path) -> None:
    made = a_store(path)
    await made.open()
    jobs = [asyncio.create_task(made.write(put(str(i), {"n": i}))) for i in range(50)]
    await asyncio.sleep(0)
    await made.close()
    assert await asyncio.gather(*jobs) == [True] * 50
    async with opened(path) as again:
        assert again.documents == 50


async def test_closing_leaves_nothing_behind(path: Path) -> None:
    def handles() -> list[str]:
        found = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
        return [name for name in found if str(path.parent) in name]

    async with opened(path) as store:
        await store.write(put("1", {"n": 1}))
        assert handles()
    assert handles() == []
    assert not [thread for thread in threading.enumerate() if "test-store" in thread.name]
    assert not path.with_name(path.name + "-wal").exists()


# --- restarts, crashes and copies -----------------------------------------------------------------


async def test_a_restart_goes_on_where_it_stopped(path: Path) -> None:
    async with opened(path, seed=1) as store:
        await store.write(put("1", {"n": 1}))
        await store.write(lambda rows: documents.remember_subscription(rows, "s", "c", {"a": 1}))
        log_id = store.log_id
        clock = await store.write(lambda rows: rows.lineage.clock)
    async with opened(path, seed=2) as store:
        seen = followed(store)
        assert (store.log_id, store.documents) == (log_id, 1)
        head = store.head
        assert head > 1, "a gap after every start gives away a backup that is put back"
        assert await store.write(lambda rows: rows.lineage.clock) == clock
        assert await store.read(documents.subscriptions) == [("s", "c", {"a": 1})]
        await store.write(put("1", {"n": 2}))
        assert seen[0].change.until == {clock: head + 1}
        assert seen[0].seq == head + 1


CRASH = """
    import asyncio, random, sys
    from pathlib import Path
    from mesh.core.plans import merge_registers
    from mesh.storage.data_dir import DataDir
    from mesh.storage.documents import DocumentStore
    from mesh.storage.worker import ThreadWorker
    from mesh.storage.writes import Edit

    async def main(home):
        directory = DataDir(home)
        directory.open()
        worker, rng = ThreadWorker("s"), random.SystemRandom()
        store = DocumentStore(directory.store, worker, rng=rng, clock=lambda: 0.0)
        await store.open()

        async def write(i):
            await store.write(Edit("c", str(i), merge_registers, {"/n": i}))
            print(i, flush=True)

        i = 0
        while True:
            await asyncio.gather(*[write(i + k) for k in range(5)])
            i += 5

    asyncio.run(main(Path(sys.argv[1])))
"""


@contextlib.contextmanager
def crashing_process(home: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CRASH), str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_what_was_acknowledged_survives_kill_9_and_the_lock_is_free(tmp_path: Path) -> None:
    home = tmp_path / "home"
    directory = DataDir(home)
    with crashing_process(home) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(100)]
        with pytest.raises(DataDirInUse) as caught:
            directory.open()
        assert caught.value.path == str(home)
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split()]
    directory.open()
    async with opened(directory.store) as store:
        seen = followed(store)
        for i in acknowledged:
            assert await store.read(get(str(i))) == {"_id": str(i), "n": i}
        assert store.documents >= len(acknowledged)
        clock = await store.write(lambda rows: rows.lineage.clock)
        assert seen == []
        last = await store.read(
            lambda rows: rows.connection.execute("SELECT max(seq) FROM documents").fetchone()[0]
        )
        assert last == store.documents < store.head, "numbers go on after the last one that was given"
        await store.write(put("after", {}))
        assert seen[0].change.until == {clock: store.head}
    directory.close()


def test_the_lock_is_for_one_and_can_be_taken_again(tmp_path: Path) -> None:
    one, two = DataDir(tmp_path / "deep" / "home"), DataDir(tmp_path / "deep" / "home")
    one.open()
    assert (one.path.stat().st_mode & 0o777) == 0o700
    with pytest.raises(DataDirInUse):
        two.open()
    one.close()
    one.close()
    two.open()
    two.close()


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirUnusable) as caught:
        DataDir(tmp_path / "file").open()
    assert caught.value.path == str(tmp_path / "file")
    with pytest.raises(DataDirUnusable):
        DataDir(tmp_path / "file" / "below").open()


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_read_only_directory_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    with pytest.raises(DataDirUnusable):
        DataDir(tmp_path / "home").open()


async def test_a_file_that_cannot_be_opened_is_unusable(tmp_path: Path) -> None:
    made = a_store(tmp_path / "no" / "such" / "store.sqlite")
    with pytest.raises(DataDirUnusable):
        await made.open()


async def test_a_copy_is_another_store(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    async with opened(home / "store.sqlite") as store:
        seen = followed(store)
        await store.write(put("1", {"n": 1}))
        await store.write(lambda rows: replicas.save_position(rows, "peer", b"log", [b"entry"], 5))
        original = (store.log_id, await store.write(lambda rows: rows.lineage.clock))
        client_id = await store.read(lambda rows: rows.get("c", "1").client_id)  # type: ignore[union-attr]
        assert client_id is not None
    shutil.copytree(home, copy)
    async with opened(copy / "store.sqlite", seed=2) as store:
        seen = followed(store)
        clock = await store.write(lambda rows: rows.lineage.clock)
        assert (store.log_id, clock) != original
        assert store.log_id != original[0]
        assert clock != original[1]
        assert store.documents == 1
        await store.write(put("1", {"n": 2}))
        assert seen[0].change.until == {original[1]: 1, clock: store.head}
        assert await store.read(lambda rows: rows.get("c", "1").client_id) != client_id  # type: ignore[union-attr]
        assert seen[0].seq > 1, "places in the log are not used twice"
    async with opened(home / "store.sqlite") as store:
        assert store.log_id == original[0], "the original is what it was"


async def test_a_backup_put_back_is_noticed_when_a_peer_knows_more_of_it(path: Path) -> None:
    async with opened(path) as store:
        await store.write(put("1", {"n": 1}))
        log_id, clock = store.log_id, await store.write(lambda rows: rows.lineage.clock)
    async with opened(path) as store:
        seen = followed(store)
        newer = Change("c", "2", (0, 0), {}, {clock: 7}, writes_of({"/n": 7}))
        await store.write(lambda rows: replicas.apply_frame(rows, "peer", Changes(1, 0, 0, [newer])))
        assert store.log_id != log_id
        await store.write(put("1", {"n": 2}))
        fresh = await store.write(lambda rows: rows.lineage.clock)
        assert fresh != clock
        # What it had written was written anew, as by another, and so was this.
        assert seen[-1].change.until == {fresh: store.head}
        log_id = store.log_id
    async with opened(path) as store:
        assert store.log_id == log_id
        assert await store.write(lambda rows: rows.lineage.clock) == fresh


async def test_a_new_identity_is_forgotten_with_the_job_that_brought_it(store: DocumentStore) -> None:
    await store.write(put("1", {"n": 1}))
    log_id, clock = store.log_id, await store.write(lambda rows: rows.lineage.clock)

    def job(rows: Rows) -> None:
        restored.meet(rows, {clock: 50})
        raise KeyError("no")

    with pytest.raises(KeyError):
        await store.write(job)
    seen = followed(store)
    await store.write(put("1", {"n": 2}))
    assert store.log_id == log_id
    assert seen[0].change.until == {clock: 2}


# --- files that are no stores ---------------------------------------------------------------------


async def refused(path: Path, error: type[Exception]) -> Any:
    made = a_store(path)
    with pytest.raises(error) as caught:
        await made.open()
    assert not [thread for thread in threading.enumerate() if "test-store" in thread.name]
    return caught.value


async def test_a_newer_store_is_refused_and_left_alone(path: Path) -> None:
    async with opened(path) as store:
        await store.write(put("1", {"n": 1}))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(_sqlite_migrations)")]
    known = connection.execute("SELECT * FROM _sqlite_migrations").fetchone()
    newer = [
        "m999_future" if name == "name" else 999 if name == "id" else v
        for name, v in zip(columns, known, strict=True)
    ]
    connection.execute(f"INSERT INTO _sqlite_migrations VALUES ({','.join('?' * len(newer))})", newer)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    error = await refused(path, StoreTooNew)
    assert error.unknown == ["m999_future"]
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


async def test_a_full_disk_is_an_error_with_a_name_and_passes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        await fill_and_make_room(disk)


async def fill_and_make_room(disk: Path) -> None:
    path = disk / "store.sqlite"
    async with opened(path) as store:
        seen = followed(store)
        await store.write(put("first", {"n": 1}))
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - 200_000))
        writing = [store.write(put(f"more{i}", {"text": "x" * 20_000})) for i in range(100)]
        with pytest.raises(StorageFull) as caught:
            await asyncio.gather(*writing)
        assert caught.value.path == str(path)
        with pytest.raises(StorageFull):
            await store.write(put("large", {"text": "x" * 500_000}))
        written = store.head
        assert await store.read(get("first")) == {"_id": "first", "n": 1}
        ballast.unlink()
        await store.write(put("last", {"n": 2}))
        assert seen[-1].seq == written + 1 == sum(seen[-1].change.until.values())
    async with opened(path) as store:
        assert store.documents == written + 1


# --- what arrives from peers ----------------------------------------------------------------------


async def test_one_bad_change_does_not_hold_up_a_frame(
    store: DocumentStore, caplog: pytest.LogCaptureFixture
) -> None:
    good = writes_of({"/n": 1})
    clock = b"peerpeer"
    frame = Changes(
        1,
        0,
        0,
        [
            Change("c", "good1", (0, 0), {}, {clock: 1}, good),
            Change("c", "malformed", (0, 0), {}, {clock: 2}, b"junk"),
            Change("c", "x" * 600, (0, 0), {}, {clock: 3}, good),
            Change("bad name", "1", (0, 0), {}, {clock: 4}, good),
            Change("c", "rank", (-1, 0), {}, {clock: 5}, good),
            Change("c", "rank", (2**63, 0), {}, {clock: 5}, good),
            Change("c", "rank", (0, 2), {}, {clock: 5}, good),
            Change("c", "clock", (0, 0), {}, {b"short": 5}, good),
            Change("c", "clock", (0, 0), {}, {clock: 2**63}, good),
            Change("c", "clock", (0, 0), {}, {clock: 0}, good),
            Change("c", "clocks", (0, 0), {}, {i.to_bytes(8, "big"): 1 for i in range(5000)}, good),
            Change("nodes", "forged", (0, 1), {}, {clock: 6}, good),
            Change("c", "good2", (0, 0), {}, {clock: 7}, good),
            Change("c", "lacking", (0, 0), {clock: 7}, {clock: 8}, good),
        ],
    )
    wants = await store.write(lambda rows: replicas.apply_frame(rows, "peer", frame))
    assert [(want.collection, want.id) for want in wants] == [("c", "lacking")]
    assert [d["_id"] for d in await store.read(lambda rows: finding.find(rows, "c"))] == ["good1", "good2"]
    refused_ids = await store.read(
        lambda rows: [i for (i,) in rows.connection.execute("SELECT id FROM quarantine ORDER BY rowid")]
    )
    assert set(refused_ids) >= {"malformed", "1", "rank", "clock", "clocks", "forged"}
    assert caplog.text.count("refused") == 11


@pytest.mark.limit("storage.rows.MAX_QUARANTINE")
async def test_quarantine_is_bounded(store: DocumentStore) -> None:
    changes = [
        Change("c", str(i), (0, 0), {}, {b"peerpeer": i + 1}, b"junk") for i in range(MAX_QUARANTINE + 200)
    ]
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", Changes(1, 0, 0, changes)))
    count, newest = await store.read(
        lambda rows: rows.connection.execute(
            "SELECT count(*), max(id) FROM quarantine WHERE id LIKE '1199'"
        ).fetchone()
    )
    assert (count, newest) == (1, "1199")
    total = await store.read(
        lambda rows: rows.connection.execute("SELECT count(*) FROM quarantine").fetchone()[0]
    )
    assert total == MAX_QUARANTINE


async def test_what_a_peer_is_known_to_hold(store: DocumentStore) -> None:
    update = writes_of({"/n": 1})
    arrived = Change("c", "1", (0, 0), {}, {b"peerpeer": 1}, update)
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", Changes(1, 0, 0, [arrived])))
    await store.write(put("2", {"mine": 1}))
    theirs = Change("c", "2", (0, 0), {}, {b"peerpeer": 2}, update)
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", Changes(2, 0, 0, [theirs])))
    assert await store.read(lambda rows: rows.get("c", "1").source) == "peer"  # type: ignore[union-attr]
    assert await store.read(lambda rows: rows.get("c", "2").source) is None  # type: ignore[union-attr]


def own_record(me: Identity, n: int, rows: Rows) -> bool:
    return writes.write_record(rows, me, "nodes", me.node_id, node_body(n=n))


async def test_own_records_met_at_a_peer_are_adopted(store: DocumentStore) -> None:
    me = Identity(b"1" * 32)
    earlier = a_store(None, seed=5)
    await earlier.open()
    sent = followed(earlier)
    for n in range(3):
        await earlier.write(partial(own_record, me, n))
    await earlier.close()
    # This life has written before it meets what the earlier one has written.
    await store.write(partial(own_record, me, 50))
    assert not await store.write(partial(own_record, me, 50))
    frame = Changes(1, 0, 0, [commit.change for commit in sent])
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", frame))
    seen = followed(store)
    await store.write(partial(own_record, me, 51))
    await store.write(partial(own_record, me, 52))
    assert [commit.change.rank for commit in seen] == [(1, 1), (1, 2)]
    # What the earlier life goes on to say changes nothing, nor does it make this one start over.
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", frame))
    await store.write(partial(own_record, me, 53))
    assert seen[-1].change.rank == (1, 3)


async def test_relays_pass_on_what_they_verified(store: DocumentStore) -> None:
    me = Identity(b"1" * 32)
    origin = a_store(None, seed=5)
    await origin.open()
    sent = followed(origin)
    await origin.write(partial(own_record, me, 1))
    await origin.close()
    seen = followed(store)
    [commit] = sent
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=77)
    root = doc.get("doc", type=pycrdt.Map)
    doc.apply_update(commit.change.update)
    root["rider"] = "x" * 1000
    wrapped = Change("nodes", me.node_id, commit.change.rank, {}, commit.change.until, doc.get_update())
    await store.write(lambda rows: replicas.apply_frame(rows, "peer", Changes(1, 0, 0, [wrapped])))
    assert seen[0].change == commit.change


async def test_evicting_forgets_the_document_and_what_is_held_up_to_where(store: DocumentStore) -> None:
    await store.write(put("1", {"n": 1}))
    entry = InterestEntry("c")
    await store.write(lambda rows: replicas.save_position(rows, "peer", b"log", [entry_digest(entry)], 5))
    [standing] = await store.read(lambda rows: replicas.read_standings(rows, "peer", [entry]))
    assert (standing.log_id, standing.after, standing.empty) == (b"log", 5, False)
    seen = followed(store)
    assert await store.write(lambda rows: writes.evict(rows, "c", ["1", "2"])) == 1
    assert seen[0].evicted
    assert await store.read(get("1")) is None
    [standing] = await store.read(lambda rows: replicas.read_standings(rows, "peer", [entry]))
    assert (standing.log_id, standing.after, standing.empty) == (b"", 0, True)
    # What is inserted again is a copy of its own, under a Yjs client id of its own.
    await store.write(put("1", {"n": 2}))
    assert seen[-1].change.rank == (0, 0)


async def test_entries_that_have_reached_one_position_are_resumed_together(store: DocumentStore) -> None:
    await store.write(put("1", {"n": 1}))
    reached, empty = InterestEntry("c"), InterestEntry("none")
    held, unheard = InterestEntry("c", {"n": 1}), InterestEntry("new")
    digests = [entry_digest(reached), entry_digest(empty)]
    await store.write(lambda rows: replicas.save_position(rows, "peer", b"log", digests, 5))
    entries = [reached, held, empty, unheard]
    assert await store.read(lambda rows: replicas.read_standings(rows, "peer", entries)) == [
        Standing(b"log", 5, False, [reached, empty]),
        Standing(b"", 0, False, [held]),
        Standing(b"", 0, True, [unheard]),
    ]


async def test_pages_are_bounded_in_bytes(store: DocumentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        await store.write(put(str(i), {"text": "x" * 300_000}))
    wants = [Want("c", str(i), (-1, 0), {}, b"\0") for i in range(8)]
    found = await store.read(lambda rows: replicas.read_wanted(rows, wants, []))
    assert found.done == len(found.changes) == 2
    pulled = [1, 2, 99, 3, 4, 5, 6]
    rest = await store.read(lambda rows: replicas.read_wanted(rows, [], pulled))
    assert (rest.done, len(rest.changes), len(rest.offers)) == (7, 0, 6)  # too large to be sent unasked
    monkeypatch.setattr(replicas, "SMALL_DOCUMENT_BYTES", 1 << 20)
    rest = await store.read(lambda rows: replicas.read_wanted(rows, [], pulled))
    assert (rest.done, len(rest.changes), len(rest.offers)) == (2, 2, 0)
