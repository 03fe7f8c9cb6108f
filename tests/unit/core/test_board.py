"""A status depends on the documents, not on their order; and it is cheap to keep."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.board import StatusBoard
from mesh.core.receipts import (
    DistributionRecord,
    NodeRecord,
    Receipt,
    distribution_id_of,
    receipt_id_of,
)
from mesh.core.scopes import AllNodes, Capabilities, DistributionScope, Formation, NodeFacts, Nodes
from mesh.core.status import DistributionStatus, TransferPriority, TransferState
from mesh.core.tokens import BlobToken
from mesh.errors import InvalidScope

NONCE = "0" * 32
ID = distribution_id_of("hq", NONCE)
NODES = ("hq", "a", "b", "c")
NORTH = NodeFacts(("north",))


def _record(scope: DistributionScope, **fields: Any) -> DistributionRecord:
    token = BlobToken("ab" * 32, 100, "cd" * 32)
    record = DistributionRecord(ID, token, scope.to_dict(), TransferPriority.LOW, "hq", NONCE, 1.0)
    return msgspec.structs.replace(record, **fields)


def _receipt(node_id: str, status: str = "completed", **fields: Any) -> Receipt:
    done = 100 if status == "completed" else 0
    base = Receipt(
        receipt_id_of(ID, node_id), ID, node_id, "hq", TransferState(status), done, 100, 5.0, facts=NORTH
    )
    return msgspec.structs.replace(base, **fields)


def _node(node_id: str, *formations: str) -> NodeRecord:
    return NodeRecord(node_id, node_id, list(formations), Capabilities(), False, None, "0", 0.0)


Document = tuple[str, Any]
DOCUMENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("receipt"),
            st.builds(
                _receipt,
                st.sampled_from(NODES),
                st.sampled_from([s.value for s in TransferState]),
                attempt=st.integers(1, 3),
                revision=st.integers(0, 3),
                error=st.sampled_from(["x", "y"]),
                publisher=st.sampled_from(["hq", "hq", "mallory"]),
                facts=st.sampled_from([NORTH, NORTH, NodeFacts()]),
            ),
        ),
        st.tuples(
            st.just("record"),
            st.builds(
                _record,
                st.just(Formation("north")),
                attempt=st.integers(1, 3),
                cancelled_at=st.none() | st.just(9.0),
            ),
        ),
        st.tuples(st.just("superseded"), st.sampled_from(["newer", "newest"])),
    ),
    max_size=12,
)
HELD_NODES = st.dictionaries(st.sampled_from(NODES), st.sampled_from([("north",), ()]))


def _status(scope: DistributionScope, documents: list[Document]) -> DistributionStatus:
    board = StatusBoard(_record(scope))
    for kind, document in documents:
        _put(board, kind, document)
    return board.status()


def _put(board: StatusBoard, kind: str, document: Any) -> None:
    if kind == "receipt":
        board.put_receipt(document)
    elif kind == "node":
        board.put_node(document)
    elif kind == "record":
        board.set_record(document)
    else:
        board.set_superseded(document)


@given(DOCUMENTS, HELD_NODES, st.randoms())
def test_the_same_documents_in_any_order_give_the_same_status(
    documents: list[Document], nodes: dict[str, tuple[str, ...]], random: Any
) -> None:
    everything = [*documents, *(("node", _node(n, *formations)) for n, formations in nodes.items())]
    expected = _status(Formation("north"), everything)
    shuffled = [*everything, *everything]
    random.shuffle(shuffled)
    assert _status(Formation("north"), shuffled) == expected
    counts = (expected.pending, expected.in_progress, expected.completed, expected.failed, expected.cancelled)
    assert sum(counts) == expected.total_targets == len(expected.node_statuses)


@given(DOCUMENTS, HELD_NODES)
def test_the_version_moves_exactly_when_the_status_does(
    documents: list[Document], nodes: dict[str, tuple[str, ...]]
) -> None:
    board = StatusBoard(_record(Formation("north")))
    for kind, document in [*documents, *(("node", _node(n, *f)) for n, f in nodes.items())]:
        version, before = board.version, board.status()
        _put(board, kind, document)
        if board.status() != before:
            assert board.version > version
        elif kind in ("receipt", "node"):
            assert board.version == version


def test_targets_are_known_named_and_receipted_nodes() -> None:
    known = _status(Formation("north"), [("node", _node("a", "north")), ("node", _node("b", "south"))])
    assert set(known.node_statuses) == {"a"}
    assert set(_status(Formation("north"), [("receipt", _receipt("c"))]).node_statuses) == {"c"}
    assert set(_status(Nodes(["a", "ghost"]), []).node_statuses) == {"a", "ghost"}
    assert _status(AllNodes(), [("node", _node("hq"))]).total_targets == 0


@pytest.mark.parametrize(
    "receipt",
    [
        _receipt("hq"),
        _receipt("a", facts=NodeFacts(("south",))),
        _receipt("a", publisher="mallory"),
        _receipt("a", total_bytes=99),
        _receipt("a", distribution_id="b" * 26),
    ],
)
def test_foreign_receipts_change_nothing(receipt: Receipt) -> None:
    assert _status(Formation("north"), [("receipt", receipt)]) == _status(Formation("north"), [])


def test_who_has_not_been_heard_of_is_told_apart_and_for_others_when_they_spoke() -> None:
    status = _status(Nodes(["a", "ghost"]), [("receipt", _receipt("a", "transferring", progress_bytes=5))])
    assert {node_id: node.updated_at for node_id, node in status.node_statuses.items()} == {
        "a": _receipt("a").updated_at,
        "ghost": None,
    }


def test_zero_targets_is_neither_complete_nor_success() -> None:
    status = _status(AllNodes(), [])
    assert (status.is_complete, status.is_success, status.overall_progress) == (False, False, 0.0)


def test_cancelled_counts_apart_from_failed_and_completed_stays() -> None:
    cancelled = ("record", _record(Nodes(["a", "b", "c", "d"]), cancelled_at=7.0))
    receipts = [
        ("receipt", _receipt("a")),
        ("receipt", _receipt("b", "failed", error="no room")),
        ("receipt", _receipt("c", "transferring", progress_bytes=50)),
    ]
    status = _status(Nodes(["a", "b", "c", "d"]), [*receipts, cancelled])
    assert (status.completed, status.failed, status.cancelled) == (1, 1, 2)
    assert status.is_complete
    assert not status.is_success
    assert status.is_cancelled


def test_a_failure_of_an_earlier_attempt_is_pending_again_and_a_completion_counts() -> None:
    documents = [
        ("receipt", _receipt("a", "failed", error="no room")),
        ("receipt", _receipt("b")),
        ("record", _record(Nodes(["a", "b"]), attempt=2)),
    ]
    status = _status(Nodes(["a", "b"]), documents)
    assert (status.pending, status.completed, status.failed) == (1, 1, 0)


def test_progress_is_by_bytes() -> None:
    documents = [("receipt", _receipt("a")), ("receipt", _receipt("b", "transferring", progress_bytes=50))]
    status = _status(Nodes(["a", "b", "c"]), documents)
    assert status.overall_progress == 0.5
    assert status.node_statuses["b"].progress_fraction == 0.5


def test_what_is_gone_is_not_shown() -> None:
    board = StatusBoard(_record(Formation("north")))
    board.put_node(_node("a", "north"))
    board.put_receipt(_receipt("b"))
    board.put_node(_node("a"))
    board.remove_receipt("b")
    assert board.status().total_targets == 0
    board.put_node(_node("a", "north"))
    board.remove_node("a")
    assert board.status().total_targets == 0


def test_a_scope_that_is_not_understood_has_no_status() -> None:
    with pytest.raises(InvalidScope):
        StatusBoard(msgspec.structs.replace(_record(AllNodes()), scope={"type": "moon"}))


def test_a_status_survives_json() -> None:
    status = _status(Nodes(["a", "b"]), [("receipt", _receipt("a"))])
    assert DistributionStatus.from_dict(status.to_dict()) == status


def test_a_receipt_costs_the_same_with_1000_targets_as_with_10() -> None:
    def cost(targets: int) -> float:
        names = [f"n{n}" for n in range(targets)]
        board = StatusBoard(_record(Nodes(names)))
        receipts = [_receipt(names[n % 10], "transferring", revision=n) for n in range(200)]
        began = time.perf_counter()
        for receipt in receipts:
            board.put_receipt(receipt)
        return time.perf_counter() - began

    assert min(cost(1000) for _ in range(5)) < 5 * min(cost(10) for _ in range(5))
