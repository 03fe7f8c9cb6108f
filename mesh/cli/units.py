"""Numbers, ids and foreign text as people read them."""

from __future__ import annotations

SHORT_ID = 8
"""Characters of an id that are shown; any start that is unambiguous can be typed."""


def size(count: float) -> str:
    """Bytes: ``0 B``, ``999 B``, ``1.5 kB``, ``12 MB`` (powers of 1000)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    digits = 1 if unit != "B" and value < 9.95 else 0
    return f"{value:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds in their two largest units: ``0 s``, ``42 s``, ``3 m 05 s``, ``2 h 10 m``, ``3 d 4 h``."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def percent(fraction: float) -> str:
    """``42%``; never ``100%`` before everything is there."""
    return f"{int(min(fraction, 1.0) * 100)}%"


def short(id: str) -> str:
    """The start of an id."""
    return clean(id[:SHORT_ID])


def clean(text: str) -> str:
    """``text`` from elsewhere, without what could steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def shorten(text: str, length: int = 60) -> str:
    """``text``, cut to ``length`` characters, in quotes."""
    return repr(text if len(text) <= length else text[: length - 3] + "...")
