"""How a node receives what is distributed to it, by whatever way it is offered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mesh.core.delivery import ReceiveMode
from mesh.core.scopes import NodeFacts
from mesh.distributions.deliveries import Deliveries
from mesh.distributions.inbox import Inbox
from mesh.distributions.policy import Policy
from mesh.distributions.ports import Blobs
from mesh.storage.worker import InlineWorker, Worker


@dataclass(frozen=True)
class Reception:
    """What the services of one node have in common.

    Attributes:
        facts: what the node says of itself now.
        clock: wall clock, seconds since the epoch.
        random: makes ids that nobody can guess, so a ``SystemRandom`` outside tests.
        mode: ``auto`` fetches what the node is in the scope of and puts it into ``inbox``, ``manual`` leaves
            that to ``deliveries``, ``off`` refuses.
        inbox: where completed files appear; ``None``: nowhere.
        worker: where the inbox's files are written.
        policy: may refuse what the node is in the scope of.
        deliveries: the undecided ones, however they were offered.
    """

    node_id: str
    facts: Callable[[], NodeFacts]
    clock: Callable[[], float]
    random: Random
    mode: ReceiveMode = "auto"
    inbox: Path | None = None
    worker: Worker = field(default_factory=InlineWorker)
    policy: Policy | None = None
    deliveries: Deliveries = field(default_factory=Deliveries)

    def inbox_of(self, blobs: Blobs) -> Inbox | None:
        """The inbox, for files that are copied from these blobs."""
        return None if self.inbox is None else Inbox(self.inbox, blobs, self.worker, self.node_id)
