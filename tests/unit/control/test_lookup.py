"""What people type for an id."""

from __future__ import annotations

import pytest

from mesh.control.lookup import find_node
from mesh.errors import MeshError

NODES = [("abcd", "van7"), ("abxy", "van8"), ("cdef", "van8"), ("gh", "ab"), ("ghij", "gh")]


@pytest.mark.parametrize(
    ("typed", "found"),
    [("abc", "abcd"), ("van7", "abcd"), ("cdef", "cdef"), ("gh", "gh"), ("van", None), ("", None)],
)
def test_a_node_is_found_by_the_start_of_its_id_or_its_name(typed: str, found: str | None) -> None:
    assert find_node(typed, NODES) == found


@pytest.mark.parametrize("typed", ["van8", "ab", "g"])
def test_what_stands_for_several_nodes_is_refused(typed: str) -> None:
    with pytest.raises(MeshError, match=f"'{typed}' stands for [23] nodes .*: give more of the id"):
        find_node(typed, NODES)


def test_a_peer_that_is_dialled_and_linked_is_one_node() -> None:
    assert find_node("abc", [("abcd", "van7"), ("abcd", "")]) == "abcd"
