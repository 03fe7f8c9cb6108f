"""What SQLite finds, sorts and cuts is what the evaluator would, with declared indexes and without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mesh.core.selector import compile_selector, projected, sort_key
from mesh.errors import InvalidIndex, InvalidSelector
from mesh.storage import finding, indexes
from mesh.storage.queries import compile_query
from mesh.storage.rows import Rows
from tests.unit.tables import open_tables

KEYS = st.sampled_from(["a", "b", "c.d", "c.e", "_id", "weird key", "o'clock", 'quo"te', "new\nline"])
TEXTS = st.sampled_from(["", "a", "b", "é", "\U0001f600", "\uffff", "a\0b", "1", "[]", "\\u0000"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.sampled_from([0.1, 0.5, 1.5, -2.25, 0.1 + 0.2, 1e300])
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("de"), inner, max_size=2),
    max_leaves=3,
)
COMPARISONS = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), SCALARS, min_size=1, max_size=2
)
LISTS = st.dictionaries(
    st.sampled_from(["$in", "$nin"]), st.lists(VALUES, max_size=3), min_size=1, max_size=2
)
CONDITIONS = st.recursive(
    VALUES
    | COMPARISONS
    | LISTS
    | st.booleans().map(lambda x: {"$exists": x})
    | st.sampled_from(["a", "^b", "é$"]).map(lambda x: {"$regex": x}),
    lambda inner: st.dictionaries(st.sampled_from(["$not", "$elemMatch"]), inner, min_size=1, max_size=1),
    max_leaves=4,
)
SELECTORS = st.recursive(
    st.dictionaries(KEYS, CONDITIONS, max_size=3),
    lambda inner: (
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: pair[1]}
        )
        | inner.map(lambda x: {"$not": x})
    ),
    max_leaves=4,
)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {"_id": st.text("ab\0é\U0001f600", min_size=1, max_size=3)},
        optional={
            "a": VALUES,
            "b": VALUES,
            "c": VALUES,
            "weird key": VALUES,
            "o'clock": VALUES,
            'quo"te': VALUES,
            "new\nline": VALUES,
        },
    ),
    max_size=10,
    unique_by=lambda document: cast(str, document["_id"]),
)
SORTS = st.none() | st.lists(
    KEYS | KEYS.map(lambda key: {key: "desc"}) | KEYS.map(lambda key: {key: "asc"}), max_size=3
)
INDEXES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c.d", "_id", "weird key"]), min_size=1, max_size=3, unique=True),
    max_size=3,
)


@contextmanager
def opened() -> Iterator[Rows]:
    with closing(open_tables()) as connection:
        yield Rows(connection, random.Random(1), lambda: 0.0, "")


def put(rows: Rows, collection: str, documents: list[dict[str, Any]]) -> None:
    """As ``Rows.put`` stores them, but without a CRDT."""
    rows.connection.executemany(
        "INSERT INTO documents(collection, id, json, rank_major, rank_minor, vector, state) "
        "VALUES (?, ?, ?, 0, 0, x'', x'')",
        [(collection, document["_id"], msgspec.json.encode(document).decode()) for document in documents],
    )


@given(
    SELECTORS,
    DOCUMENTS,
    SORTS,
    INDEXES,
    st.integers(0, 3),
    st.none() | st.integers(0, 4),
    st.none() | st.lists(KEYS, max_size=2),
)
@example({"a": {"$not": {"$gt": 1}}}, [{"_id": "x"}, {"_id": "y", "a": None}], None, [["a"]], 0, None, None)
@example({"a": "a"}, [{"_id": "x", "a": "a\0b"}], None, [["a"]], 0, None, None)
@example({"a": {"$gt": "a"}}, [{"_id": "x", "a": "a\0b"}, {"_id": "y", "a": "b"}], ["a"], [], 0, 1, None)
@example({"a": {"$gt": 1}}, [{"_id": "x", "a": 3}, {"_id": "y", "a": 2}], ["a", "b"], [["a"]], 0, 1, None)
@example({"a": None}, [{"_id": "y", "a": None}, {"_id": "x", "a": None}], [{"a": "desc"}], [], 0, None, None)
@example({}, [{"_id": "x", "a": [2]}, {"_id": "y", "a": [10]}], ["a"], [["a"]], 0, 1, None)
@settings(max_examples=300, deadline=None)
def test_sql_and_evaluator_agree(
    selector: dict[str, Any],
    documents: list[dict[str, Any]],
    sort: Any,
    declared: list[list[str]],
    skip: int,
    limit: int | None,
    fields: list[str] | None,
) -> None:
    try:
        matches = compile_selector(selector)
    except InvalidSelector:  # too deep, or a literal object that reads as an operator
        assume(False)
    query = compile_query(selector, sort)
    wanted = sorted(filter(matches, documents), key=sort_key(sort))
    shown = wanted[skip:] if limit is None else wanted[skip : skip + limit]
    with opened() as rows:
        put(rows, "cars", documents)
        put(rows, "other", [{"_id": "x", "a": 1}])
        for index in declared:
            indexes.create(rows, "cars", index)
        found = finding.find(rows, "cars", query, skip=skip, limit=limit, fields=fields)
        assert found == (shown if fields is None else [projected(document, fields) for document in shown])
        assert finding.count(rows, "cars", query) == len(wanted)
        assert finding.ids(rows, "cars", query) == [document["_id"] for document in wanted]
        explained = indexes.explain(rows, "cars", query)
        assert set(explained["indexes"]) <= {
            *indexes.declared(rows, "cars"),
            "idx_documents_collection_id",
        }


def test_a_small_limit_of_many_matches() -> None:
    with indexed("year") as rows:
        for selector in ({"year": {"$gt": 1995}}, {"year": {"$gt": 2028}}, {"year": {"$lt": 0}}):
            query = compile_query(selector)
            every = finding.find(rows, "cars", query)
            for skip, limit in ((0, 1), (5, 10), (900, 10), (0, 2000)):
                found = finding.find(rows, "cars", query, skip=skip, limit=limit)
                assert found == every[skip : skip + limit]


def test_the_first_of_many_cost_the_same_however_many_there_are() -> None:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    taken = []
    query = compile_query({"n": {"$gt": 0}})
    with opened() as rows:
        indexes.create(rows, "cars", ["n"])
        for start in (0, 15_000):
            put(rows, "cars", [{"_id": f"{start + i:05}", "n": i % 3} for i in range(15_000)])
            steps = 0
            rows.connection.set_progress_handler(count, 100)
            found = finding.find(rows, "cars", query, limit=600)
            rows.connection.set_progress_handler(None, 0)
            assert [document["_id"] for document in found] == [f"{i:05}" for i in range(900) if i % 3]
            taken.append(steps)
    assert taken[0] == taken[1], "hundreds of steps of SQLite"


def test_a_long_list_of_alternatives() -> None:
    with opened() as rows:
        put(rows, "cars", [{"_id": str(i), "n": i} for i in range(10)])
        query = compile_query({"n": {"$in": list(range(5, 1500))}})
        assert finding.count(rows, "cars", query) == 5


# --- declared indexes -------------------------------------------------------------------------------


@contextmanager
def indexed(*fields: str) -> Iterator[Rows]:
    with opened() as rows:
        indexes.create(rows, "cars", fields)
        put(
            rows,
            "cars",
            [
                {"_id": f"{i:04}", "year": 1990 + i % 40, "address": {"city": f"c{i % 7}"}}
                for i in range(1000)
            ],
        )
        yield rows


def explained(rows: Rows, selector: Any, sort: Any = None) -> tuple[str | None, list[str], bool]:
    plan = indexes.explain(rows, "cars", compile_query(selector, sort))
    return plan["index"], plan["fields"], plan["scan"]


@pytest.mark.parametrize(
    ("selector", "fields"),
    [
        ({"year": 2000}, ["year"]),
        ({"year": {"$gt": 2027}}, ["year"]),
        ({"year": {"$gte": 2000, "$lt": 2002}}, ["year"]),
        ({"year": {"$in": [2000, 2001]}}, ["year"]),
        ({"year": {"$in": [2000, "2000", None]}}, ["year"]),
        ({"$and": [{"year": 2000}, {"color": {"$ne": "red"}}]}, ["year"]),
        ({"$or": [{"year": 2000}, {"year": {"$gt": 2028}}]}, ["year"]),
        ({"year": 2000, "address.city": "c1"}, ["year", "address.city"]),
        ({"year": 2000, "address": {"city": {"$gt": "c5"}}}, ["year", "address.city"]),
        ({"year": 2000, "name": {"$regex": "^x"}}, ["year"]),
    ],
)
def test_selectors_that_use_an_index(selector: Any, fields: list[str]) -> None:
    with indexed("year", "address.city") as rows:
        assert explained(rows, selector) == ('cars["year","address.city"]', fields, False)
        found = finding.find(rows, "cars", compile_query(selector))
    with opened() as rows:
        assert explained(rows, selector) == (None, [], True)
    matches = compile_selector(selector)
    assert all(map(matches, found))


def test_what_reads_the_whole_collection_says_so() -> None:
    with indexed("year") as rows:
        assert explained(rows, {"color": "red"}) == (None, [], True)
        assert explained(rows, {}) == (None, [], True)
        assert explained(rows, {"$or": [{"year": 2000}, {"color": "red"}]})[2]
        assert explained(rows, {"_id": "0001"}) == ("idx_documents_collection_id", ["_id"], False)
        assert explained(rows, {}, ["year"]) == ('cars["year"]', ["year"], True)
        assert indexes.explain(rows, "cars", compile_query({"year": 2000}))["exact"]
        assert not indexes.explain(rows, "cars", compile_query({"year": [2000]}))["exact"]
        assert explained(rows, {"year": 2000}, ["year"])[0] == 'cars["year"]'
        sorted_by_index = indexes.explain(rows, "cars", compile_query({"year": {"$gt": 2000}}, ["year"]))
        assert not any("TEMP B-TREE" in step for step in sorted_by_index["plan"])
        other = indexes.explain(rows, "other", compile_query({"year": 2000}))
        assert (other["index"], other["scan"]) == (None, True)


def test_an_index_is_made_once_and_stays_in_the_file() -> None:
    with opened() as rows:
        for _ in range(2):
            indexes.create(rows, "cars", ["year"])
            indexes.create(rows, "cars", ["_id"])
        indexes.create(rows, "cars", ["year", "_id"])
        assert indexes.declared(rows, "cars") == {
            'cars["year"]': ("year",),
            'cars["year","_id"]': ("year", "_id"),
        }
        assert indexes.declared(rows, "car") == {}


def test_an_index_that_somebody_else_made_is_none_of_ours() -> None:
    with opened() as rows:
        for name in ("cars[", "cars[5]", 'cars["year" ]', "cars[]"):
            rows.connection.execute(f"CREATE INDEX '{name}' ON documents(id)")
        indexes.create(rows, "cars", ["year"])
        assert indexes.declared(rows, "cars") == {'cars["year"]': ("year",)}
        assert explained(rows, {"year": 2000}) == ('cars["year"]', ["year"], False)


@pytest.mark.parametrize(
    "fields",
    [(), ("",), (5,), ("a", "a"), ('quo"te',), ("new\nline",), ("\ud800",), tuple("abcdefghi")],
)
def test_fields_that_cannot_be_indexed(fields: Any) -> None:
    with opened() as rows, pytest.raises(InvalidIndex):
        indexes.create(rows, "cars", fields)


def test_so_many_indexes_and_no_more() -> None:
    with opened() as rows:
        for i in range(indexes.MAX_INDEXES):
            indexes.create(rows, "cars", [f"f{i}"])
        indexes.create(rows, "cars", ["f0"])
        indexes.create(rows, "other", ["f0"])
        with pytest.raises(InvalidIndex, match="limit"):
            indexes.create(rows, "cars", ["one more"])
