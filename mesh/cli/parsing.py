"""What people type on the command line, as values: durations, sizes, rates, scopes, JSON, sort orders."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Any, TypeVar

import click
import msgspec

from mesh.cli.units import shorten
from mesh.core.rates import MIN_LIMIT
from mesh.core.scopes import DistributionScope, parse_scope_text
from mesh.core.tokens import BlobToken
from mesh.errors import InvalidDocument, InvalidScope, InvalidSelector, InvalidToken

T = TypeVar("T")

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)")


def parsed(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """A click callback that parses what was given; a ``ValueError`` is an error of usage."""

    def callback(context: click.Context, parameter: click.Parameter, text: str | None) -> T | None:
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def parse_duration(text: str) -> float:
    """Seconds, from a number of them or one with a unit: ``90``, ``15m``, ``1h``, ``7d``.

    Raises:
        ValueError: it is none, or zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not 0 < (seconds := float(match[1]) * _UNITS[match[2]]) < inf:
        raise ValueError(f"{shorten(text)} is not a duration: use seconds, or 15m, 1h, 7d")
    return seconds


_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes, from a number of them or one with a unit (powers of 1000): ``4096``, ``500kB``, ``2 GB``.

    Raises:
        ValueError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (size := float(match[1]) * _BYTES[match[2].lower()]) == inf:
        raise ValueError(f"{shorten(text)} is not a size: use bytes, or 500kB, 20MB, 2GB")
    return round(size)


def parse_rate(text: str) -> int:
    """Bytes a second: a size, with ``/s`` or without: ``2MB/s``.

    Raises:
        ValueError: it is none, or too low to get anything through.
    """
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except ValueError:
        raise ValueError(f"{shorten(text)} is not a rate: use bytes a second, or 500kB/s, 2MB/s") from None
    if rate < MIN_LIMIT:
        raise ValueError(f"{shorten(text)} is too slow to get anything through: at least {MIN_LIMIT} bytes/s")
    return rate


def parse_limit(text: str) -> int:
    """A rate, or 0 for ``none``.

    Raises:
        ValueError: it is neither.
    """
    return 0 if text.strip() == "none" else parse_rate(text)


_SCOPE_FORMS = {
    "formation": "after formation: comes a name of 1 to 128 characters, such as formation:north",
    "nodes": "after nodes: come names or ids of nodes, separated by commas, such as nodes:van7,van8",
    "capable": "after capable: come conditions, separated by commas: min_gpu_gb=NUMBER, cpu_arch=WORD, "
    "min_storage_mb=NUMBER (whole), both above 0, and tags=WORD, which may be repeated",
}


def parse_scope(text: str) -> DistributionScope:
    """The scope that was typed.

    Raises:
        InvalidScope: it is none; the message says how that kind of scope is written.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind == "capable" and not rest.strip(" ,"):
            raise InvalidScope("it has no condition")
        return parse_scope_text(text)
    except InvalidScope as error:
        if kind not in _SCOPE_FORMS:
            raise
        raise InvalidScope(f"{shorten(text)} is no scope: {_SCOPE_FORMS[kind]}") from error


def parse_sort(text: str) -> list[dict[str, str]]:
    """``year:desc,name`` as Mango's ``[{"year": "desc"}, {"name": "asc"}]``.

    Raises:
        ValueError: a field is missing, or a direction is neither ``asc`` nor ``desc``.
    """
    order = []
    for item in text.split(","):
        field, _, direction = item.strip().partition(":")
        if not field or direction not in ("", "asc", "desc"):
            raise ValueError(f"{shorten(text)}: use FIELD or FIELD:desc, separated by commas")
        order.append({field: direction or "asc"})
    return order


def parse_fields(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_selector(text: str) -> dict[str, Any]:
    """A selector given as JSON.

    Raises:
        InvalidSelector: it is not a JSON object.
    """
    try:
        return _json_object(text)
    except ValueError as error:
        raise InvalidSelector(f'{error}; write it like \'{{"color": "red"}}\'') from None


def parse_document(text: str) -> dict[str, Any]:
    """A document given as JSON.

    Raises:
        InvalidDocument: it is not a JSON object.
    """
    try:
        return _json_object(text)
    except ValueError as error:
        raise InvalidDocument(f'{error}; write it like \'{{"_id": "car1", "color": "red"}}\'') from None


def parse_token(text: str) -> BlobToken:
    """The token of a blob, given as JSON.

    Raises:
        InvalidToken: it is none, or cannot be true.
    """
    try:
        token = BlobToken.from_dict(_json_object(text))
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidToken(f"{error}; a token is the JSON that `mesh add` prints") from None
    token.check()
    return token


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"{shorten(text)} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{shorten(text)} is not a JSON object")
    return value
