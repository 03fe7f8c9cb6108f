"""Who is in a scope, and that a scope which is not understood matches nobody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.scopes import (
    AllNodes,
    Capabilities,
    Capable,
    DistributionScope,
    Formation,
    NodeFacts,
    Nodes,
    check_scope,
    matches,
    nodes_selector,
    parse_scope,
    parse_scope_text,
    scope_text,
)
from mesh.core.selector import compile_selector
from mesh.errors import InvalidScope

WORDS = st.sampled_from(["a", "b", "north", "x86_64", "hq"])
POSITIVE = st.floats(0.001, 1e6)
SCOPES: st.SearchStrategy[DistributionScope] = st.one_of(
    st.just(AllNodes()),
    st.builds(Formation, WORDS),
    st.builds(Nodes, st.lists(WORDS, min_size=1, max_size=4)),
    st.builds(
        Capable,
        st.none() | POSITIVE,
        st.none() | WORDS,
        st.none() | st.integers(1, 10**6),
        st.lists(WORDS, max_size=3),
    ).filter(lambda scope: scope != Capable()),
)
FACTS = st.builds(
    NodeFacts,
    st.lists(WORDS, max_size=3),
    st.builds(
        Capabilities,
        st.none() | st.floats(0, 1e6),
        st.none() | WORDS,
        st.none() | st.integers(0, 10**6),
        st.lists(WORDS, max_size=3),
    ),
)


@given(SCOPES)
def test_a_scope_survives_its_json_and_its_text(scope: DistributionScope) -> None:
    assert parse_scope(scope.to_dict()) == scope == check_scope(scope)
    assert parse_scope_text(scope_text(scope)) == scope
    assert hash(scope) == hash(parse_scope(scope.to_dict()))


@given(SCOPES, WORDS, FACTS)
def test_whoever_matches_is_selected_for_watching(
    scope: DistributionScope, node: str, facts: NodeFacts
) -> None:
    document = {"_id": node, **facts.to_dict()}
    if matches(scope, node, "hq", facts):
        assert compile_selector(nodes_selector(scope))(document)


@given(SCOPES, FACTS)
def test_the_publisher_is_a_target_only_where_it_is_named(scope: DistributionScope, facts: NodeFacts) -> None:
    assert matches(scope, "hq", "hq", facts) == (isinstance(scope, Nodes) and "hq" in scope.node_ids)


@pytest.mark.parametrize(
    ("scope", "capabilities", "expected"),
    [
        (Capable(min_gpu_gb=4), Capabilities(gpu_gb=4), True),
        (Capable(min_gpu_gb=4), Capabilities(gpu_gb=3.9), False),
        (Capable(min_gpu_gb=4), Capabilities(), False),
        (Capable(cpu_arch="x86_64"), Capabilities(cpu_arch="AMD64"), True),
        (Capable(cpu_arch="arm64"), Capabilities(cpu_arch="aarch64"), True),
        (Capable(cpu_arch="arm64"), Capabilities(cpu_arch="x86_64"), False),
        (Capable(cpu_arch="arm64"), Capabilities(), False),
        (Capable(min_storage_mb=10), Capabilities(storage_mb=9), False),
        (Capable(min_storage_mb=10), Capabilities(storage_mb=10), True),
        (Capable(tags=["a", "b"]), Capabilities(tags=["b", "a", "c"]), True),
        (Capable(tags=["a", "b"]), Capabilities(tags=["a"]), False),
        (Capable(min_gpu_gb=1, tags=["a"]), Capabilities(gpu_gb=2), False),
    ],
)
def test_every_condition_must_hold(scope: Capable, capabilities: Capabilities, expected: bool) -> None:
    assert matches(scope, "van", "hq", NodeFacts((), capabilities)) is expected


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        "all",
        {},
        {"type": "everybody"},
        {"type": "all", "except": ["van"]},
        {"type": "formation"},
        {"type": "formation", "formation_id": ""},
        {"type": "formation", "formation_id": "  "},
        {"type": "formation", "formation_id": 7},
        {"type": "nodes", "node_ids": []},
        {"type": "nodes", "node_ids": "van"},
        {"type": "nodes", "node_ids": ["van", ""]},
        {"type": "nodes", "node_ids": ["van\n"]},
        {"type": "nodes", "node_ids": [f"n{i}" for i in range(2000)]},
        {"type": "capable"},
        {"type": "capable", "min_gpu_gb": 0},
        {"type": "capable", "min_gpu_gb": True},
        {"type": "capable", "min_gpu_gb": float("inf")},
        {"type": "capable", "min_storage_mb": -1},
        {"type": "capable", "cpu_arch": "x86_64", "min_ram_gb": 64},
    ],
)
def test_what_is_not_understood_is_refused(plain: Any) -> None:
    with pytest.raises(InvalidScope):
        parse_scope(plain)


@pytest.mark.parametrize(
    "scope",
    [
        None,
        "all",
        Nodes([]),
        Nodes("van"),
        Formation(""),
        Formation("\ud800"),
        Capable(),
        Capable(min_gpu_gb=float("inf"), cpu_arch="x86_64"),
        Capable(min_gpu_gb=float("nan"), cpu_arch="x86_64"),
    ],
)
def test_what_would_be_misread_is_refused_at_distribute(scope: Any) -> None:
    with pytest.raises(InvalidScope):
        check_scope(scope)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("all", AllNodes()),
        ("formation:north", Formation("north")),
        ("formation:a:b", Formation("a:b")),
        ("nodes:a, b", Nodes(["a", "b"])),
        ("capable:min_gpu_gb=4,cpu_arch=x86_64", Capable(4, "x86_64")),
        ("capable:tags=cam,tags=gps,min_storage_mb=5", Capable(min_storage_mb=5, tags=["cam", "gps"])),
    ],
)
def test_scopes_as_people_type_them(text: str, scope: DistributionScope) -> None:
    assert parse_scope_text(text) == scope


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All",
        "all:x",
        "formation",
        "formation:",
        "nodes:",
        "nodes:a,,b",
        "everyone",
        "capable:",
        "capable:gpu",
        "capable:min_gpu_gb=much",
        "capable:min_gpu_gb=1,min_gpu_gb=2",
        "capable:ram=4",
        "capable:min_gpu_gb=inf",
    ],
)
def test_nonsense_that_people_type_is_refused(text: str) -> None:
    with pytest.raises(InvalidScope):
        parse_scope_text(text)


def test_many_named_nodes_are_not_put_into_a_selector() -> None:
    assert nodes_selector(Nodes([f"node-{n:045}" for n in range(1000)])) == {}
    compile_selector(nodes_selector(Nodes([f"node-{n:045}" for n in range(100)])))
