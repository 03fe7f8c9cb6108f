"""What a node takes from the world around it; a simulation hands it another world."""

from __future__ import annotations

import platform
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mesh.core.scopes import Capabilities
from mesh.network.transport import Transport
from mesh.network.websocket import WebSocketTransport
from mesh.storage.worker import ThreadWorker, Worker


def detect_capabilities(data_dir: Path | None) -> Capabilities:
    """What this machine is: processor architecture and free disk; a GPU has to be declared."""
    storage_mb = None if data_dir is None else shutil.disk_usage(data_dir).free // 1_000_000
    return Capabilities(cpu_arch=platform.machine() or None, storage_mb=storage_mb)


@dataclass(frozen=True)
class Environment:
    """The outside of a node.

    Attributes:
        transport: makes what connections are made with.
        random: identities, nonces, jitter, tie-breaks.
        clock: wall clock, in seconds since the epoch.
        worker: makes, by name, what blocking work on files runs on.
        probe: detects capabilities that were not declared, given the data directory.
    """

    transport: Callable[[], Transport] = WebSocketTransport
    random: random.Random = field(default_factory=random.SystemRandom)
    clock: Callable[[], float] = time.time
    worker: Callable[[str], Worker] = ThreadWorker
    probe: Callable[[Path | None], Capabilities] = detect_capabilities
