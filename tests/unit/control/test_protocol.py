from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import errors
from mesh.control.error_mapping import from_body, to_body
from mesh.control.protocol import ErrorBody, Reply, Request, decode_reply, decode_request, encode
from mesh.core.scopes import AllNodes
from mesh.core.status import DistributionHandle, DistributionStatus, TransferPriority
from mesh.errors import BlobNotFound, DistributionTimeout, MeshError, ProtocolViolation, StoreTooNew

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.integers(0, 2**53), st.text(max_size=64), st.dictionaries(st.text(), plain, max_size=3))
def test_requests_come_back_as_they_went(id: int, method: str, params: dict[str, Any]) -> None:
    request = Request(id, method, params)
    assert decode_request(encode(request)) == request


@given(st.integers(0, 2**53), plain)
def test_replies_come_back_as_they_went(id: int, value: Any) -> None:
    for reply in (Reply(id, result=value), Reply(id, item=value), Reply(id, end=True)):
        assert decode_reply(encode(reply)) == reply


def test_a_reply_holds_only_what_is_set() -> None:
    assert json.loads(encode(Reply(3, result=None))) == {"id": 3, "result": None}
    assert json.loads(encode(Reply(3, end=True))) == {"id": 3, "end": True}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"id": -1}',
        '{"id": "1"}',
        '{"id": 1, "other": 2}',
        '{"id": 1, "params": []}',
        json.dumps({"id": 1, "method": "m" * 65}),
        '{"id":1,"params":{"a":' + "[" * 100_000,
    ],
)
def test_malformed_requests_are_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        decode_request(text)


def test_a_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProtocolViolation, match="ask for less"):
        encode(Reply(1, result="x" * (16 * 1024 * 1024)))


def test_an_error_comes_back_as_its_class_with_message_and_attributes() -> None:
    error = from_body(to_body(BlobNotFound("ab" * 32)))
    assert type(error) is BlobNotFound
    assert str(error) == str(BlobNotFound("ab" * 32))
    assert error.hash == "ab" * 32
    newer = from_body(to_body(StoreTooNew("/home/store", ["m9"])))
    assert isinstance(newer, StoreTooNew)
    assert newer.unknown == ["m9"]


def test_an_error_class_of_another_version_is_a_mesh_error() -> None:
    error = from_body(ErrorBody("FromTheFuture", "what it said"))
    assert type(error) is MeshError
    assert str(error) == "what it said"


def test_only_mesh_errors_are_made_from_what_arrives() -> None:
    assert type(from_body(ErrorBody("Any", "x"))) is MeshError
    assert type(from_body(ErrorBody("annotations", "x"))) is MeshError


def test_every_error_class_survives_the_journey() -> None:
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, MeshError):
            error = from_body(ErrorBody(cls.__name__, "a message", {"path": "/x"}))
            assert (type(error), str(error)) == (cls, "a message")
            assert vars(error)["path"] == "/x"


def test_an_attribute_that_json_cannot_hold_stays_behind() -> None:
    error = MeshError("odd")
    error.thing = object()  # type: ignore[attr-defined]
    error.limit = 3  # type: ignore[attr-defined]
    assert to_body(error) == ErrorBody("MeshError", "odd", {"limit": 3})


def test_a_timeout_carries_its_status_as_plain_json() -> None:
    handle = DistributionHandle("d", "h", AllNodes(), TransferPriority.HIGH, 0.0)
    status = DistributionStatus(handle, 0, 0, 0, 0, 0, 0, {})
    body = to_body(DistributionTimeout("d", 1.0, status))
    assert body.attributes["status"]["handle"]["priority"] == 3


def test_text_that_is_not_unicode_is_refused_and_in_an_error_replaced() -> None:
    with pytest.raises(ProtocolViolation, match="not Unicode"):
        encode(Request(1, "attachments.add", {"path": "/tmp/\udc80"}))
    body = to_body(BlobNotFound("\udc80"))
    assert body.message == str(BlobNotFound("?"))
    assert body.attributes == {}
    encode(Reply(1, error=body))
