"""What a node takes from the world around it; a simulation hands it another world."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.membership.credentials import Credentials
from mesh.network.transport import Transport
from mesh.network.websocket import WebSocketTransport
from mesh.node.probe import Probe, detect_capabilities
from mesh.storage.worker import ThreadWorker, Worker


def encrypted(credentials: Credentials) -> WebSocketTransport:
    """WebSockets over TLS."""
    return WebSocketTransport(credentials.tls())


@dataclass(frozen=True)
class Environment:
    """The outside of a node.

    Attributes:
        transport: makes what connections of an open mesh are made with.
        secure_transport: the same for a closed mesh, given this node's credentials.
        random: identities, nonces, jitter, tie-breaks.
        clock: wall clock, in seconds since the epoch.
        worker: makes, by name, what blocking work on files runs on.
        probe: detects capabilities that were not declared.
    """

    transport: Callable[[], Transport] = WebSocketTransport
    secure_transport: Callable[[Credentials], Transport] = encrypted
    random: random.Random = field(default_factory=random.SystemRandom)
    clock: Callable[[], float] = time.time
    worker: Callable[[str], Worker] = ThreadWorker
    probe: Probe = detect_capabilities

    def new_id(self) -> str:
        """An id that nobody else has."""
        return self.random.randbytes(16).hex()
