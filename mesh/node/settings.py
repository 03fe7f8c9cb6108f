"""What an application asks of a node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.core.delivery import ReceiveMode
from mesh.core.membership import Membership
from mesh.core.rates import Limits
from mesh.core.scopes import Capabilities
from mesh.distributions.policy import Policy
from mesh.membership.credentials import Credentials
from mesh.node.environment import Environment
from mesh.node.probe import Probe
from mesh.storage.data_dir import DataDir


@dataclass
class Settings:
    """The arguments of :class:`~mesh.node.node.Node`; what was set since counts at its next start."""

    data_dir: DataDir | None
    name: str | None
    credentials: Credentials | None
    listen: str | None
    dials: list[str]
    formations: list[str]
    capabilities: Capabilities | Probe | None
    receive: ReceiveMode
    inbox: Path | None
    policy: Policy | None
    retention: float
    hub: bool
    limits: Limits
    cache_bytes: int | None
    environment: Environment

    @property
    def membership(self) -> Membership | None:
        """Who belongs to the closed mesh, if it is one."""
        return None if self.credentials is None else self.credentials.membership
