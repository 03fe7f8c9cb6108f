"""JSON values that documents may hold, and how their fields are named."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mesh.errors import InvalidCollectionName, InvalidDocument

MAX_SAFE_INTEGER = 2**53 - 1
"""Beyond this, integers lose digits in every JavaScript client (and in pycrdt)."""

MAX_DEPTH = 32
"""How deeply objects and lists may nest."""

MAX_ID_BYTES = 512
"""Length of an ``_id`` in UTF-8."""

_COLLECTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


# --- what may be stored -----------------------------------------------------------------------


def check_collection(name: object) -> str:
    """``name``, if a collection can be called that.

    Raises:
        InvalidCollectionName: it is not 1 to 128 letters, digits, ``_``, ``-`` or ``.``.
    """
    if not isinstance(name, str) or not _COLLECTION.fullmatch(name):
        raise InvalidCollectionName(name, "use 1 to 128 letters, digits, _, - or ., not starting with - or .")
    return name


def check_id(document_id: object) -> str:
    """``document_id``, if it can be one.

    Raises:
        InvalidDocument: it is not a non-empty string of at most ``MAX_ID_BYTES`` bytes.
    """
    if not isinstance(document_id, str):
        raise InvalidDocument(f"an _id must be a string, not {type(document_id).__name__}", "/_id")
    size = len(_encoded(document_id, "/_id"))
    if not 0 < size <= MAX_ID_BYTES:
        raise InvalidDocument(f"an _id must have 1 to {MAX_ID_BYTES} bytes, not {size}", "/_id")
    return str(document_id)


def normalized(value: Any, path: str = "", depth: int = 0) -> Any:
    """A copy of ``value`` as JSON types only; whole floats become integers, as JavaScript has them.

    Raises:
        InvalidDocument: JSON or the CRDT cannot hold it; ``path`` points at the offender.
    """
    if is_plain(value):
        return value
    if isinstance(value, str):
        _encoded(value, path)
        return str(value)
    if isinstance(value, int):
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise InvalidDocument(f"{value} is beyond ±(2^53 - 1); store it as a string", path)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidDocument(f"{value} is not a JSON number; use null or a string", path)
        if value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
            return int(value)
        return float(value)
    if depth >= MAX_DEPTH:
        raise InvalidDocument(f"nested more than {MAX_DEPTH} levels deep", path)
    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            name = checked_key(key, path)
            plain[name] = item if is_plain(item) else normalized(item, f"{path}/{escape(name)}", depth + 1)
        return dict(sorted(plain.items())) if depth else plain  # the CRDT keeps no order of keys
    if isinstance(value, list | tuple):
        return [
            item if is_plain(item) else normalized(item, f"{path}/{index}", depth + 1)
            for index, item in enumerate(value)
        ]
    raise InvalidDocument(
        f"a value of the type {type(value).__name__} is not JSON"
        + ("; add it as an attachment and store its token" if isinstance(value, bytes | bytearray) else ""),
        path,
    )


def is_plain(value: object) -> bool:
    """Whether ``value`` is one of the scalars that most fields hold, and can be stored as it is."""
    kind = type(value)
    if kind is str:
        return value.isascii()  # type: ignore[attr-defined, no-any-return]
    if kind is int:
        return -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER  # type: ignore[operator]
    return kind is bool or value is None


def checked_key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidDocument(f"the key {key!r} is not a string", path)
    if not key.isascii():
        _encoded(key, path)
    return str(key)


def _encoded(text: str, path: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidDocument("has a lone surrogate, which no UTF-8 text can hold", path) from None


def identical(a: Any, b: Any) -> bool:
    """Equality that tells ``True`` from ``1`` and ``1.5`` from ``"1.5"``, at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


# --- pointers ---------------------------------------------------------------------------------


def escape(segment: str) -> str:
    """One segment of a JSON Pointer."""
    return segment.replace("~", "~0").replace("/", "~1") if "~" in segment or "/" in segment else segment


def unescape(segment: str) -> str:
    """The key that ``segment`` stands for."""
    return segment.replace("~1", "/").replace("~0", "~") if "~" in segment else segment


def split_path(path: str) -> tuple[str, ...]:
    """The keys that a user names by ``path``: a JSON Pointer if it begins with ``/``, else dotted (``a.b``),
    where ``\\.`` is a dot in a key."""
    if path.startswith("/"):
        return tuple(map(unescape, path[1:].split("/")))
    if "\\" not in path:
        return tuple(path.split("."))
    return tuple(key.replace("\\.", ".") for key in _DOT.split(path))


_DOT = re.compile(r"(?<!\\)\.")


def path_of(keys: Sequence[str]) -> str:
    """What :func:`split_path` splits into ``keys``: dotted, or a pointer where that would say another."""
    path = ".".join(key.replace(".", "\\.") for key in keys)
    return path if path and split_path(path) == tuple(keys) else _pointer(keys)


def pointer_of(path: str) -> str:
    """The JSON Pointer of the field that a user names by ``path``: see :func:`split_path`.

    Raises:
        InvalidDocument: no field can be there.
    """
    if not isinstance(path, str):
        raise InvalidDocument(f"a field is named by a dotted path or a JSON Pointer, not by {path!r}")
    _encoded(path, ascii(path))
    pointer = _pointer(split_path(path))
    if pointer == "/_id" or pointer.startswith("/_id/"):
        raise InvalidDocument("the _id of a document never changes", pointer)
    if pointer.count("/") > MAX_DEPTH:
        raise InvalidDocument(f"nested more than {MAX_DEPTH} levels deep", pointer)
    return pointer


def _pointer(keys: Iterable[str]) -> str:
    return "".join("/" + escape(key) for key in keys)


def ancestors(pointer: str) -> Iterable[str]:
    end = pointer.rfind("/")
    while end > 0:
        yield pointer[:end]
        end = pointer.rfind("/", 0, end)
