"""What each operator means, what is refused, and that nobody's selector can stall a node."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mesh.core.patterns import MAX_PATTERN_CHARS, MAX_TEXT_CHARS, compile_pattern
from mesh.core.selector import (
    MAX_PATTERNS,
    MAX_SELECTOR_DEPTH,
    MAX_SELECTOR_TERMS,
    compile_selector,
    projected,
    sort_key,
)
from mesh.errors import InvalidSelector

DOCUMENT = {
    "_id": "d1",
    "n": 5,
    "half": 0.5,
    "yes": True,
    "nothing": None,
    "text": "north",
    "empty": {},
    "tags": ["a", "b"],
    "points": [{"x": 1}, {"x": 9, "y": 2}],
    "a": {"b": {"c": 3}, "d": "e"},
    "dotted.key": 1,
}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, True),
        ({}, True),
        ({"_id": "d1"}, True),
        ({"n": 5}, True),
        ({"n": 5.0}, True),
        ({"n": "5"}, False),
        ({"yes": True}, True),
        ({"yes": 1}, False),
        ({"n": 5, "text": "south"}, False),
        ({"nothing": None}, True),
        ({"missing": None}, False),
        ({"empty": {}}, True),
        ({"a": {}}, False),
        ({"tags": ["a", "b"]}, True),
        ({"tags": ["b", "a"]}, False),
        ({"tags": "a"}, False),
        ({"a.b.c": 3}, True),
        ({"a": {"b": {"c": 3}}}, True),
        ({"a": {"b.c": 3, "d": "e"}}, True),
        ({"a.b.c.d": 3}, False),
        ({"tags.0": "a"}, False),
        ({"dotted\\.key": 1}, True),
        ({"dotted.key": 1}, False),
        ({"n": {"$eq": 5}}, True),
        ({"a": {"$eq": {"b": {"c": 3}, "d": "e"}}}, True),
        ({"n": {"$ne": 5}}, False),
        ({"n": {"$ne": True}}, True),
        ({"missing": {"$ne": 5}}, True),
        ({"n": {"$gt": 4, "$lt": 6}}, True),
        ({"n": {"$gt": 5}}, False),
        ({"n": {"$gte": 5}}, True),
        ({"n": {"$lt": 5}}, False),
        ({"n": {"$lte": 5}}, True),
        ({"half": {"$lt": 1}}, True),
        ({"text": {"$gt": "m"}}, True),
        ({"text": {"$gt": 1}}, False),
        ({"n": {"$lt": "z"}}, False),
        ({"yes": {"$gt": 0}}, False),
        ({"nothing": {"$lt": 1}}, False),
        ({"missing": {"$lt": 1}}, False),
        ({"tags": {"$gt": ["a"]}}, False),
        ({"n": {"$in": [1, 5]}}, True),
        ({"n": {"$in": []}}, False),
        ({"yes": {"$in": [1]}}, False),
        ({"missing": {"$in": [None]}}, False),
        ({"n": {"$nin": [1, 5]}}, False),
        ({"missing": {"$nin": [1]}}, True),
        ({"n": {"$exists": True}}, True),
        ({"nothing": {"$exists": True}}, True),
        ({"missing": {"$exists": False}}, True),
        ({"missing": {"$exists": True}}, False),
        ({"n": {"$not": {"$gt": 5}}}, True),
        ({"missing": {"$not": {"$gt": 5}}}, True),
        ({"tags": {"$elemMatch": {"$eq": "b"}}}, True),
        ({"points": {"$elemMatch": {"x": {"$gt": 5}, "y": 2}}}, True),
        ({"points": {"$elemMatch": {"x": 1, "y": 2}}}, False),
        ({"n": {"$elemMatch": {"$eq": 5}}}, False),
        ({"text": {"$regex": "^nor"}}, True),
        ({"text": {"$regex": "or"}}, True),
        ({"text": {"$regex": "^or"}}, False),
        ({"n": {"$regex": "5"}}, False),
        ({"$and": [{"n": 5}, {"text": "north"}]}, True),
        ({"$and": [{"n": 5}, {"text": "south"}]}, False),
        ({"$or": [{"n": 6}, {"text": "north"}]}, True),
        ({"$or": [{"n": 6}, {"text": "south"}]}, False),
        ({"$nor": [{"n": 6}, {"text": "south"}]}, True),
        ({"$nor": [{"n": 5}]}, False),
        ({"$not": {"n": 6}}, True),
        ({"$not": {"n": 5, "text": "north"}}, False),
        ({"n": 5, "$or": [{"yes": True}]}, True),
    ],
)
def test_what_is_selected(selector: Any, selected: bool) -> None:
    assert compile_selector(selector)(DOCUMENT) is selected


def nested(depth: int) -> Any:
    selector: Any = {"a": 1}
    for _ in range(depth):
        selector = {"$and": [selector]}
    return selector


@pytest.mark.parametrize(
    "selector",
    [
        5,
        "x",
        [],
        [{"a": 1}],
        {1: 2},
        {"$where": "1"},
        {"a": {"$unknown": 1}},
        {"a": {"$gt": 1, "b": 2}},
        {"$and": {}},
        {"$or": []},
        {"$nor": [5]},
        {"$not": 5},
        {"a": {"$in": 5}},
        {"a": {"$nin": "abc"}},
        {"a": {"$exists": 1}},
        {"a": {"$regex": 5}},
        {"a": {"$regex": "("}},
        {"a": {"$regex": "x" * (MAX_PATTERN_CHARS + 1)}},
        {"$or": [{"a": {"$regex": "x"}}] * (MAX_PATTERNS + 1)},
        {"a": float("nan")},
        {"a": b"bytes"},
        {"a": "x" * 9000},
        {f"f{i}": i for i in range(MAX_SELECTOR_TERMS + 1)},
        nested(MAX_SELECTOR_DEPTH + 1),
        nested(100),
    ],
)
def test_what_is_refused(selector: Any) -> None:
    with pytest.raises(InvalidSelector):
        compile_selector(selector)


def test_the_bounds_themselves_are_allowed() -> None:
    assert compile_selector(nested(MAX_SELECTOR_DEPTH - 1))({"a": 1})
    assert not compile_selector({f"f{i}": i for i in range(MAX_SELECTOR_TERMS)})({"a": 1})


def test_an_error_says_where() -> None:
    with pytest.raises(InvalidSelector) as caught:
        compile_selector({"$or": [{"a": 1}, {"b": {"$gt": 1, "$oops": 2}}]})
    assert caught.value.path == "/$or/1/b/$oops"


# --- patterns -----------------------------------------------------------------------------------

_pieces = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "[ab]",
        "[^a]",
        "[a-c]",
        r"\d",
        r"\.",
        "a?",
        "b*",
        "a+",
        "[ab]{1,2}",
        "a{2}",
        "b{0,2}",
        "a{1,}",
        ".*",
    ]
)
_patterns = st.recursive(
    st.lists(_pieces | st.sampled_from("^$"), max_size=4).map("".join),
    lambda inner: st.lists(
        st.tuples(
            st.sampled_from(["", "({})", "(?:{})", "({})*", "({})+?", "({})?", "({}){{2}}", "({}){{0,2}}"]),
            st.lists(inner, min_size=1, max_size=3).map("|".join),
        ).map(lambda pair: pair[0].format(pair[1])),
        min_size=1,
        max_size=3,
    ).map("".join),
    max_leaves=6,
)


@given(_patterns, st.text("abc1.\n", max_size=10))
@example("(^a|b$)+", "ab")
@example("($|a)(^|b)", "")
@example("(a*)*b", "aab")
@example("((a|b)?){3}c", "abac")
@settings(max_examples=500)
def test_patterns_find_what_regular_expressions_find(pattern: str, text: str) -> None:
    assume(len(pattern) <= MAX_PATTERN_CHARS)
    expected = re.search(pattern.replace("$", r"\Z"), text) is not None
    assert compile_pattern(pattern)(text) is expected


@pytest.mark.parametrize(
    ("pattern", "at"),
    [("a**", 3), ("*a", 1), (r"(a)\1", 4), ("a(?=a)", 2), ("(?i)a", 1), ("(?P<n>a)", 1), (r"a\bx", 2),
     ("(a", 1), ("a)", 2), ("[a", 1), ("a]", 2), ("a{2,1}", 1), ("ba{999}", 2), ("(a{20}){20}", 1), ("^*", 1),
     ("a{200}|b{200}", 1), ("b[[a]]", 2), ("[a--b]", 1), ("a[z-a]", 2), ("a\\", 2), ("a{1}{2}", 5)],
)  # fmt: skip
def test_patterns_beyond_the_subset_are_refused_with_the_place(pattern: str, at: int) -> None:
    with pytest.raises(ValueError, match=rf"\(character {at}\)"):
        compile_pattern(pattern)


def test_escapes_stand_for_themselves() -> None:
    assert compile_pattern(r"^\$\(\)\[\]\{\}\.\*\+\?\^\|\\$")("$()[]{}.*+?^|\\")
    assert compile_pattern(r"a\$")("a$b")
    assert not compile_pattern(r"a\\$")("a\\b")


@pytest.mark.parametrize(
    "pattern",
    [
        "a?" * 40 + "a" * 40,
        "a*a*a*a*a*b",
        ".*.*.*.*x",
        "[ab]*a[ab]{100}c",
        "a{0,200}b",
        "(a+)+$",
        "(a|a)*$",
        "(.*)*x",
        "((a|b)?a?){60}c",
        "([ab]?[ab]?){80}[^ab]",
        "((((a?b?)*)*){30})*c",
        "".join(f"[{chr(97 + i)}]" for i in range(26)),
    ],
)
def test_no_pattern_stalls(pattern: str) -> None:
    rng = random.Random(1)
    texts = ["a" * 1_000_000, "".join(rng.choices("ab", k=1_000_000)), "é" * 1_000_000]
    texts.append("".join(map(chr, range(0x4E00, 0x9F00))) * 4)
    started = time.perf_counter()
    try:
        matches = compile_selector({"x": {"$regex": pattern}})
    except InvalidSelector:
        pass
    else:
        for text in texts:
            matches({"x": text})
    assert time.perf_counter() - started < 0.75 * len(texts)


def test_only_the_beginning_of_a_long_text_is_looked_at() -> None:
    text = "a" * MAX_TEXT_CHARS + "b"
    assert not compile_pattern("b")(text)
    assert not compile_pattern("a$")(text), "its end has not been seen"
    assert compile_pattern("b")(text[1:])


# --- sort, fields -------------------------------------------------------------------------------


def test_kinds_sort_apart_and_ids_decide_in_the_end() -> None:
    found = [
        {"_id": str(i), "v": v}
        for i, v in enumerate([[2], "b", 2, True, None, {"a": 1}, "a", 1.5, False, [1]])
    ]
    found.append({"_id": "x"})
    found.sort(key=sort_key(["v"]))
    kinds = [document.get("v", "missing") for document in found]
    assert kinds == ["missing", None, False, True, 1.5, 2, "a", "b", [1], [2], {"a": 1}]


def test_descending_keeps_the_order_of_ids() -> None:
    found = [{"_id": i, "v": v, "w": w} for i, v, w in [("c", 1, 1), ("a", 2, 1), ("b", 1, 2), ("d", 2, 1)]]
    found.sort(key=sort_key([{"v": "desc"}]))
    assert [document["_id"] for document in found] == ["a", "d", "b", "c"]
    found.sort(key=sort_key(["w", {"v": "desc"}]))
    assert [document["_id"] for document in found] == ["a", "d", "c", "b"]


@pytest.mark.parametrize("sort", [[5], [{"a": "up"}], [{"a": "asc", "b": "asc"}], [{}], [["a"]]])
def test_sort_orders_that_are_refused(sort: Any) -> None:
    with pytest.raises(InvalidSelector):
        sort_key(sort)


def test_projection_keeps_the_shape() -> None:
    document = {"_id": "1", "a": {"b": 1, "c": 2}, "d": 3}
    assert projected(document, ["a.b", "d", "no.such"]) == {"_id": "1", "a": {"b": 1}, "d": 3}
    assert document["a"] == {"b": 1, "c": 2}
