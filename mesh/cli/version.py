"""Which version of the mesh this is."""

from __future__ import annotations

import platform
from importlib import metadata


def mesh_version() -> str:
    """The version of the installed package; ``unknown`` when it runs from a source tree."""
    try:
        return metadata.version("docmesh")
    except metadata.PackageNotFoundError:
        return "unknown"


def version_text() -> str:
    """The version, and what it runs on."""
    return f"{mesh_version()} (Python {platform.python_version()}, {platform.system()} {platform.machine()})"
