"""Which blobs a document refers to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.references import TOKEN_MARK, referred_blobs

HASH, OTHER, LIST = "a" * 64, "b" * 64, "c" * 64


def token(hash: str = HASH, **more: Any) -> dict[str, Any]:
    return {"hash": hash, "size_bytes": 5, "chunks_hash": LIST, **more}


def test_tokens_are_found_at_any_depth_also_in_lists_and_in_each_other() -> None:
    assert referred_blobs(token()) == {HASH}
    assert referred_blobs({"a": {"b": [1, [{"c": token()}], token(OTHER)]}}) == {HASH, OTHER}
    assert referred_blobs({"file": token(metadata={"preview": token(OTHER)})}) == {HASH, OTHER}
    assert referred_blobs(token(size_bytes=5.0)) == {HASH}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"hash": HASH},
        {"hash": HASH, "size_bytes": 5},
        token("A" * 64),
        token("a" * 63),
        token(size_bytes=True),
        token(size_bytes="5"),
        token(chunks_hash=None),
        token(chunks_hash="no hash"),
        HASH,
        None,
    ],
)
def test_what_is_no_token_refers_to_nothing(other: object) -> None:
    assert referred_blobs({"it": other}) == set()


def test_a_deep_document_is_no_problem() -> None:
    deep: Any = token()
    for _ in range(50_000):
        deep = [deep]
    assert referred_blobs(deep) == {HASH}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(HASH) | st.builds(token),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["hash", "size_bytes", "chunks_hash", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_a_document_without_the_mark_has_no_token(document: object) -> None:
    if TOKEN_MARK not in msgspec.json.encode(document).decode():
        assert referred_blobs(document) == set()
