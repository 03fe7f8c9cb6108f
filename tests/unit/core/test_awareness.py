from __future__ import annotations

import pytest

from mesh.core.awareness import MAX_CLIENTS, MAX_STATE_CHARS, AwarenessTable
from mesh.core.yjs_messages import Awareness
from mesh.errors import ProtocolViolation

ADA = Awareness(1, 0, '{"name":"Ada"}')
BOB = Awareness(2, 0, '{"name":"Bob"}')


def test_what_is_new_is_told_once() -> None:
    table = AwarenessTable()
    assert table.take("a", [ADA]) == [ADA]
    assert table.take("b", [ADA, BOB]) == [BOB]
    assert table.here() == [ADA, BOB]
    assert table.take("a", [ADA._replace(clock=1)]) == [ADA._replace(clock=1)]
    assert table.take("a", [ADA]) == []


def test_a_client_leaves_with_its_connection() -> None:
    table = AwarenessTable()
    table.take("a", [ADA])
    table.take("b", [BOB])
    assert table.leave("a") == [Awareness(1, 1, "null")]
    assert table.here() == [BOB]
    assert table.leave("a") == []
    assert table.take("b", [ADA]) == []  # an echo of what was
    assert table.take("c", [ADA._replace(clock=2)]) == [ADA._replace(clock=2)]


def test_a_client_says_that_it_leaves() -> None:
    """As y-protocols does: under the same clock, or the next one."""
    for clock in (0, 1):
        table = AwarenessTable()
        table.take("a", [ADA])
        gone = Awareness(1, clock, "null")
        assert table.take("a", [gone]) == [gone]
        assert table.take("a", [gone]) == []
        assert table.here() == []
        assert table.leave("a") == []
    assert AwarenessTable().take("a", [Awareness(9, 3, "null")]) == []


def test_who_told_last_of_a_client_takes_it_along() -> None:
    table = AwarenessTable()
    table.take("a", [ADA])
    table.take("b", [ADA._replace(clock=1)])
    assert table.leave("a") == []
    assert table.leave("b") == [Awareness(1, 2, "null")]


def test_too_much_is_refused() -> None:
    table = AwarenessTable()
    for bad in ("{", '"' + "x" * MAX_STATE_CHARS + '"', "[" * 5000):
        with pytest.raises(ProtocolViolation):
            table.take("a", [ADA, BOB._replace(state=bad)])
    assert table.here() == []
    with pytest.raises(ProtocolViolation):
        table.take("a", [Awareness(client, 0, "1") for client in range(MAX_CLIENTS + 1)])
    table.take("a", [Awareness(client, 0, "1") for client in range(MAX_CLIENTS)])
    table.leave("a")
    table.take("b", [Awareness(client + MAX_CLIENTS, 0, "1") for client in range(MAX_CLIENTS)])
    assert len(table.here()) == MAX_CLIENTS
