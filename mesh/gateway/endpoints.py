"""The table of endpoints: plain typed functions, called with what a request says, validated.

What a function takes by keyword is in the path, is the body (``body``), or is in the query; what it gives is
answered as JSON. The OpenAPI document is made of the same hints.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mesh.control.registry import Served
from mesh.core.structs import UNREADABLE
from mesh.errors import MeshError
from mesh.gateway.answers import BadRequest, TooLarge, answer, failure, refusal

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
"""Of a body that is JSON."""

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True)
class Endpoint:
    """One entry of the table.

    Attributes:
        path: as OpenAPI has it.
        query: what may be in the query, by name: its type, and what it is if it is not there.
        body: the type of the body; ``None``: it takes none.
        gives: the type of the answer.
        status: that of the answer.
    """

    method: str
    path: str
    function: Callable[..., Awaitable[Any]]
    in_path: frozenset[str]
    query: dict[str, tuple[Any, Any]]
    body: Any
    gives: Any
    status: int

    def route(self, served: Served) -> Route:
        """What answers the requests."""

        async def respond(request: Request) -> Response:
            given: dict[str, Any] = dict(request.path_params)
            given.update(self._queried(request.query_params))
            if self.body is not None:
                given["body"] = _decoded(await _read(request), self.body)
            return answer(await self.function(served, **given), self.status)

        path = self.path.replace("{id}", "{id:path}") if self.path.endswith("{id}") else self.path
        return Route(path, answering(respond), methods=[self.method])

    def _queried(self, query: QueryParams) -> dict[str, Any]:
        unknown = query.keys() - self.query.keys()
        if unknown:
            raise BadRequest(f"no parameter is called {', '.join(sorted(unknown))}")
        return {name: queried(name, query[name], self.query[name][0]) for name in query}


class EndpointTable:
    """Endpoints, in the order in which they are registered."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []

    def add(self, method: str, path: str, status: int = 200) -> Callable[[F], F]:
        """Register the decorated function."""

        def register(function: F) -> F:
            hints = get_type_hints(function, include_extras=True)
            parameters = list(inspect.signature(function).parameters.values())[1:]
            in_path = frozenset(p.name for p in parameters if f"{{{p.name}}}" in path)
            query = {
                p.name: (hints[p.name], p.default)
                for p in parameters
                if p.name not in in_path and p.name != "body"
            }
            self.endpoints.append(
                Endpoint(method, path, function, in_path, query, hints.get("body"), hints["return"], status)
            )
            return function

        return register


def answering(respond: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """``respond``, whose failures are answers, too."""

    async def answering_all(request: Request) -> Response:
        try:
            return await respond(request)
        except MeshError as error:
            return failure(error)
        except ClientDisconnect:
            return refusal(400, "the body is cut short")  # to nobody
        except Exception as error:
            log.exception("%s %s failed", request.method, request.url.path)
            return refusal(500, f"the gateway failed ({type(error).__name__}): see its log")

    return answering_all


def queried(name: str, text: str, kind: Any) -> Any:
    """A parameter of a query: text, a number and the like as it is, anything else as JSON.

    Raises:
        BadRequest: it is malformed.
    """
    try:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError:
            return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"{name}: {error}") from error


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise BadRequest(f"the body is not what it should be: {error}") from error


async def _read(request: Request) -> bytes:
    """The body.

    Raises:
        TooLarge: it is over the limit.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(MAX_BODY_BYTES)
    return bytes(body)
