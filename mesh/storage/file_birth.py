"""When a file was made, which no copy of it shares: its inode alone may be that of a file that is gone."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_HERE, _BIRTH = -100, 0x800  # AT_FDCWD, STATX_BTIME
_STATX = struct.Struct("=I76xqI164x")
"""What was filled in, and the time of birth in seconds and nanoseconds."""


def born(path: Path) -> str:
    """Names the moment at which a file was made; empty where nobody says."""
    found = ctypes.create_string_buffer(_STATX.size)
    if _statx is None or _statx(_HERE, os.fsencode(path), 0, _BIRTH, found):
        return ""
    filled, seconds, nanoseconds = _STATX.unpack(found.raw)
    return f"{seconds}.{nanoseconds:09}" if filled & _BIRTH else ""


def _find() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(None).statx  # Linux; Python has no call for it before 3.15
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    return function


_statx = _find()
