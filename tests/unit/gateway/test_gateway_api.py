"""Documents, distributions and figures over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from mesh import Node, StorageFull
from mesh.gateway import Gateway, live
from mesh.gateway.endpoints import MAX_BODY_BYTES
from mesh.gateway.live import EXAMPLE


def error_of(response: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    error = response.json()["error"]
    assert error["message"]
    return response.status_code, error["type"], error.get("attributes", {})


async def test_the_life_of_a_document(client: httpx.AsyncClient, node: Node) -> None:
    path = "/api/collections/cars/documents/c1"
    written = await client.put(path, json={"color": "red", "size": {"seats": 4}})
    assert (written.status_code, written.json()) == (200, {"_id": "c1"})
    assert (await client.get(path)).json() == {"_id": "c1", "color": "red", "size": {"seats": 4}}
    await client.put(path, json={"size": {"doors": 5}}, params={"merge": "true"})
    await client.patch(path, json={"color": "blue"})
    assert (await client.get(path)).json() == {
        "_id": "c1",
        "color": "blue",
        "size": {"doors": 5, "seats": 4},
    }
    await client.put(path, json={"_id": "c1", "new": None})
    assert await node.collection("cars").get("c1") == {"_id": "c1", "new": None}
    assert (await client.delete(path)).json() == {"removed": 1}
    for response in (await client.get(path), await client.delete(path), await client.patch(path, json={})):
        assert error_of(response) == (404, "DocumentNotFound", {"collection": "cars", "document_id": "c1"})


async def test_documents_are_added(client: httpx.AsyncClient) -> None:
    path = "/api/collections/cars/documents"
    made = await client.post(path, json={"a": 1})
    assert made.status_code == 201
    assert (await client.get(f"{path}/{made.json()['_id']}")).json()["a"] == 1
    again = await client.post(path, json={"_id": made.json()["_id"]})
    assert error_of(again)[:2] == (409, "DocumentExists")


async def test_documents_are_found(client: httpx.AsyncClient, node: Node) -> None:
    for number in range(5):
        await node.collection("cars").insert({"_id": f"c{number}", "n": number, "deep": {"odd": number % 2}})
    found = await client.get(
        "/api/collections/cars/documents",
        params={
            "selector": json.dumps({"n": {"$gt": 0}}),
            "sort": json.dumps([{"n": "desc"}]),
            "limit": 2,
            "skip": 1,
            "fields": "n,deep.odd",
        },
    )
    assert found.json() == {
        "documents": [{"_id": "c3", "n": 3, "deep": {"odd": 1}}, {"_id": "c2", "n": 2, "deep": {"odd": 0}}]
    }
    assert (await client.get("/api/collections")).json() == {"collections": {"cars": 5, "nodes": 1}}


async def test_who_made_the_last_change_and_what_nobody_else_holds(
    client: httpx.AsyncClient, node: Node
) -> None:
    path = "/api/collections/cars/last-changes/a/b"
    assert error_of(await client.get(path))[:2] == (404, "DocumentNotFound")
    await node.collection("cars").insert({"_id": "a/b"})
    change = (await client.get(path)).json()
    assert change.pop("at") > 1e9
    assert change == {"by": [node.node_id], "unknown": False, "removed": False}
    await node.collection("cars").remove("a/b")
    assert (await client.get(path)).json()["removed"] is True
    assert (await client.get("/api/unsynced")).json() == {"collections": {"cars": 1}}


async def test_ids_may_hold_anything(client: httpx.AsyncClient, node: Node) -> None:
    for id in ("a/b", "ü ?#%", "documents/x"):
        path = f"/api/collections/cars/documents/{httpx.URL('http://x', params={'q': id}).query.decode()[2:]}"
        path = path.replace("+", "%20")
        await client.put(path, json={"a": 1})
        assert await node.collection("cars").get(id) == {"_id": id, "a": 1}
        assert (await client.get(path)).json() == {"_id": id, "a": 1}


@pytest.mark.parametrize(
    "method, path, content, status, kind",
    [
        ("GET", "/api/collections/-/documents", b"", 400, "InvalidCollectionName"),
        ("GET", "/api/collections/cars/documents?limit=-1", b"", 400, "BadRequest"),
        ("GET", "/api/collections/cars/documents?limt=1", b"", 400, "BadRequest"),
        ("GET", "/api/collections/cars/documents?selector={", b"", 400, "BadRequest"),
        ("GET", "/api/collections/cars/documents?selector=" + '{"a":' * 3000, b"", 400, "BadRequest"),
        ("GET", '/api/collections/cars/documents?selector={"a":{"$no":1}}', b"", 400, "InvalidSelector"),
        ("PUT", "/api/collections/cars/documents/c", b"[]", 400, "BadRequest"),
        ("PUT", "/api/collections/cars/documents/c", b"[" * 100_000, 400, "BadRequest"),
        ("PUT", "/api/collections/cars/documents/c", b'{"a": "\xff"}', 400, "BadRequest"),
        ("PUT", "/api/collections/cars/documents/c", b'{"_id": "d"}', 422, "InvalidDocument"),
        ("PUT", "/api/collections/cars/documents/c", b'{"a": 9007199254740993}', 422, "InvalidDocument"),
        ("PUT", "/api/collections/nodes/documents/c", b"{}", 403, "PermissionDenied"),
        (
            "PUT",
            "/api/collections/cars/documents/c",
            b'{"a":"' + b"x" * (2 << 20) + b'"}',
            413,
            "DocumentTooLarge",
        ),
        ("PUT", "/api/collections/cars/documents/c", b" " * (MAX_BODY_BYTES + 1), 413, "TooLarge"),
        ("GET", "/api/distributions/nowhere", b"", 404, "UnknownDistribution"),
        ("POST", "/api/distributions/nowhere/cancel", b"", 404, "UnknownDistribution"),
        ("POST", "/api/distributions/dry-run", b'{"scope": {"type": "some"}}', 422, "InvalidScope"),
        ("POST", "/api/distributions", b'{"scope": {"type": "all"}}', 400, "BadRequest"),
        (
            "POST",
            "/api/distributions",
            b'{"scope": {"type": "all"}, "hash": "' + b"0" * 64 + b'"}',
            404,
            "BlobNotFound",
        ),
        ("GET", "/nowhere", b"", 404, "MeshError"),
        ("DELETE", "/api/node", b"", 405, "MeshError"),
    ],
)
async def test_what_fails_says_why(
    client: httpx.AsyncClient, method: str, path: str, content: bytes, status: int, kind: str
) -> None:
    assert error_of(await client.request(method, path, content=content))[:2] == (status, kind)


async def test_a_full_disk_and_a_fault(
    client: httpx.AsyncClient, node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full() -> None:
        raise StorageFull("/data", 5, 1)

    monkeypatch.setattr(node, "collections", full)
    response = await client.get("/api/collections")
    attributes = {"path": "/data", "needed": 5, "free": 1, "is_lasting": False, "reserve": 0}
    assert error_of(response) == (507, "StorageFull", attributes)

    async def faulty() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(node, "collections", faulty)
    with caplog.at_level(logging.ERROR):
        assert error_of(await client.get("/api/collections"))[0] == 500
    assert "ZeroDivisionError" in caplog.text
    await node.close()
    assert error_of(await client.get("/api/presence"))[:2] == (503, "NotStarted")
    assert (await client.get("/healthz")).status_code == 503


async def test_the_node(client: httpx.AsyncClient, node: Node) -> None:
    async with Node(name="van", peers=[str(node.address)]) as van:
        await van.settled(10)
        info = (await client.get("/api/node")).json()
        assert (info["node_id"], info["name"]) == (node.node_id, "hub")
        [peer] = (await client.get("/api/presence")).json()["peers"]
        assert (peer["node_id"], peer["name"]) == (van.node_id, "van")
        assert (await client.get("/api/stats")).json()["links"] == 1
        known = (await client.get("/api/nodes")).json()
        assert known["standings"] == {}
        assert node.node_id in {one["_id"] for one in known["nodes"]}
        assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_distributions(client: httpx.AsyncClient, node: Node) -> None:
    async with Node(name="van", peers=[str(node.address)], formations=["north"]) as van:
        await van.settled(10)
        await node.collection("nodes").subscribe()
        await node.settled(10)
        token = (await client.put("/blobs", params={"name": "map"}, content=b"map" * 1000)).json()
        scope = {"type": "formation", "formation_id": "north"}
        dry = await client.post("/api/distributions/dry-run", json={"scope": scope})
        assert dry.json() == {"node_ids": [van.node_id]}
        made = await client.post(
            "/api/distributions", json={"hash": token["hash"], "scope": scope, "priority": "high"}
        )
        assert made.status_code == 201
        assert made.json()["token"] == token
        assert made.json()["nodes_in_scope"] == 1
        id = made.json()["handle"]["distribution_id"]
        await node.distributions.wait_for_completion(id, 20)
        listed = (await client.get(f"/api/distributions/{id}")).json()
        assert listed["name"] == "map"
        assert listed["status"]["completed"] == 1
        [one] = (await client.get("/api/distributions")).json()["distributions"]
        assert one["status"] == listed["status"]
        assert (await client.post(f"/api/distributions/{id}/retry")).json() == {"distribution_id": id}
        assert (await client.post(f"/api/distributions/{id}/cancel")).json() == {"distribution_id": id}
        assert error_of(await client.post(f"/api/distributions/{id}/retry"))[:2] == (
            422,
            "InvalidDistribution",
        )

        named = {"type": "nodes", "node_ids": ["van"]}
        made = await client.post("/api/distributions", json={"token": token, "scope": named})
        assert made.json()["handle"]["scope"] == {"type": "nodes", "node_ids": [van.node_id]}


async def test_metrics(client: httpx.AsyncClient, node: Node, gateway: Gateway) -> None:
    await node.collection("cars").insert({"_id": "c"})
    async with Node(name='a "van"\\', peers=[str(node.address)]) as van:
        await van.settled(10)
        response = await client.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = parsed_metrics(response.text)
        assert found["mesh_links", ()] == 1
        assert found["mesh_documents", (("collection", "cars"),)] == 1
        assert found["mesh_gateway_clients", (("kind", "yjs"),)] == 0
        link = (("name", 'a \\"van\\"\\\\'), ("peer", van.node_id))
        assert found["mesh_link_received_bytes_total", link] > 0


def parsed_metrics(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As the format's own rules have it: HELP, TYPE, then the samples of the family, and each once."""
    assert text.endswith("\n")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    name = expected = ""
    families = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in families
            families.add(name)
            expected = "TYPE"
        elif line.startswith("# TYPE "):
            assert expected == "TYPE"
            assert line.split()[2:] in ([name, "gauge"], [name, "counter"])
            assert (line.split()[3] == "counter") == name.endswith("_total")
            expected = ""
        else:
            matched = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            assert matched is not None
            assert (matched[1], expected) == (name, "")
            labels = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)",?', matched[2] or "")
            key = (name, tuple(sorted(labels)))
            assert key not in found
            found[key] = float(matched[3])
    return found


async def test_a_selector_that_is_too_large_for_an_address(client: httpx.AsyncClient, node: Node) -> None:
    for number in range(3):
        await node.collection("cars").insert({"_id": f"c{number}", "n": number})
    ids = [f"{'x' * 4000}{number}" for number in range(1)] + ["c0", "c2"]
    asked = {"selector": {"_id": {"$in": ids}}, "sort": [{"n": "desc"}], "fields": ["n"], "limit": 1}
    found = await client.post("/api/collections/cars/query", json=asked)
    assert (found.status_code, found.json()) == (200, {"documents": [{"_id": "c2", "n": 2}]})
    for body, status in (({"selector": 1}, 400), ({"slector": {}}, 400), ({"limit": -1}, 400)):
        assert error_of(await client.post("/api/collections/cars/query", json=body))[0] == status
    large = {"selector": {"a": "x" * 10_000}}
    assert error_of(await client.post("/api/collections/cars/query", json=large))[:2] == (
        400,
        "InvalidSelector",
    )


async def test_what_is_over_a_limit_or_no_request_is_told_why(gateway: Gateway) -> None:
    long = b"GET /api/collections/cars/documents?selector=" + b"x" * (8 << 20) + b" HTTP/1.1\r\n\r\n"
    for request in (long, b"\x16\x03\x01\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(gateway.url).port)
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert "POST /api/collections/NAME/query" in json.loads(body)["error"]["message"]
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "path", ["/api/collections/cars/documents/%ff", "/api/collections/cars/documents?selector=%fe"]
)
async def test_an_address_is_utf_8(gateway: Gateway, node: Node, path: str) -> None:
    async with httpx.AsyncClient() as client:
        for method in ("GET", "PUT"):
            refused = await client.request(method, gateway.url + path, content=b"{}")
            assert error_of(refused)[:2] == (400, "MeshError")
    assert await node.collection("cars").count() == 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/collections/cars/documents", "GET, HEAD, POST"),
        ("POST", "/api/collections/cars/documents/c", "DELETE, GET, HEAD, PATCH, PUT"),
        ("GET", "/api/collections/cars/query", "POST"),
        ("DELETE", "/blobs/" + "0" * 64, "GET, HEAD, PUT"),
    ],
)
async def test_who_uses_a_wrong_method_is_told_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert error_of(response)[0] == 405
    assert response.headers["allow"] == allowed


async def test_the_head_of_a_stream_is_all_there_is(client: httpx.AsyncClient) -> None:
    for _ in range(2):  # the second goes by the same connection
        head = await client.head("/api/live", params={"subscribe": '{"kind": "stats"}'})
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert (await client.head("/api/live")).status_code == 400
    assert "mesh_gateway_clients" in (metrics := (await client.get("/metrics")).text)
    assert not re.search(r'events"\} [1-9]', metrics)


async def test_what_there_is_is_listed(client: httpx.AsyncClient) -> None:
    index = (await client.get("/api")).json()
    assert index["endpoints"]["GET /api/node"] == "Who the node is, and where peers reach it"
    assert index["endpoints"].keys() >= {"GET /api/live", "PUT /blobs", "GET /metrics"}
    assert (await client.get(index["openapi"])).status_code == 200
    assert "GET /api lists what there is" in (await client.get("/nothing")).json()["error"]["message"]


async def test_what_goes_wrong_is_told_in_requests(client: httpx.AsyncClient) -> None:
    await client.post("/api/collections/cars/documents", json={"_id": "a/b"})
    taken = await client.post("/api/collections/cars/documents", json={"_id": "a/b"})
    assert error_of(taken) == (409, "DocumentExists", {"collection": "cars", "document_id": "a/b"})
    path = "/api/collections/cars/documents/a%2Fb"
    assert f"PATCH {path} merges into it" in taken.json()["error"]["message"]
    assert (await client.patch(path, json={"n": 1})).status_code == 200
    gone = await client.get("/api/collections/cars/documents/%C3%A9")
    assert "PUT /api/collections/cars/documents/%C3%A9 creates it" in gone.json()["error"]["message"]
    blob = await client.get(f"/blobs/{'0' * 64}")
    assert f"GET /blobs/{'0' * 64}?token=JSON fetches it" in blob.json()["error"]["message"]
    for query in ({}, {"subscribe": "{"}):
        refused = (await client.get("/api/live", params=query)).json()["error"]["message"]
        assert EXAMPLE in refused
    assert len(live.parse([EXAMPLE.removeprefix("subscribe=")])) == 1
    asked = {"selector": json.dumps({"n": {"$gtt": 1}})}
    unknown = await client.get("/api/collections/cars/documents", params=asked)
    assert "'$gtt'" in unknown.json()["error"]["message"]
    assert "$gte" in unknown.json()["error"]["message"]
