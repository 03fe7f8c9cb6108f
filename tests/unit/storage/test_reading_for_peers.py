"""What is read for a peer: keys to be compared, and pages of the log, in the order that costs least."""

from __future__ import annotations

import random
from functools import partial

import pytest

from mesh.core.interest import InterestSet
from mesh.core.versions import key_hash
from mesh.core.wire import InterestEntry
from mesh.storage import replicas
from mesh.storage.rows import Rows
from tests.unit.edits import edit, plan_merge
from tests.unit.tables import open_tables

MANY, FEW = 300, 5
ALONG_LOG = "SEARCH documents USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
LOOKED_UP = "SEARCH documents USING INTEGER PRIMARY KEY (rowid=?)"
BY_COLLECTION = "SEARCH documents USING INDEX idx_documents_collection_id (collection=?)"


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Two collections, written in turns; the one is nearly all that is held, the other next to nothing."""
    rows = Rows(open_tables(), random.Random(1), lambda: 1.7e9, "")
    for n in range(MANY):
        edit(rows, "many", f"m{n}", partial(plan_merge, fields={"n": n}))
        if n % (MANY // FEW) == 0:
            edit(rows, "few", f"f{n}", partial(plan_merge, fields={"n": n}))
    return rows


@pytest.mark.parametrize(("collection", "prefix", "step"), [("many", "m", 1), ("few", "f", MANY // FEW)])
def test_they_are_the_same_however_they_are_read(rows: Rows, collection: str, prefix: str, step: int) -> None:
    keys = replicas.key_set(rows, InterestSet([InterestEntry(collection)]))
    expected = sorted(key_hash(collection, f"{prefix}{n}") for n in range(0, MANY, step))
    assert [keys.key(i) for i in range(len(keys))] == expected

    half = replicas.key_set(rows, InterestSet([InterestEntry(collection, {"n": {"$lt": MANY // 2}})]))
    expected = sorted(key_hash(collection, f"{prefix}{n}") for n in range(0, MANY // 2, step))
    assert [half.key(i) for i in range(len(half))] == expected
    assert half.others == len(keys) - len(half)
    for i in range(len(half)):
        assert half.position(i) == keys.position_of(half.key(i))


@pytest.mark.parametrize(("collection", "how"), [("many", "SCAN documents"), ("few", BY_COLLECTION)])
def test_what_is_most_of_all_is_read_in_the_order_of_the_table(rows: Rows, collection: str, how: str) -> None:
    queries: list[str] = []
    rows.connection.set_trace_callback(queries.append)
    replicas.key_set(rows, InterestSet([InterestEntry(collection)]))
    rows.connection.set_trace_callback(None)
    plan = rows.connection.execute(f"EXPLAIN QUERY PLAN {queries[-1]}").fetchall()
    assert plan[0][3].startswith(how)


@pytest.mark.parametrize(
    ("collection", "last", "how"),
    [("many", MANY, ALONG_LOG), ("many", 10, ALONG_LOG), ("few", MANY, LOOKED_UP), ("few", 10, ALONG_LOG)],
)
def test_a_page_is_read_along_the_log_unless_few_are_wanted_of_much(
    rows: Rows, collection: str, last: int, how: str
) -> None:
    after, until = max(0, rows.lineage.seq - last), rows.lineage.seq
    queries: list[str] = []
    rows.connection.set_trace_callback(queries.append)
    page = replicas.read_log(rows, "peer", after, until, 500, InterestSet([InterestEntry(collection)]))
    rows.connection.set_trace_callback(None)
    query = next(query for query in queries if "ORDER BY seq" in query and "json" in query)
    assert rows.connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()[0][3] == how
    expected = rows.connection.execute(
        "SELECT seq FROM documents WHERE seq > ? AND collection = ? ORDER BY seq", (after, collection)
    ).fetchall()
    assert [(entry.seq,) for entry in page[0]] == expected
    assert page[1] == until


def test_a_page_passes_over_so_much_of_the_log_and_the_next_one_goes_on(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "MAX_PASSED", 50)
    monkeypatch.setattr(replicas, "FEW_DOCUMENTS", 0)
    interest = InterestSet([InterestEntry("few")])
    after, end, found = 0, rows.lineage.seq, 0
    while after < end:
        entries, upto, _ = replicas.read_log(rows, "peer", after, end, 500, interest)
        assert upto == min(after + 50, end)
        after, found = upto, found + len(entries)
    assert found == FEW
