"""What the verbs refuse, before anything is written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mesh.core.scopes import AllNodes, Capable, Formation, Nodes
from mesh.core.status import DistributionHandle, TransferPriority
from mesh.core.tokens import BlobMetadata
from mesh.errors import (
    InvalidDistribution,
    InvalidScope,
    InvalidToken,
    NotStarted,
    PermissionDenied,
    UnknownDistribution,
)
from tests.unit.distributions.world import GHOST, NORTH, World, in_a_world, later, published

_HANDLE = DistributionHandle("a" * 26, "ab" * 32, AllNodes(), TransferPriority.NORMAL, 0.0)


def test_given_somebody_elses_distribution_when_cancelled_or_retried_then_it_is_denied() -> None:
    async def run(world: World) -> None:
        hq, van, handle = await published(world)
        await later()
        for refused in (van.service.cancel, van.service.retry):
            with pytest.raises(PermissionDenied):
                await refused(handle)
        with pytest.raises(PermissionDenied):
            await van.service.distribute(hq.blobs.add(b"v2"), NORTH, supersedes=handle)

    in_a_world(run)


def test_given_an_unknown_id_then_every_verb_says_so() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        with pytest.raises(UnknownDistribution):
            await hq.service.cancel("nobody")
        with pytest.raises(UnknownDistribution):
            await hq.service.status("nobody")
        with pytest.raises(UnknownDistribution):
            await hq.service.retry("nobody")
        with pytest.raises(UnknownDistribution):
            await hq.service.wait_for_completion("nobody", 1)
        with pytest.raises(UnknownDistribution):
            await anext(hq.service.subscribe_progress("nobody"))
        with pytest.raises(UnknownDistribution):
            await hq.service.distribute(hq.blobs.add(b"v2"), NORTH, supersedes="nobody")

    in_a_world(run)


def test_given_nonsense_when_distributed_then_it_is_refused_and_nothing_is_written() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        token = hq.blobs.add(b"map")
        for scope, why in (
            (Nodes([]), "node_ids is a list of 1 to 1024 ids of nodes"),
            (Nodes(["hq"]), "'hq' is the name of hq: Nodes takes ids; `await node.members"),
            (Nodes([GHOST, "van 7"]), "is not understood, so it matches nobody: node_ids is a list"),
            (Nodes([GHOST, "hq"]), "'hq' is the name of hq"),
            (Formation(""), "a formation has a name of 1 to 128 printable characters"),
            (Capable(min_gpu_gb="much"), "min_gpu_gb is a number above 0"),  # type: ignore[arg-type]
            ("all", "a scope is AllNodes, Formation, Nodes or Capable, not 'all'"),
            (None, "a scope is AllNodes, Formation, Nodes or Capable, not None"),
        ):
            with pytest.raises(InvalidScope, match=why):
                await hq.service.distribute(token, scope)  # type: ignore[arg-type]
            with pytest.raises(InvalidScope, match=why):
                await hq.service.dry_run(scope)  # type: ignore[arg-type]
        with pytest.raises(InvalidDistribution):
            await hq.service.distribute(token, AllNodes(), 9)  # type: ignore[arg-type]
        for expires_in in (0, -1, float("inf"), float("nan"), 1e13, 10**400, "5"):
            with pytest.raises(InvalidDistribution, match="expires_in is a number of seconds"):
                await hq.service.distribute(token, AllNodes(), expires_in=expires_in)  # type: ignore[arg-type]
        for field, value in (
            ("hash", "no"),
            ("hash", 5),
            ("hash", "\ud800"),
            ("size_bytes", 5.0),
            ("size_bytes", -1),
            ("size_bytes", 10**30),
            ("size_bytes", None),
            ("metadata", None),
            ("metadata", BlobMetadata(name=5)),  # type: ignore[arg-type]
            ("metadata", BlobMetadata(custom={"a": 5})),  # type: ignore[dict-item]
            ("metadata", BlobMetadata(custom={"a": object()})),  # type: ignore[dict-item]
        ):
            with pytest.raises(InvalidToken):
                await hq.service.distribute(msgspec.structs.replace(token, **{field: value}), AllNodes())
        hq.skew = 1e12
        with pytest.raises(InvalidDistribution, match="every peer would refuse"):
            await hq.service.distribute(token, AllNodes())
        hq.skew = 0.0
        assert not await hq.service.handles()
        await hq.service.close()
        with pytest.raises(NotStarted):
            await hq.service.distribute(token, AllNodes())

    in_a_world(run)


def test_given_no_handle_then_every_verb_says_so() -> None:
    async def run(world: World) -> None:
        hq = await world.start("hq")
        nonsense: list[Any] = [None, 5, [], msgspec.structs.replace(_HANDLE, distribution_id=5)]
        for handle in nonsense:
            with pytest.raises(InvalidDistribution, match="handle or id"):
                await hq.service.status(handle)
            with pytest.raises(InvalidDistribution, match="handle or id"):
                await hq.service.cancel(handle)
            with pytest.raises(InvalidDistribution, match="handle or id"):
                await hq.service.retry(handle)
            with pytest.raises(InvalidDistribution, match="handle or id"):
                await hq.service.wait_for_completion(handle, 1)
            with pytest.raises(InvalidDistribution, match="handle or id"):
                hq.service.subscribe_progress(handle)

    in_a_world(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, None, "5"])
def test_given_times_that_are_none_when_waiting_then_they_are_refused(value: Any) -> None:
    async def run(world: World) -> None:
        hq, _, handle = await published(world)
        with pytest.raises(InvalidDistribution, match="timeout is a number of seconds"):
            await hq.service.wait_for_completion(handle, value)
        with pytest.raises(InvalidDistribution, match="settle is a number of seconds"):
            await hq.service.wait_for_completion(handle, 10, settle=value)
        with pytest.raises(InvalidDistribution, match="min_targets is at least 1"):
            await hq.service.wait_for_completion(handle, 10, min_targets=value)

    in_a_world(run)
