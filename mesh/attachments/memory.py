"""Telling the allocator to keep large buffers."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 64 << 20


def tune_allocator() -> bool:
    """Let glibc reuse buffers of the size of a chunk instead of mapping fresh pages for every one.

    It makes bulk transfers about 1.5 times as fast, and concerns the whole process: that is why the
    application calls it, once at its start, and the mesh does not. Returns whether it took effect; elsewhere
    than on glibc it does not.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )
