from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.parsing import (
    parse_document,
    parse_duration,
    parse_fields,
    parse_rate,
    parse_selector,
    parse_size,
    parse_sort,
)
from mesh.errors import InvalidDocument, InvalidSelector


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1.5s", 1.5), ("15m", 900.0), ("1h", 3600.0), (" 7d ", 604_800.0), ("2w", 1_209_600.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "-1", "h", "1y", "1h30m", "inf", "nan", "1e3", "٣", "9" * 400]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("4096", 4096), ("500kB", 500_000), ("1.5 MB", 1_500_000), ("2g", 2 * 10**9), ("1TB", 10**12)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1", "1 XB", "1MB/s", "1e6", "1.MB", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: use bytes"):
        parse_size(text)


def test_rates() -> None:
    assert [parse_rate(text) for text in ("2MB/s", "2 MB", " 5000 ", "4.096kB/s")] == [
        2_000_000,
        2_000_000,
        5000,
        4096,
    ]
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate("2MB/m")
    with pytest.raises(ValueError, match="too slow to get anything through: at least 4096"):
        parse_rate("4kB/s")


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
