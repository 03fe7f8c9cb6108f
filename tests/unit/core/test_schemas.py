"""The published schemas are true: what we write is valid, and what they refuse we refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from mesh.core.receipts import (
    DistributionRecord,
    NodeRecord,
    Receipt,
    advanced,
    distribution_id_of,
    new_receipt,
    parse_distribution,
)
from mesh.core.scopes import (
    AllNodes,
    Capabilities,
    Capable,
    DistributionScope,
    Formation,
    NodeFacts,
    Nodes,
    parse_scope,
)
from mesh.core.status import TransferPriority, TransferState
from mesh.core.structs import Struct
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.errors import MeshError

SCHEMAS = Path(__file__).parents[3] / "schema"


def _token(plain: Any) -> BlobToken:
    token = BlobToken.from_dict(plain)
    token.check()
    return token


PARSERS: dict[str, Callable[[Any], Struct]] = {
    "token": _token,
    "scope": parse_scope,
    "node": NodeRecord.parse,
    "distribution": parse_distribution,
    "receipt": Receipt.parse,
}
VECTORS = {kind: json.loads((SCHEMAS / "vectors" / f"{kind}.json").read_text()) for kind in PARSERS}
VALID = [(kind, value) for kind, vectors in VECTORS.items() for value in vectors["valid"]]
INVALID = [
    pytest.param(kind, vector, id=f"{kind}: {vector['why']}")
    for kind, vectors in VECTORS.items()
    for vector in vectors["invalid"]
]


@cache
def _validator(kind: str) -> Draft202012Validator:
    schemas = {name: json.loads((SCHEMAS / f"{name}.schema.json").read_text()) for name in PARSERS}
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    Draft202012Validator.check_schema(schemas[kind])
    return Draft202012Validator(schemas[kind], registry=registry)


def test_every_schema_has_vectors_and_a_parser() -> None:
    kinds = {*PARSERS, "wire"}  # see test_wire_schema.py
    assert {p.name.removesuffix(".schema.json") for p in SCHEMAS.glob("*.schema.json")} == kinds
    assert {p.stem for p in (SCHEMAS / "vectors").glob("*.json")} == kinds


@pytest.mark.parametrize(("kind", "value"), VALID)
def test_valid_vectors_are_accepted_and_written_back_validly(kind: str, value: Any) -> None:
    _validator(kind).validate(value)
    _validator(kind).validate(PARSERS[kind](value).to_dict())


@pytest.mark.parametrize(("kind", "vector"), INVALID)
def test_invalid_vectors_are_refused_by_schema_and_parser(kind: str, vector: dict[str, Any]) -> None:
    # What ties fields together (an id that fits, progress below the total) is beyond JSON Schema.
    assert _validator(kind).is_valid(vector["value"]) is vector.get("schema_accepts", False)
    with pytest.raises((MeshError, ValueError)):
        PARSERS[kind](vector["value"])


TIMES = st.floats(0, 1e12)
WORDS = st.text("abcé-_.0", min_size=1, max_size=20)
NAMES = st.text(min_size=1, max_size=20).filter(str.strip)
INSTANCES = st.none() | st.text(min_size=1, max_size=64)
TAGS = st.lists(WORDS, max_size=3)
CAPABILITIES = st.builds(
    Capabilities,
    st.none() | st.floats(0, 1e9),
    st.none() | WORDS,
    st.none() | st.integers(0, 10**15),
    TAGS,
)
SCOPES: st.SearchStrategy[DistributionScope] = st.one_of(
    st.just(AllNodes()),
    st.builds(Formation, NAMES),
    st.builds(Nodes, st.lists(WORDS, min_size=1, max_size=3)),
    st.builds(Capable, st.none() | st.floats(0.1, 1e9), WORDS, st.none() | st.integers(1, 9), TAGS),
)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
TOKENS = st.builds(
    BlobToken,
    HASHES,
    st.integers(0, 1 << 44),
    HASHES,
    st.builds(
        BlobMetadata, st.none() | st.text(), st.none() | st.text(), st.dictionaries(st.text(), st.text())
    ),
)
RECORDS = st.builds(
    lambda token, scope, priority, publisher, nonce, **times: DistributionRecord(
        distribution_id_of(publisher, nonce), token, scope.to_dict(), priority, publisher, nonce, **times
    ),
    TOKENS,
    SCOPES,
    st.sampled_from(TransferPriority),
    WORDS,
    st.text("0123456789abcdef", min_size=32, max_size=32),
    created_at=TIMES,
    expires_at=st.none() | TIMES,
    supersedes=st.none() | st.just("a" * 26),
    cancelled_at=st.none() | TIMES,
    attempt=st.integers(1, 9),
)
FACTS = st.builds(NodeFacts, st.lists(NAMES, max_size=3), CAPABILITIES)
STATES = st.sampled_from(TransferState)


def _check(kind: str, value: Struct) -> None:
    plain = json.loads(json.dumps(value.to_dict()))
    _validator(kind).validate(plain)
    assert PARSERS[kind](plain) == value


@given(RECORDS, WORDS, FACTS, TIMES, STATES, st.integers(-1, 1 << 50), st.text(min_size=1, max_size=900))
def test_distributions_and_receipts_that_we_write_are_valid(
    record: DistributionRecord,
    node_id: str,
    facts: NodeFacts,
    now: float,
    status: TransferState,
    progress: int,
    error: str,
) -> None:
    _check("token", record.token)
    _check("scope", record.parsed_scope())
    _check("distribution", record)
    receipt = new_receipt(record, node_id, facts, now)
    _check("receipt", receipt)
    _check("receipt", advanced(receipt, status, now, progress_bytes=progress, error=error))


@given(
    st.builds(
        NodeRecord,
        WORDS,
        st.text(max_size=20),
        st.lists(NAMES, max_size=3),
        CAPABILITIES,
        st.booleans(),
        st.none() | st.text(),
        st.text(),
        TIMES,
        INSTANCES,
        INSTANCES,
    )
)
def test_node_documents_that_we_write_are_valid(node: NodeRecord) -> None:
    _check("node", node)
