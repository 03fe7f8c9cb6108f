"""The OpenAPI document says what the gateway does."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
from starlette.routing import Route

from mesh import Node
from mesh.gateway import Gateway, openapi
from mesh.gateway.api import API
from mesh.gateway.events import EventStreams
from mesh.gateway.yjs import Rooms


def check(document: dict[str, Any], response: httpx.Response) -> None:
    """The answer is one of those that the document promises."""
    path = response.request.url.path
    [template] = [
        one
        for one in document["paths"]
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(one)), path)
        and response.request.method.lower() in document["paths"][one]
    ][:1]
    promised = document["paths"][template][response.request.method.lower()]["responses"]
    answer = promised.get(str(response.status_code), promised.get("default"))
    assert answer is not None, f"{response.request.method} {path} answers {response.status_code}"
    [(kind, content)] = answer["content"].items()
    assert response.headers["content-type"].startswith(kind)
    schema = {**content["schema"], "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(response.json())


def test_every_route_is_described() -> None:
    gateway = Gateway(Node())
    routes = gateway._routes(Rooms.__new__(Rooms), EventStreams())
    served = {
        (re.sub(r":path", "", route.path), method)
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    document = openapi.document(API.endpoints)
    described = {
        (path, method.upper()) for path, operations in document["paths"].items() for method in operations
    }
    assert described == served
    assert json.dumps(document)
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
        if "operationId" in operation
    ]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere() -> None:
    document = openapi.document(API.endpoints)
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert operation["summary"]


async def test_answers_are_as_described(client: httpx.AsyncClient, node: Node) -> None:
    document = (await client.get("/api/openapi.json")).json()
    async with Node(name="van", peers=[str(node.address)]) as van:
        await van.settled(10)
        token = (await client.put("/blobs", params={"name": "map"}, content=b"map")).json()
        everybody = {"scope": {"type": "all"}}
        made = await client.post("/api/distributions", json={"token": token, **everybody})
        id = made.json()["handle"]["distribution_id"]
        await node.distributions.wait_for_completion(id, 20)
        path = "/api/collections/cars/documents"
        requests: list[tuple[str, str, Any]] = [
            ("GET", "/api/node", None),
            ("GET", "/api/nodes", None),
            ("GET", "/api/presence", None),
            ("GET", "/api/stats", None),
            ("GET", "/api/collections", None),
            ("POST", path, {"_id": "c1"}),
            ("POST", path, {"_id": "c1"}),
            ("PUT", f"{path}/c1", {"a": 1}),
            ("PATCH", f"{path}/c1", {"b": None}),
            ("GET", f"{path}/c1", None),
            ("GET", path, None),
            ("GET", f"{path}?limit=no", None),
            ("DELETE", f"{path}/c1", None),
            ("DELETE", f"{path}/c1", None),
            ("GET", "/api/distributions", None),
            ("POST", "/api/distributions", {"hash": token["hash"], **everybody}),
            ("POST", "/api/distributions/dry-run", everybody),
            ("GET", f"/api/distributions/{id}", None),
            ("POST", f"/api/distributions/{id}/retry", None),
            ("POST", f"/api/distributions/{id}/cancel", None),
            ("GET", "/healthz", None),
            ("GET", "/api/openapi.json", None),
            ("GET", f"/blobs/{'0' * 64}", None),
        ]
        for method, where, body in requests:
            check(document, await client.request(method, where, json=body))
        check(document, await client.put("/blobs", content=b"x"))
