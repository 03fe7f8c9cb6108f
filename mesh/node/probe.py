"""Probes: what this machine can do, found out rather than declared."""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mesh.core.scopes import Capabilities
from mesh.errors import InvalidNode

GPU_SECONDS = 5.0
"""How long the driver's tool may take to tell of the GPUs."""


class Probe(Protocol):
    """Finds out what the node can do. Called off the event loop: at the start, on ``resume()`` and once an
    hour."""

    def __call__(self, data_dir: Path | None, /) -> Capabilities:
        """``data_dir``: where the node keeps its data; ``None``: in memory."""


def detect_capabilities(data_dir: Path | None) -> Capabilities:
    """The default probe: processor architecture, free disk, and the memory of the largest GPU if there is one
    whose driver tells."""
    return Capabilities(
        gpu_gb=_gpu_gb(),
        cpu_arch=platform.machine() or None,
        storage_mb=None if data_dir is None else shutil.disk_usage(data_dir).free // 1_000_000,
    )


def declaring(given: dict[str, Any]) -> Probe:
    """A probe that detects all but what is ``given``.

    Raises:
        InvalidNode: no node can be like that.
    """
    try:
        Capabilities.from_dict(given)
    except msgspec.ValidationError as error:
        raise InvalidNode(f"these capabilities cannot be declared: {error}") from error
    return lambda data_dir: Capabilities.from_dict(detect_capabilities(data_dir).to_dict() | given)


def _gpu_gb(cards: Path = Path("/sys/class/drm")) -> float | None:
    found = _nvidia_bytes()
    for file in cards.glob("card*/device/mem_info_vram_total"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    return round(max(found) / 1e9, 1) if found else None


def _nvidia_bytes() -> list[int]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        told = subprocess.run(
            [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=GPU_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []  # a tool without a driver or a card
    return [int(line) << 20 for line in told.stdout.split() if line.isdigit()]
