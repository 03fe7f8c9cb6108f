from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.parsing import parse_document, parse_duration, parse_fields, parse_selector, parse_sort
from mesh.errors import InvalidDocument, InvalidSelector


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1.5s", 1.5), ("15m", 900.0), ("1h", 3600.0), (" 7d ", 604_800.0), ("2w", 1_209_600.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1", "h", "1y", "1h30m", "inf", "nan", "1e3", "٣"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_sort_orders() -> None:
    assert parse_sort("year:desc, name") == [{"year": "desc"}, {"name": "asc"}]
    for text in ("", "year:down", ",", ":desc"):
        with pytest.raises(ValueError, match="FIELD:desc"):
            parse_sort(text)


def test_fields() -> None:
    assert parse_fields("a, b.c,,") == ["a", "b.c"]


def test_selectors_and_documents() -> None:
    assert parse_selector('{"year": {"$gt": 2010}}') == {"year": {"$gt": 2010}}
    assert parse_document('{"_id": "a", "n": 1.5}') == {"_id": "a", "n": 1.5}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "{'a': 1}", '{"a": NaN}', "[" * 100_000, '{"a": "\udc80"}']
)
def test_what_is_no_json_object(text: str) -> None:
    with pytest.raises(InvalidSelector):
        parse_selector(text)
    with pytest.raises(InvalidDocument):
        parse_document(text)


@given(st.text())
def test_garbage_is_refused_and_never_quoted_at_length(text: str) -> None:
    with pytest.raises(InvalidSelector) as caught:
        parse_selector("!" + text)
    assert len(str(caught.value)) < 1000
