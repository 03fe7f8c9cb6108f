"""`mesh distribute` and its company, against a node whose progress the test decides."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from mesh.cli import distributions
from mesh.cli.output import Cell
from mesh.cli.progress import counts, in_order, summary
from mesh.control.methods import Listed
from mesh.core.scopes import AllNodes, Nodes
from mesh.core.status import (
    DistributionHandle,
    DistributionStatus,
    NodeTransferStatus,
    TransferPriority,
    TransferState,
)
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.node.missing_blobs import MissingBlob
from tests.unit.cli.conftest import ServedNode
from tests.unit.fake_node import HUB_ID, SELF_ID, VAN_ID, node_status, status_of

HANDLE = DistributionHandle("d", "h" * 64, AllNodes(), TransferPriority.NORMAL, 0.0)
COMPLETED, FAILED, MOVING = TransferState.COMPLETED, TransferState.FAILED, TransferState.TRANSFERRING


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "map.mbtiles").write_bytes(b"x" * 100)
    return str(tmp_path / "map.mbtiles")


def script(served: ServedNode, *steps: tuple[list[NodeTransferStatus], dict[str, Any]]) -> None:
    """Whoever follows a distribution is shown these statuses, one after another."""
    distributions = served.node.distributions
    original = distributions.subscribe_progress

    def subscribe_progress(id: str) -> Any:
        stream = original(id)

        async def play() -> None:
            for nodes, more in steps:
                await distributions.push(id, *nodes, **more)

        served.spawn(play())
        return stream

    distributions.subscribe_progress = subscribe_progress  # type: ignore[method-assign]


def test_distribute_prints_the_id(served: ServedNode, file: str) -> None:
    result = served.mesh("distribute", file, "--scope", "formation:north", "--priority", "high")
    assert result.stdout == "d0aaaaaaaaaaaaaaaaaaaaaaaa\n"
    assert result.stderr == "map.mbtiles (100 B) to formation:north, high\n"
    made = served.json("distribute", file, "--expires", "1h", "--supersedes", "d0")
    assert made["distribution_id"] == made["handle"]["distribution_id"] == "d1" + "a" * 24
    assert made["token"]["size_bytes"] == 100
    assert served.node.distributions.made[1] == {"expires_in": 3600.0, "supersedes": "d0" + "a" * 24}


def test_a_blob_that_is_held_can_be_distributed(served: ServedNode, file: str) -> None:
    token = served.json("add", file)
    assert served.json("distribute", "--blob", token["hash"][:9])["token"] == token


def test_what_does_not_go_together_is_an_error_of_usage(served: ServedNode, file: str) -> None:
    for arguments in ([], [file, "--blob", "ab"], [file, "--timeout", "3"], [file, "--expires", "soon"]):
        assert served.mesh("distribute", *arguments).exit_code == 2


def test_nodes_are_named_by_the_start_of_their_id_or_by_name(served: ServedNode, file: str) -> None:
    for typed in ("vvv", "van7", VAN_ID, "vvv,van7"):
        made = served.json("distribute", file, "--scope", f"nodes:{typed}")
        assert made["handle"]["scope"]["node_ids"] == [VAN_ID]
        assert made["nodes_in_scope"] == 1


def test_a_node_that_is_not_known_is_refused(served: ServedNode, file: str) -> None:
    for typed in ("van9", "x" * 51, "v" * 51 + "1"):
        result = served.mesh("distribute", file, "--scope", f"nodes:{VAN_ID},{typed}")
        assert result.exit_code == 4
        assert f"no node {typed!r} is known here" in result.stderr
        assert "the whole id (52 characters)" in result.stderr
    assert served.node.distributions.made == []


def test_a_scope_that_nobody_is_in_is_a_warning(served: ServedNode, file: str) -> None:
    for scope in (f"nodes:{'x' * 52}", "formation:south"):
        for more in ([], ["--json"]):
            result = served.mesh("distribute", file, "--scope", scope, *more)
            assert result.exit_code == 0
            warning = f"mesh: no node that is known here is in {scope} now: it waits for one\n"
            assert result.stderr.startswith(warning)
    assert served.mesh("distribute", file).stderr == "map.mbtiles (100 B) to all, normal\n"


def test_wait_shows_changes_and_ends_with_success(served: ServedNode, file: str) -> None:
    script(
        served,
        (
            [node_status(VAN_ID, MOVING, 40), node_status(HUB_ID, TransferState.PENDING, error="no source")],
            {},
        ),
        ([node_status(VAN_ID, MOVING, 44), node_status(HUB_ID, COMPLETED, 100)], {}),
        ([node_status(VAN_ID, COMPLETED, 100), node_status(HUB_ID, COMPLETED, 100)], {}),
    )
    result = served.mesh("distribute", file, "--wait")
    assert (result.exit_code, result.stderr) == (0, "distribution d0aaaaaaaaaaaaaaaaaaaaaaaa\n")
    assert result.stdout.splitlines() == [
        "van7  transferring  40%",
        "hhhhhhhh  pending  0%  no source",
        "hhhhhhhh  completed  100%",
        "van7  completed  100%",
        "completed: 2 of 2 completed",
    ]


def test_wait_fails_when_a_target_failed(served: ServedNode, file: str) -> None:
    script(
        served, ([node_status(VAN_ID, COMPLETED, 100), node_status(HUB_ID, FAILED, error="disk full")], {})
    )
    result = served.mesh("distribute", file, "--wait", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failed"] == 1


def test_wait_fails_when_it_was_cancelled(served: ServedNode, file: str) -> None:
    script(served, ([node_status(VAN_ID, TransferState.CANCELLED)], {"is_cancelled": True}))
    result = served.mesh("distribute", file, "--wait")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (
        1,
        "cancelled: 0 of 1 completed, 1 cancelled",
    )


def test_wait_gives_up_after_its_timeout(served: ServedNode, file: str) -> None:
    result = served.mesh("distribute", file, "--wait", "--timeout", "0.1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["type"] == "DistributionTimeout"
    assert "goes on in the background" in result.stderr


def test_a_distribution_can_be_followed_as_json_lines(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file)
    script(
        served,
        ([node_status(VAN_ID, MOVING, 40)], {}),
        ([node_status(VAN_ID, COMPLETED, 100)], {}),
    )
    result = served.mesh("distribution", "d0", "--watch", "--json")
    assert result.exit_code == 0
    statuses = [json.loads(line) for line in result.stdout.splitlines()]
    assert [status["completed"] for status in statuses] == [0, 0, 1]


def test_a_node_that_stops_meanwhile_is_not_success(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file)
    distributions = served.node.distributions
    original = distributions.subscribe_progress

    def subscribe_progress(id: str) -> Any:
        stream = original(id)
        stream.finish()
        return stream

    distributions.subscribe_progress = subscribe_progress  # type: ignore[method-assign]
    result = served.mesh("distribution", "d0", "--watch")
    assert result.exit_code == 4
    goes_on = f"The distribution goes on; once it runs again, `mesh distribution {'d0' + 'a' * 24}` shows"
    assert goes_on in result.stderr
    assert "no node is running" in result.stderr


def test_one_distribution(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file)
    served.run(
        served.node.distributions.push(
            "d0" + "a" * 24,
            node_status(VAN_ID, MOVING, 40, rate=6.0),
            node_status(HUB_ID, FAILED, error="disk\x1b[2J full"),
        )
    )
    lines = served.mesh("distribution", "d0").stdout.splitlines()
    assert lines == [
        "d0aaaaaaaaaaaaaaaaaaaaaaaa  map.mbtiles (100 B) to all, normal",
        "transferring: 0 of 2 completed, 1 in progress, 1 failed",
        "node      state         done  bytes   rate  left     heard  reason",
        "van7      transferring   40%   40 B  6 B/s  10 s  1 m 05 s",
        "hhhhhhhh  failed          0%    0 B                  never  disk\ufffd[2J full",
    ]
    assert served.json("distribution", "d0")["status"]["failed"] == 1
    served.run(
        served.node.distributions.push(
            "d0" + "a" * 24,
            node_status("far", MOVING, 40),
            node_status(HUB_ID, TransferState.PENDING, error="waits"),
        )
    )
    lines = served.mesh("distribution", "d0").stdout.splitlines()
    assert lines[3].endswith("2 m 05 s  when last heard of, no link from here")
    assert lines[4].endswith("never  not heard of yet; waits")


def test_a_file_that_its_publisher_does_not_hold(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file)
    token, id = BlobToken("h" * 64, 1, "c" * 64, BlobMetadata("map\x1b[2J")), "d0" + "a" * 24
    lacks = "this node does not hold the file that it distributes: see `mesh doctor`"
    served.node.missing = [MissingBlob(token, ["e" * 26])]
    assert lacks not in served.mesh("distribution", "d0").stdout
    served.node.missing = [MissingBlob(token, [id])]
    assert lacks in served.mesh("distribution", "d0").stdout.splitlines()
    result = served.mesh("doctor")
    assert result.exit_code == 1
    assert "blob: map\ufffd[2J is distributed by this node, which does not hold it" in result.stdout
    assert f"(blob {token.hash}, distribution {id})\n  if it was added with --link" in result.stdout
    *_, finding = json.loads(served.mesh("doctor", "--json").stdout)["findings"]
    assert finding["subject"] == "blob"


def test_all_distributions(served: ServedNode, file: str) -> None:
    result = served.mesh("distributions")
    assert (result.stdout, result.stderr) == ("", "no distributions here\n")
    assert served.json("distributions") == []
    served.mesh("distribute", file)
    lines = served.mesh("distributions").stdout.splitlines()
    titles = ["id", "file", "size", "from", "to", "priority", "age", "done", "targets", "state"]
    assert lines[0].split() == titles
    assert lines[1].split()[:6] == ["d0aaaaaa", "map.mbtiles", "100", "B", "all", "normal"]
    assert lines[1].endswith("0%      0/0  no targets")


def publish(served: ServedNode, publisher: str) -> None:
    document = served.node.collection("distributions").documents["d0" + "a" * 24]
    served.run(served.node.collection("distributions").upsert(document | {"publisher": publisher}))


def test_whose_distribution_it_is_and_that_little_is_known_here(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file, "--scope", f"nodes:van7,{'x' * 52}")
    publish(served, SELF_ID)
    result = served.mesh("distributions")
    assert result.stdout.splitlines()[1].split()[4:6] == ["here", "nodes:van7,xxxxxxxx"]
    assert result.stderr == ""
    assert "as heard here" not in served.mesh("distribution", "d0").stdout
    publish(served, VAN_ID)
    result = served.mesh("distributions")
    assert " van7  nodes:van7,xxxxxxxx " in result.stdout
    assert result.stderr == ("those of others: as heard here; `mesh distribution ID --watch` asks for all\n")
    lines = served.mesh("distribution", "d0").stdout.splitlines()
    assert lines[0].endswith("map.mbtiles (100 B) to nodes:van7,xxxxxxxx, normal")
    assert lines[2] == "as heard here: its publisher van7 knows all, --watch asks for it"


async def test_a_list_that_is_watched_shows_the_newest_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(
        file=io.StringIO(), force_terminal=True, width=80, height=8, record=True, color_system=None
    )
    monkeypatch.setattr(distributions, "console", lambda: screen)
    scope = Nodes([VAN_ID, HUB_ID])
    handles = [DistributionHandle(f"d{i}", "h" * 64, scope, TransferPriority.NORMAL, i) for i in range(9)]
    listed = [
        Listed(status_of(handle, node_status(VAN_ID, COMPLETED)), "m" * 40, 10, VAN_ID).to_dict()
        for handle in handles
    ]

    class Node:
        async def call(self, method: str) -> Any:
            info, members = {"node_id": SELF_ID}, [{"_id": VAN_ID, "name": "van7"}]
            return {"node.info": info, "node.members": members}[method]

    async def lists() -> AsyncIterator[Any]:
        yield listed

    await distributions._redraw(cast(Any, Node()), lists())
    *_, title, older, first, _, _, last, note = screen.export_text().splitlines()
    assert title.split()[-7:] == ["file", "from", "to", "age", "done", "targets", "state"]
    assert older == "(5 older not shown)"
    assert (first.split()[0], last.split()[0]) == ("d5", "d8")
    assert last.endswith("1/1  completed")
    assert len(last) <= 80
    assert note == "those of others: as heard here; `mesh distribution ID --watch` asks for all"


def test_cancel_and_retry(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file)
    id = "d0" + "a" * 24
    assert served.mesh("cancel", "d0").stdout == f"cancelled {id}\n"
    assert served.json("retry", "d0") == {"distribution_id": id}
    distributions = served.node.distributions
    assert (distributions.cancelled, distributions.retried) == ([id], [id])
    assert served.mesh("retry", "d0").stdout == f"no target of {id} is known to have failed\n"
    served.run(distributions.push(id, node_status(VAN_ID, FAILED, error="no disk")))
    assert served.mesh("retry", "d0").stdout == f"retrying {id}\n"
    served.run(distributions.push(id, node_status(VAN_ID, COMPLETED)))
    assert served.mesh("cancel", "d0").stdout == f"{id} is completed; nobody else begins it any more\n"
    served.run(distributions.push(id, node_status(VAN_ID, MOVING), is_cancelled=True))
    assert served.mesh("cancel", "d0").stdout == f"{id} was cancelled already\n"


def test_an_unknown_distribution_is_an_error_of_input(served: ServedNode) -> None:
    result = served.mesh("distribution", "zzz")
    assert (result.exit_code, result.stderr) == (4, "mesh: no distribution zzz is known here\n")


def test_watching_all_prints_a_line_per_change(served: ServedNode, file: str) -> None:
    served.mesh("distribute", file)
    collection = served.node.collection("distributions")
    original = collection.observe
    ended = asyncio.Event()

    def observe(selector: Any = None) -> Any:
        async def play() -> None:
            await served.node.distributions.push("d0" + "a" * 24, node_status(VAN_ID, COMPLETED, 100))
            await served.close_soon()

        served.spawn(play())
        return original(selector)

    collection.observe = observe  # type: ignore[method-assign]
    result = served.mesh("distributions", "--watch")
    assert result.exit_code == 4
    assert result.stdout.splitlines()[-1] == "d0aaaaaa  map.mbtiles  completed: 1 of 1 completed"
    assert not ended.is_set()


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (status_of(HANDLE), "no targets"),
        (status_of(HANDLE, node_status(VAN_ID, TransferState.PENDING)), "pending"),
        (status_of(HANDLE, node_status(VAN_ID, MOVING)), "transferring"),
        (status_of(HANDLE, node_status(VAN_ID, COMPLETED, 100)), "completed"),
        (status_of(HANDLE, node_status(VAN_ID, FAILED)), "failed"),
        (status_of(HANDLE, node_status(VAN_ID, MOVING), is_cancelled=True), "cancelled"),
        (status_of(HANDLE, is_cancelled=True, superseded_by="e"), "superseded"),
        (status_of(HANDLE, is_expired=True), "expired"),
        (status_of(HANDLE, node_status(VAN_ID, COMPLETED, 100), is_expired=True), "completed"),
    ],
)
def test_a_distribution_in_one_word(status: DistributionStatus, word: str) -> None:
    assert isinstance(summary(status), Cell)
    assert summary(status).text == word


def test_counts_leave_out_what_there_is_none_of() -> None:
    status = status_of(HANDLE, node_status(VAN_ID, COMPLETED, 100), node_status(HUB_ID, MOVING))
    assert counts(status) == "1 of 2 completed, 1 in progress"


def test_who_moves_comes_first() -> None:
    nodes = [node_status(str(i), state) for i, state in enumerate(TransferState)]
    shown = [node.status.value for node in in_order(status_of(HANDLE, *nodes), {})]
    assert shown == ["transferring", "connecting", "failed", "pending", "cancelled", "completed"]
