"""The commands, run against the control endpoint of a node of plain dicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mesh.attachments.holding import Holding
from mesh.cli.main import cli
from mesh.core.rates import Limits
from mesh.core.tokens import BlobMetadata
from mesh.errors import BlobCorrupt
from tests.unit.cli.conftest import ServedNode
from tests.unit.fake_node import HUB_ID, SELF_ID, TOKEN, VAN_ID, FakeDelivery


def test_home_and_json_are_taken_before_and_after_the_command(served: ServedNode) -> None:
    home = str(served.home)
    for arguments in (
        ["--home", home, "--json", "members"],
        ["members", "--home", home, "--json"],
        ["--home", "/nowhere", "members", "--json", "--home", home],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        assert [member["name"] for member in json.loads(result.stdout)] == ["desk", "van7"]
    result = CliRunner().invoke(cli, ["members", "--json"], env={"MESH_HOME": home})
    assert len(json.loads(result.stdout)) == 2
    result = CliRunner().invoke(cli, ["members", "--json", "--home", "/nowhere"], env={"MESH_HOME": home})
    assert result.exit_code == 4


def test_no_node_running(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "members"])
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr == (
        f"mesh: no node is running on {tmp_path}: start one with `mesh up --home {tmp_path}`\n"
    )


def test_errors_are_json_with_json(tmp_path: Path) -> None:
    for arguments in (["--json", "members"], ["members", "--json"]):
        result = CliRunner().invoke(cli, [*arguments, "--home", str(tmp_path)])
        assert result.exit_code == 4
        assert json.loads(result.stdout)["error"]["type"] == "NodeNotRunning"
        assert "mesh up --home" in json.loads(result.stdout)["error"]["message"]


def test_errors_of_usage(tmp_path: Path) -> None:
    for arguments in (
        ["nonsense"],
        ["query"],
        ["distribute", "f", "--priority", "urgent"],
        ["members", "--no"],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "Usage: " in result.stderr
        result = CliRunner().invoke(cli, [*arguments, "--json"])
        assert result.exit_code == 2
        assert json.loads(result.stdout)["error"]["type"] == "UsageError"


def test_help_names_every_command_and_ends_well() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name, command in cli.commands.items():
        assert name in result.stdout
        assert not command.get_short_help_str(70).endswith("..."), name
        assert command.get_short_help_str(), name
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).stdout.startswith("mesh ")
    assert CliRunner().invoke(cli, ["version"]).stdout == CliRunner().invoke(cli, ["--version"]).stdout
    assert list(json.loads(CliRunner().invoke(cli, ["version", "--json"]).stdout)) == ["version"]


# --- documents --------------------------------------------------------------------------------


def test_documents_are_written_and_queried(served: ServedNode) -> None:
    assert served.mesh("upsert", "cars", '{"_id": "a", "year": 2001}').stdout == "a\n"
    assert served.mesh("upsert", "cars", "-", stdin='{"_id": "b", "year": 2012, "on": true}').stdout == "b\n"
    assert served.json("query", "cars", '{"year": 2012}') == [{"_id": "b", "year": 2012, "on": True}]
    assert served.json("query", "cars", "--sort", "year:desc", "--limit", "1", "--fields", "year") == [
        {"_id": "b", "year": 2012}
    ]
    result = served.mesh("query", "cars", "--sort", "year")
    assert [json.loads(line)["_id"] for line in result.stdout.splitlines()] == ["a", "b"]
    assert served.json("collections") == {"cars": 2}
    assert served.mesh("collections").stdout == "documents  collection\n        2  cars\n"
    assert served.json("remove", "cars", "a") == {"removed": 1}
    result = served.mesh("remove", "cars", "a")
    assert (result.exit_code, result.stdout) == (1, "no a in cars\n")


def test_an_index_is_declared_and_explained(served: ServedNode) -> None:
    query = ["query", "cars", '{"year": 2012}', "--explain"]
    assert served.mesh(*query).stdout == (
        "goes through the whole collection\ncompares each document that is found with the selector again\n"
    )
    assert served.mesh("index", "cars", "year").stdout == "indexed cars by year\n"
    assert served.mesh(*query).stdout == "uses cars['year']: year\n"
    assert served.json(*query)["fields"] == ["year"]


def test_indexes_are_listed_and_dropped(served: ServedNode) -> None:
    result = served.mesh("index", "cars")
    assert (result.stdout, result.stderr) == ("", "no indexes of cars\n")
    for fields in (["year"], ["year", "address.city"]):
        served.mesh("index", "cars", *fields)
    assert served.json("index", "cars") == [["year"], ["year", "address.city"]]
    assert served.mesh("index", "cars").stdout == "fields\nyear\nyear, address.city\n"
    assert served.mesh("index", "cars", "year", "--drop").stdout == "no longer indexes cars by year\n"
    result = served.mesh("index", "cars", "year", "--drop")
    assert (result.exit_code, result.stdout) == (1, "no index of cars by year\n")
    assert served.json("index", "cars") == [["year", "address.city"]]
    assert served.mesh("index", "cars", "--drop").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["query", "cars", "{oops"], "InvalidSelector"),
        (["query", "cars", "[1]"], "InvalidSelector"),
        (["watch", "cars", "'"], "InvalidSelector"),
        (["subscribe", "cars", "{"], "InvalidSelector"),
        (["upsert", "cars", "3"], "InvalidDocument"),
        (["upsert", "cars", "{'a': 1}"], "InvalidDocument"),
        (["distribute", "f", "--scope", "everybody"], "InvalidScope"),
        (["distribute", "f", "--scope", "capable:color=red"], "InvalidScope"),
        (["distribute", "f", "--scope", "nodes:"], "InvalidScope"),
    ],
)
def test_bad_input_is_named_without_a_node(tmp_path: Path, arguments: list[str], kind: str) -> None:
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "--json", *arguments])
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["type"] == kind
    assert result.stderr.startswith("mesh: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ("formation:", "comes a name"),
        ("nodes:", "come names or ids"),
        ("nodes:a,,b", "come names or ids"),
        ("capable:", "min_gpu_gb=NUMBER, cpu_arch=WORD, min_storage_mb=NUMBER"),
        ("capable:gpu=4", "min_gpu_gb=NUMBER"),
        ("capable:min_gpu_gb=-4", "above 0"),
        ("capable:min_gpu_gb=many", "min_gpu_gb=NUMBER"),
        ("everybody", "use all, formation:NAME"),
    ],
)
def test_a_bad_scope_is_told_how_to_write_it(tmp_path: Path, scope: str, told: str) -> None:
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "distribute", "f", "--scope", scope])
    assert result.exit_code == 4
    assert repr(scope) in result.stderr
    assert told in result.stderr
    assert "$." not in result.stderr


def test_subscribe(served: ServedNode) -> None:
    result = served.mesh("subscribe", "cars", '{"region": "north"}')
    assert result.stdout == "subscribed to cars\n"
    assert served.node.collection("cars").subscriptions == [{"region": "north"}]


def test_subscriptions_are_listed_and_cancelled(served: ServedNode) -> None:
    assert served.mesh("subscriptions").stderr == "no subscriptions\n"
    served.mesh("subscribe", "cars", '{"region": "north"}')
    served.mesh("subscribe", "cars")
    assert served.json("subscriptions") == [
        {"collection": "cars", "selector": {"region": "north"}},
        {"collection": "cars", "selector": {}},
    ]
    listed = served.mesh("subscriptions").stdout
    assert listed == 'collection  selector\ncars        {"region":"north"}\ncars        all\n'
    assert served.mesh("unsubscribe", "cars").stdout == "unsubscribed from cars\n"
    result = served.mesh("unsubscribe", "cars")
    assert (result.exit_code, result.stdout) == (1, "not subscribed to cars\n")
    result = served.mesh("unsubscribe", "cars", '{"region": "north"}')
    assert result.stdout == 'unsubscribed from cars {"region":"north"}\n'
    assert served.json("subscriptions") == []


def test_watch_prints_what_is_there_and_says_when_the_node_stops(served: ServedNode) -> None:
    cars = served.node.collection("cars")
    served.run(cars.upsert({"_id": "a", "note": "esc\x1b[2J"}))

    async def change_then_stop() -> None:
        await cars.upsert({"_id": "b"})
        await cars.remove("a")
        for stream in list(cars.streams):
            stream.finish()

    original = cars.observe

    def observe(selector: Any = None) -> Any:
        stream = original(selector)
        served.loop.call_later(0, lambda: served.spawn(change_then_stop()))
        return stream

    cars.observe = observe  # type: ignore[method-assign]
    result = served.mesh("watch", "cars")
    assert result.stdout.splitlines() == [
        '= {"_id":"a","note":"esc\\u001b[2J"}',
        '+ {"_id":"b"}',
        '- {"_id":"a"}',
    ]
    assert result.exit_code == 4
    assert "no node is running" in result.stderr


# --- files ------------------------------------------------------------------------------------


def test_files_are_added_listed_and_exported(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "map.mbtiles").write_bytes(b"x" * 1500)
    token = json.loads(served.mesh("add", str(tmp_path / "map.mbtiles")).stdout)
    assert (token["size_bytes"], token["metadata"]["name"]) == (1500, "map.mbtiles")
    [held] = served.json("blobs")
    assert held.items() >= (token | {"held_bytes": 1500, "partial": False}).items()
    lines = served.mesh("blobs").stdout.splitlines()
    assert lines[1].split() == ["1.5", "kB", "map.mbtiles", token["hash"]]
    assert served.json("export", token["hash"][:8], str(tmp_path / "out")) == token
    assert (tmp_path / "out").read_bytes() == b"x" * 1500


def test_blobs_are_pinned_and_verified(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"x" * 1500)
    token = served.json("add", str(tmp_path / "map"), "--pin")
    blobs = served.node.attachments
    assert blobs.pinned == {token["hash"]}
    assert served.mesh("unpin", token["hash"][:8]).stdout == f"{token['hash']}  not pinned\n"
    assert blobs.pinned == set()
    assert served.json("pin", token["hash"]) == token
    assert blobs.pinned == {token["hash"]}
    result = served.mesh("verify")
    assert result.exit_code == 0
    assert result.stdout.startswith("1 blobs read, 1.5 kB: 0 damaged and repaired, 0 damaged")
    blobs.lost = [token["hash"]]
    result = served.mesh("verify")
    assert result.exit_code == 1
    assert f"{token['hash']}  not repaired: nobody who is linked has it (stalled)\n" in result.stdout
    assert "no node is linked that could repair them" in result.stdout
    blobs.here_bytes = 1000
    result = served.mesh("verify")
    assert "not repaired yet: 1.0 kB of 1.5 kB are here, and the next `mesh verify` or" in result.stdout


def test_what_keeps_a_blob_and_how_much_of_it_is_here_is_listed(served: ServedNode) -> None:
    pinned = Holding("a" * 64, 1500, "c" * 64, BlobMetadata("map"), 1500, pinned=True, linked=True)
    partial = Holding("b" * 64, 2_000_000, None, BlobMetadata(), 500_000, partial=True, cached=True)
    served.node.attachments.partial = [pinned, partial]
    assert served.mesh("blobs").stdout.splitlines()[1:] == [
        f"1.5 kB  pinned, linked          map   {'a' * 64}",
        f"2.0 MB  cached, partial 500 kB        {'b' * 64}",
    ]
    assert served.json("blobs") == [pinned.to_dict(), partial.to_dict()]


def test_a_blob_is_deleted_whole_or_in_part(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"x" * 1500)
    token = served.json("add", str(tmp_path / "map"))
    partial = Holding("b" * 64, 2000, None, BlobMetadata(), 500, partial=True)
    served.node.attachments.partial = [partial]
    assert served.json("delete", "bb") == {"hash": partial.hash}
    assert served.mesh("delete", token["hash"][:8]).stdout == f"{token['hash']}  deleted\n"
    assert served.json("blobs") == []
    result = served.mesh("delete", token["hash"])
    assert (result.exit_code, "no blob" in result.stderr) == (4, True)


def test_an_existing_file_is_replaced_only_by_force(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"tiles")
    hash = json.loads(served.mesh("add", str(tmp_path / "map")).stdout)["hash"]
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("mine", "link"):
        result = served.mesh("export", hash, str(tmp_path / name))
        assert result.exit_code == 4
        assert "exists already: choose another name, or replace it with --force" in result.stderr
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert served.mesh("export", hash, str(tmp_path / "mine"), "--force").exit_code == 0
    assert (tmp_path / "mine").read_bytes() == b"tiles"


def test_a_blob_that_is_not_here_is_named_in_terms_of_commands(served: ServedNode) -> None:
    for arguments in (["export", "abc", "out"], ["distribute", "--blob", "abc"]):
        result = served.mesh(*arguments)
        assert result.exit_code == 4
        assert "no blob abc is held here: `mesh blobs` lists what is" in result.stderr
        assert "fetch()" not in result.stderr


def test_a_blob_that_is_damaged_is_not_said_to_be_unknown(
    served: ServedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "map").write_bytes(b"tiles")
    hash = json.loads(served.mesh("add", str(tmp_path / "map")).stdout)["hash"]

    async def damaged(hash: str, destination: Path) -> None:
        raise BlobCorrupt(hash)

    monkeypatch.setattr(served.node.attachments, "export", damaged)
    result = served.mesh("export", hash, str(tmp_path / "copy"))
    assert result.exit_code == 4
    assert "was damaged on this disk" in result.stderr
    assert "try again in a moment" in result.stderr
    assert "fetch()" not in result.stderr


def test_a_missing_file_is_an_error_of_input(served: ServedNode, tmp_path: Path) -> None:
    for command in ("add", "distribute"):
        result = served.mesh(command, str(tmp_path / "missing"))
        assert result.exit_code == 4
        assert result.stderr == f"mesh: cannot add {tmp_path / 'missing'}: there is no such file\n"


# --- the node ---------------------------------------------------------------------------------


def test_members_are_a_table(served: ServedNode) -> None:
    header, desk, van = served.mesh("members").stdout.splitlines()
    assert header.split() == ["id", "name", "formations", "listens", "on", "hub", "standing", "capabilities"]
    assert desk.startswith(SELF_ID[:8] + "  desk")
    assert van.split() == [VAN_ID[:8], "van7", "north", "revoked", "4", "GB", "GPU"]


def test_formations_are_shown_and_set(served: ServedNode) -> None:
    assert served.mesh("formations").stdout == "no formations\n"
    assert served.mesh("formations", "north", "lakes").stdout == "north, lakes\n"
    assert served.json("formations") == {"formations": ["north", "lakes"]}
    assert served.mesh("formations", "x", "--none").exit_code == 2
    assert served.mesh("formations", "--none").stdout == "no formations\n"
    refused = served.mesh("formations", "")
    assert (refused.exit_code, refused.stderr) == (4, "mesh: not what a node can say of itself\n")


def test_capabilities_are_shown_declared_and_detected(served: ServedNode) -> None:
    assert served.mesh("capabilities").stdout == "nothing is known\n"
    options = ["--gpu-gb", "4", "--cpu-arch", "arm64", "--storage-mb", "2000", "--tag", "gps"]
    text = served.mesh("capabilities", *options).stdout
    assert text == "arm64, 4 GB GPU, 2.0 GB storage, gps\n"
    assert served.json("capabilities")["capabilities"]["tags"] == ["gps"]
    assert served.mesh("capabilities", "--detect", "--tag", "x").exit_code == 2
    assert served.mesh("capabilities", "--tag", "a b").exit_code == 4
    assert served.mesh("capabilities", "--detect").stdout == "nothing is known\n"


def test_limits_are_shown_set_and_lifted(served: ServedNode) -> None:
    assert served.mesh("limits").stdout == "upload    no limit\ndownload  no limit\nlink      no limit\n"
    assert served.json("limits", "--upload", "2MB/s", "--link", "500kB") == {
        "upload": 2_000_000,
        "download": None,
        "link": 500_000,
    }
    shown = served.mesh("limits", "--upload", "none", "--download", "4096").stdout
    assert shown == "upload    no limit\ndownload  4.1 kB/s\nlink      500 kB/s\n"
    assert served.node.limits == Limits(None, 4096, 500_000)
    for rate in ("fast", "1kB", "0"):
        result = served.mesh("limits", "--upload", rate)
        assert (result.exit_code, f"{rate!r} is " in result.stderr) == (2, True)


def test_peers_are_a_table_with_who_is_not_there(served: ServedNode) -> None:
    header, peer, waiting = served.mesh("peers").stdout.splitlines()
    assert header.split() == ["id", "name", "state", "since", "rtt", "in", "out", "address"]
    assert peer.split()[:3] == [VAN_ID[:8], "van7", "connected"]
    assert peer.endswith("12 ms  1.5 kB  0 B  it dialled")
    assert waiting.split() == ["waiting", "ws://127.0.0.1:2", "(nobody", "answers)"]
    assert [peer["node_id"] for peer in served.json("peers")] == [VAN_ID]


def test_status(served: ServedNode) -> None:
    status = served.json("status")
    assert (status["node_id"], status["online"], status["stats"]["documents"]) == (SELF_ID, True, 12)
    text = served.mesh("status").stdout
    assert f"node       {SELF_ID}\n" in text
    assert "listens    ws://127.0.0.1:7700\n" in text
    assert "peers      1 connected, 1 dialled in vain\n" in text
    assert "documents  12 (40 kB on disk, 1.5 kB received, 2.5 kB sent)\n" in text
    assert "blobs      3 (5.0 MB on disk, 0 B received, 7.0 MB sent)\n" in text
    served.mesh("pause")
    text = served.mesh("status").stdout
    assert "listens    nowhere while it is offline\n" in text
    assert "online     no, paused until `mesh resume`\n" in text
    served.node.cloned = "another runs. Stop one"
    assert "online     no, another runs. Stop one\n" in served.mesh("status").stdout


def test_invitations(served: ServedNode) -> None:
    result = served.mesh("invite", "--collections", "cars*,map", "--collections", "log", "--ttl", "15m")
    assert result.stdout == f"{TOKEN}\n"
    assert result.stderr == "mesh: good on this machine only: this node listens on loopback\n"
    assert served.node.invited == [
        {
            "role": "member",
            "uses": 1,
            "ttl": 900.0,
            "collections": ["cars*", "map", "log"],
            "write": None,
            "addresses": [],
        }
    ]
    served.mesh("invite", "--read-only", "--role", "relay", "--uses", "5", "--address", "wss://hq:1")
    last = served.node.invited[-1]
    assert (last["collections"], last["write"], last["role"], last["uses"]) == (["*"], [], "relay", 5)
    assert last["addresses"] == ["wss://hq:1"]
    for arguments in (["--role", "king"], ["--read-only", "--write", "x"], ["--uses", "0"], ["--ttl", "x"]):
        assert served.mesh("invite", *arguments).exit_code == 2


def test_revoking_by_name_by_the_start_of_an_id_and_by_the_whole_one(served: ServedNode) -> None:
    gone = "a" * 52
    for typed in ("van7", VAN_ID[:5], gone):
        result = served.mesh("revoke", typed)
        assert result.exit_code == 0
        assert ("revoked already" in result.output) is (typed != gone), "as the fake says of van"
    assert served.node.revoked == [VAN_ID, VAN_ID, gone]
    result = served.mesh("revoke", "nosuch")
    assert result.exit_code == 4
    assert "is known here: `mesh members` lists who is" in result.stderr


def test_a_token_comes_from_one_place(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("mesh1-x")
    binary = tmp_path / "binary"
    binary.write_bytes(b"mesh1-\xff")
    both = served.mesh("join", "mesh1-x", "--token-file", str(tmp_path / "token"))
    assert both.exit_code == 2
    for result in (
        served.mesh("join", "mesh1-x"),
        served.mesh("join", "--token-file", str(tmp_path / "token")),
        served.mesh("join", stdin="mesh1-x\n"),
        served.mesh("join", "-", stdin="mesh1-x\n"),
        served.mesh("join", stdin=b"mesh1-\xff\n"),
        served.mesh("join", "--token-file", str(binary)),
    ):
        assert result.exit_code == 4
        assert "mistyped or cut" in result.stderr


def test_connections(served: ServedNode) -> None:
    assert served.mesh("connect", "ws://127.0.0.1:9").stdout == f"{VAN_ID}\n"
    assert served.node.dialled == ["ws://127.0.0.1:9"]
    result = served.mesh("connect", "ws://unreachable:1")
    assert result.exit_code == 4
    assert result.stderr.startswith("mesh: cannot reach ws://unreachable:1: nobody answers")
    assert served.json("disconnect", "vvv") == {"node_id": VAN_ID}
    assert served.json("disconnect", "van7") == {"node_id": VAN_ID}
    assert served.node.disconnected == [VAN_ID, VAN_ID]
    for arguments in (["disconnect", "nosuch"], ["disconnect", "nosuch", "--json"], ["disconnect", ""]):
        result = served.mesh(*arguments)
        assert result.exit_code == 4
        assert "is connected or dialled: `mesh peers` lists who is" in result.stderr
    assert served.node.disconnected == [VAN_ID, VAN_ID]
    assert served.json("pause") == {"paused": True}
    assert served.node.is_paused
    assert served.json("resume") == {"paused": False}
    assert not served.node.is_paused


def test_down_returns_when_everything_is_released(served: ServedNode) -> None:
    assert served.json("down") == {"stopped": True}
    assert served.mesh("down").exit_code == 4


# --- deliveries -------------------------------------------------------------------------------


def test_deliveries_are_listed_until_the_node_stops(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"tiles")
    delivery = FakeDelivery(served.run(served.node.attachments.add(tmp_path / "map")))
    original = served.node.deliveries

    def deliveries() -> Any:
        stream = original()
        stream.push(delivery)
        stream.finish()
        return stream

    served.node.deliveries = deliveries  # type: ignore[method-assign]
    result = served.mesh("deliveries")
    assert result.exit_code == 4  # it ends only with the node
    assert result.stdout == f"{'e' * 26}  map (5 B) from hhhhhhhh, high, blob 00000000\n"
    assert json.loads(served.mesh("deliveries", "--json").stdout.splitlines()[0])["priority"] == 3


def test_deliveries_are_decided(served: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"tiles")
    delivery = FakeDelivery(served.run(served.node.attachments.add(tmp_path / "map")))

    async def offer() -> None:
        served.node.offer(delivery)

    served.run(offer())
    assert served.mesh("reject", "eee", "no room").stdout == f"rejected {'e' * 26}\n"
    assert delivery.decision == "rejected: no room"
    served.run(offer())
    delivery.inbox_error = PermissionError(13, "Permission denied", "/inbox")
    result = served.mesh("accept", "eee")
    assert result.exit_code == 4
    assert "is not in the inbox: [Errno 13] Permission denied" in result.stderr
    delivery.inbox_error = None
    assert served.json("accept", "eee") == {"distribution_id": "e" * 26, "path": "/inbox/map"}
    served.run(offer())
    assert served.mesh("accept", "eee").stdout == f"accepted {'e' * 26}: /inbox/map\n"
    served.run(offer())
    delivery.path = None
    assert served.mesh("accept", "eee").stdout == f"accepted {'e' * 26}\n"
    result = served.mesh("accept", "eee")
    assert result.exit_code == 4
    assert "no delivery eee waits" in result.stderr
    assert delivery.publisher == HUB_ID


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--upload-limit", "1kB/s", "too slow to get anything through"),
        ("--download-limit", "fast", "'fast' is not a rate"),
        ("--link-limit", "2MB/m", "'2MB/m' is not a rate"),
        ("--cache", "much", "'much' is not a size"),
    ],
)
def test_caps_that_are_none_are_refused_before_anything_is_made(
    tmp_path: Path, flag: str, value: str, says: str
) -> None:
    home = tmp_path / "home"
    result = CliRunner().invoke(cli, ["up", flag, value, "--home", str(home)])
    assert result.exit_code == 2
    assert says in result.output
    assert not home.exists()
