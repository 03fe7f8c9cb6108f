"""The OpenAPI document, made of the table of endpoints; what streams or is not JSON is described here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

from mesh.core.tokens import BlobProgress, BlobToken
from mesh.gateway.answers import ErrorAnswer
from mesh.gateway.endpoints import Endpoint
from mesh.gateway.live import Subscribed
from mesh.version import VERSION

REF = "#/components/schemas/{name}"

_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})
_BYTES: dict[str, Any] = {"application/octet-stream": {"schema": {}}}
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
_HASH = {
    "name": "hash",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The document."""
    endpoints = list(endpoints)
    kinds = [ErrorAnswer, BlobToken, BlobProgress, Subscribed]
    for endpoint in endpoints:
        kinds += [endpoint.gives, *([] if endpoint.body is None else [endpoint.body])]
        kinds += [kind for kind, _ in endpoint.query.values()]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    schema_of = {_key(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of)
    for path, method, operation in _others(schema_of):
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "docmesh gateway",
            "version": VERSION,
            "description": "One node of a mesh over HTTP. Yjs clients join at ws://HOST/yjs/{collection}/{id}.",
        },
        "security": [{}, {"bearer": []}, {"parameter": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "parameter": {"type": "apiKey", "in": "query", "name": "access_token"},
            },
        },
    }


def index(described: dict[str, Any]) -> dict[str, Any]:
    """What there is, in short: of the document, the first sentence of each operation."""
    return {
        "openapi": "/api/openapi.json",
        "yjs": "/yjs/{collection}/{id}",
        "endpoints": {
            f"{method.upper()} {path}": operation["summary"].partition(". ")[0].rstrip(".")
            for path, operations in described["paths"].items()
            for method, operation in operations.items()
        },
    }


def _operation(endpoint: Endpoint, schema_of: dict[Any, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in sorted(endpoint.in_path)
    ]
    for name, (kind, default) in endpoint.query.items():
        schema = schema_of[_key(kind)]
        shape = (
            {"schema": schema}
            if _is_scalar(schema)
            else {"content": {"application/json": {"schema": schema}}}
        )
        parameters.append(
            {"name": name, "in": "query", "required": default is inspect.Parameter.empty, **shape}
        )
    operation: dict[str, Any] = {
        "operationId": endpoint.function.__name__,
        "summary": inspect.cleandoc(endpoint.function.__doc__ or ""),
        "parameters": parameters,
        "responses": {
            str(endpoint.status): _json("Done.", schema_of[_key(endpoint.gives)]),
            "default": _failed(),
        },
    }
    if endpoint.body is not None:
        body = schema_of[_key(endpoint.body)]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _others(schema_of: dict[Any, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    token = schema_of[_key(BlobToken)]
    with_token = {"name": "token", "in": "query", "content": {"application/json": {"schema": token}}}
    name = {"name": "name", "in": "query", "schema": {"type": "string"}}
    timeout = {"name": "timeout", "in": "query", "schema": {"type": "number", "exclusiveMinimum": 0}}
    subscribe = {
        "name": "subscribe",
        "in": "query",
        "required": True,
        "description": "May be repeated.",
        "content": {"application/json": {"schema": schema_of[_key(Subscribed)]}},
    }
    upload = {"requestBody": {"required": True, "content": _BYTES}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    status = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    whole = {"description": "The bytes.", "content": _BYTES}
    stream = {"200": {"description": "Server-sent events.", "content": _EVENTS}, "default": _failed()}
    added = {"201": _json("Added.", token), "default": _failed()}
    return [
        ("/blobs", "put", _described("Add a blob.", [name], added, upload)),
        (
            "/blobs/{hash}",
            "put",
            _described(
                "Add a blob that has this hash.",
                [_HASH, name],
                {"200": _json("Here.", token), **added},
                upload,
            ),
        ),
        (
            "/blobs/{hash}",
            "get",
            _described(
                "The bytes of a blob; with its token, it is fetched first if need be.",
                [_HASH, with_token, timeout],
                {"200": whole, "206": whole, "304": {"description": "As it was."}, "default": _failed()},
            ),
        ),
        (
            "/blobs/{hash}/progress",
            "get",
            _described(
                "Fetch a blob: events named progress, each a BlobProgress.", [_HASH, with_token], stream
            ),
        ),
        ("/api", "get", _described("What there is.", [], {"200": _json("In short.", {"type": "object"})})),
        ("/api/live", "get", _described("Follow what changes.", [subscribe], stream)),
        (
            "/api/openapi.json",
            "get",
            _described("This document.", [], {"200": _json("OpenAPI 3.1.", {"type": "object"})}),
        ),
        ("/healthz", "get", _described("Whether the node runs.", [], {"200": _json("It does.", status)})),
        (
            "/metrics",
            "get",
            _described("Figures for Prometheus.", [], {"200": {"description": "Metrics.", "content": text}}),
        ),
    ]


def _described(
    summary: str, parameters: list[Any], responses: dict[str, Any], more: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"summary": summary, "parameters": parameters, "responses": responses, **(more or {})}


def _json(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _failed() -> dict[str, Any]:
    return _json("What went wrong.", {"$ref": REF.format(name=ErrorAnswer.__name__)})


def _is_scalar(schema: dict[str, Any]) -> bool:
    options = schema.get("anyOf", [schema])
    return all(option.get("type") in _SCALARS for option in options)


def _key(kind: Any) -> str:
    """Types are not all hashable."""
    return repr(kind)
