"""The stage of the behaviour suite: whole nodes on virtual time, and the file distribution of either backend.

A case is an ``async`` function of a :class:`Mesh`; a decorator makes a test of it:

- ``both``: what the interface promises, so both backends have to keep it;
- ``only_documents(reason)``, ``only_direct(reason)``: what one of them cannot, and why.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from mesh import (
    AllNodes,
    BlobToken,
    Capabilities,
    DistributionHandle,
    DistributionStatus,
    FileDistribution,
    Node,
    TransferState,
)
from mesh.core import records
from mesh.core.delivery import ReceiveMode
from mesh.core.identity import node_id_of
from mesh.core.receipts import DistributionRecord, Receipt, distribution_id_of, receipt_id_of
from mesh.core.scopes import DistributionScope
from mesh.core.status import TransferPriority
from mesh.core.wire import DirectOffer, DirectReceipt
from tests.simulation.virtual_clock import DAY, run_virtual
from tests.simulation.world import ANY_MACHINE, EPOCH, World

MINUTE = 60.0
YEAR = 365 * DAY
DONE, FAILED, CANCELLED = TransferState.COMPLETED, TransferState.FAILED, TransferState.CANCELLED
PENDING = TransferState.PENDING
GHOST = node_id_of(b"ghost")
"""The id of a node that nobody ever meets."""

MAP = b"a map of the north, drawn by hand\n" * 40
BIG = bytes(range(256)) * 16 * 1024
"""4 MiB: four chunks."""

SLOW = 512 * 1024
"""Bytes a second: ``BIG`` takes some eight seconds."""

Case = Callable[..., Coroutine[Any, Any, None]]
"""Of a mesh, and of whatever fixtures and parameters it names."""


class Mesh:
    """Nodes by name, of which each dials those that it is given, and the service of one backend."""

    def __init__(self, root: Path, backend: str, seed: int) -> None:
        self.backend = backend
        self.world = World(seed, root, delay=0.01)
        self._root = root

    async def start(
        self,
        name: str,
        *peers: str,
        formations: Iterable[str] = (),
        hub: bool = False,
        skew: float = 0.0,
        receive: ReceiveMode = "auto",
        capabilities: Capabilities = ANY_MACHINE,
        slow: bool = False,
    ) -> Node:
        """A running node with an inbox; what is ``slow`` moves ``SLOW`` bytes a second."""
        if slow:
            self.world.network.set_bandwidth(name, SLOW)
        return await self.world.start(
            name,
            peers,
            formations=formations,
            hub=hub,
            skew=skew,
            inbox=True,
            receive=receive,
            capabilities=capabilities,
        )

    async def start_hq_and_van(self, *, slow: bool = False) -> None:
        """The publisher ``hq``, and ``van`` of the north, linked."""
        await self.start("hq")
        await self.start("van", "hq", formations=["north"], slow=slow)
        await later(1)

    def node(self, name: str) -> Node:
        """A running node."""
        return self.world.nodes[name]

    def id(self, name: str) -> str:
        """The node id."""
        return self.node(name).node_id

    def files(self, name: str = "hq") -> FileDistribution:
        """The service of a node, of the backend that is looked at."""
        node = self.node(name)
        return node.distributions if self.backend == "documents" else node.direct

    async def distribute(
        self,
        content: bytes = MAP,
        scope: DistributionScope = AllNodes(),  # noqa: B008 - it is frozen
        priority: TransferPriority = TransferPriority.NORMAL,
        *,
        by: str = "hq",
        name: str = "map.bin",
        expires_in: float | None = None,
        supersedes: DistributionHandle | str | None = None,
    ) -> DistributionHandle:
        """Add a file and distribute it."""
        token = await self.node(by).attachments.add(content, name=name)
        return await self.files(by).distribute(
            token, scope, priority, expires_in=expires_in, supersedes=supersedes
        )

    async def states(self, handle: DistributionHandle, at: str = "hq") -> dict[str, TransferState]:
        """The state of every target, by name."""
        return self.states_of(await self.files(at).status(handle))

    def states_of(self, status: DistributionStatus) -> dict[str, TransferState]:
        """The states in a status, by name (or by id, where nobody has the name)."""
        names = {node.node_id: name for name, node in self.world.nodes.items()}
        return {names.get(node_id, node_id): node.status for node_id, node in status.node_statuses.items()}

    async def reason(self, handle: DistributionHandle, name: str) -> str:
        """Why a node is where it is with a distribution, as the publisher knows."""
        return (await self.files().status(handle)).node_statuses[self.id(name)].error or ""

    def inbox(self, name: str) -> dict[str, bytes]:
        """Everything that is visible in a node's inbox."""
        found = sorted((self._root / name / "inbox").glob("*"))
        return {path.name: path.read_bytes() for path in found if not path.name.startswith(".")}

    def inbox_path(self, name: str) -> Path:
        """Where the inbox is."""
        return self._root / name / "inbox"

    def delivered(self) -> list[str]:
        """The running nodes whose inbox has something, in the order of the alphabet."""
        return sorted(name for name in self.world.nodes if self.inbox(name))

    async def publish_raw(self, token: BlobToken, scope: dict[str, Any], by: str = "hq") -> str:
        """Publish what no ``distribute`` of this version would; the id."""
        node, nonce = self.node(by), "0123456789abcdef"
        record = DistributionRecord(
            distribution_id_of(node.node_id, nonce),
            token,
            scope,
            TransferPriority.NORMAL,
            node.node_id,
            nonce,
            EPOCH,
        )
        if self.backend == "documents":
            await _parts(node).owned.write("distributions", record.distribution_id, record.body())
        else:
            for link in _parts(node).peers.links.values():
                link.send(DirectOffer(msgspec.json.encode(record)))
        return record.distribution_id

    async def claim(
        self, handle: DistributionHandle, by: str, state: TransferState, size: int, *, of: str | None = None
    ) -> None:
        """``by`` says that it (or, as a forgery, the node ``of``) is in ``state``, whatever is true."""
        node, node_id = self.node(by), self.id(of or by)
        receipt = Receipt(
            receipt_id_of(handle.distribution_id, node_id),
            handle.distribution_id,
            node_id,
            self.id("hq"),
            state,
            size,
            size,
            EPOCH,
            revision=1000,
        )
        if self.backend == "documents":
            with patch.object(records, "owner_of", lambda *_: node.node_id):  # at this node only
                await _parts(node).owned.write("receipts", receipt.receipt_id, receipt.body())
        else:
            for link in _parts(node).peers.links.values():
                link.send(DirectReceipt(msgspec.json.encode(receipt)))
        await later(1)


def _parts(node: Node) -> Any:
    """What a node is made of."""
    assert node._parts is not None
    return node._parts


async def later(seconds: float = MINUTE) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)


def both(case: Case) -> Callable[..., None]:
    """Make a test of ``case`` for either backend."""
    return _test(case, {"documents": None, "direct": None})


def only_documents(reason: str) -> Callable[[Case], Callable[..., None]]:
    """Make a test of a case that a direct distribution cannot satisfy, for this ``reason``."""
    return lambda case: _test(case, {"documents": None, "direct": reason})


def only_direct(reason: str) -> Callable[[Case], Callable[..., None]]:
    """Make a test of a case that is otherwise with documents, for this ``reason``."""
    return lambda case: _test(case, {"documents": reason, "direct": None})


def _test(case: Case, skipped: dict[str, str | None]) -> Callable[..., None]:
    seed = sum(case.__name__.encode())  # odd or even: files are worked on as if on threads, or at once

    @functools.wraps(case)
    def test(tmp_path: Path, backend: str, **arguments: Any) -> None:
        async def main() -> None:
            mesh = Mesh(tmp_path, backend, seed)
            await case(mesh, **arguments)
            await mesh.world.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run_virtual(main())

    own = list(inspect.signature(case).parameters.values())[1:]
    given = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("tmp_path", "backend")]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    test.__signature__ = inspect.Signature([*given, *keywords])  # type: ignore[attr-defined]
    backends = [
        pytest.param(name, marks=[] if reason is None else pytest.mark.skip(reason=reason))
        for name, reason in skipped.items()
    ]
    made: Callable[..., None] = pytest.mark.parametrize("backend", backends)(test)
    return made
