"""The gateway of a node: its life, and what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp

from mesh.control.registry import Served
from mesh.core.document import MAX_STATE_BYTES
from mesh.errors import AddressInUse, InvalidAddress, PermissionDenied
from mesh.gateway import live, openapi
from mesh.gateway.answers import HEADERS, answer, refusal
from mesh.gateway.api import API
from mesh.gateway.blobs import BlobEndpoints
from mesh.gateway.endpoints import answering
from mesh.gateway.events import EventStreams
from mesh.gateway.guard import Guard
from mesh.gateway.http import MAX_HEAD_BYTES, Http
from mesh.gateway.metrics import MEDIA_TYPE, metrics
from mesh.gateway.outgoing import Client, Outgoing, client_of
from mesh.gateway.shared import SharedQueries
from mesh.gateway.websocket import BoundedWebSocket
from mesh.gateway.yjs import Rooms
from mesh.network.addresses import is_loopback, parse_listen
from mesh.node.node import Node

log = logging.getLogger(__name__)

GUARDED = ("/api", "/blobs", "/yjs", "/metrics", "/healthz")
"""Where the gateway itself answers: the rest is for pages."""

MIN_TOKEN_CHARS = 16

MAX_MESSAGE_BYTES = MAX_STATE_BYTES + (64 << 10)
"""Of one message of a Yjs client: all that it holds of a document, and what is around that."""

CLOSE_SECONDS = 2
"""What requests that are under way get to finish; what still waits a second later is cancelled."""


class Gateway:
    """Serves a node over HTTP: see :mod:`mesh.gateway`. An async context manager.

    Args:
        node: started before the gateway, and closed after it.
        listen: ``host:port``; port 0: any free one.
        token: what everybody has to show; needed off loopback. Put TLS in front of it there.
        origins: pages that may talk to it besides its own, such as ``https://app.example.org``.
        pages: what else is served, by where it is: they need no token, and what they show is their affair.
    """

    def __init__(
        self,
        node: Node,
        listen: str = "127.0.0.1:0",
        token: str | None = None,
        *,
        origins: Iterable[str] = (),
        pages: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        """
        Raises:
            InvalidAddress: nobody can listen there.
            PermissionDenied: others than this machine could get in, without a good token.
        """
        self._endpoint = parse_listen(listen)
        if token is None and not is_loopback(self._endpoint.host):
            raise PermissionDenied(
                f"the gateway on {listen} can be reached from other machines: it needs a token "
                "(--gateway-token-file)"
            )
        if token is not None and (len(token) < MIN_TOKEN_CHARS or not token.isascii()):
            raise PermissionDenied(
                f"the token of a gateway has at least {MIN_TOKEN_CHARS} characters, all of them ASCII"
            )
        self._listen = listen
        self._token = token
        self._origins = list(origins)
        self._pages = dict(pages or {})
        self._node = node
        self._stack: AsyncExitStack | None = None
        self.url = ""
        """Where it is, once it is started: ``http://127.0.0.1:8080``."""

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            NotStarted: the node is not running.
            AddressInUse, InvalidAddress: it cannot listen there. In each case nothing stays open.
        """
        if self._stack is not None:
            return
        async with AsyncExitStack() as stack:
            documents = self._node.yjs_documents()
            stack.callback(documents.close)
            listening = stack.enter_context(self._bound())
            rooms, streams = Rooms(documents), EventStreams()
            server = _Server(
                uvicorn.Config(
                    Outgoing(self._application(rooms, streams), lambda client: server.cut_off(client)),
                    lifespan="off",
                    log_config=None,
                    log_level="warning",  # below, it tells of requests as they came, tokens included
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=CLOSE_SECONDS + 1,
                    http=Http,
                    h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                    ws=BoundedWebSocket,
                    ws_max_size=MAX_MESSAGE_BYTES,
                    ws_per_message_deflate=False,
                )
            )
            serving = asyncio.create_task(server.serve([listening]), name="gateway")

            async def stop() -> None:
                streams.close()
                rooms.close()
                server.should_exit = True
                timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, server.abort)
                await serving
                timer.cancel()
                if server.server_state.tasks:
                    await asyncio.wait(server.server_state.tasks)

            stack.push_async_callback(stop)
            await server.ready.wait()
            self._stack = stack.pop_all()
        host = f"[{self._endpoint.host}]" if ":" in self._endpoint.host else self._endpoint.host
        self.url = f"http://{host}:{listening.getsockname()[1]}"

    async def close(self) -> None:
        """Send everybody away and stop listening. May be repeated."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _bound(self) -> socket.socket:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise InvalidAddress(self._listen, str(error)) from error
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(self._listen) from error
            raise InvalidAddress(self._listen, error.strerror or str(error)) from error
        return listening

    def _application(self, rooms: Rooms, streams: EventStreams) -> ASGIApp:
        application = Starlette(
            routes=self._routes(rooms, streams),
            exception_handlers={HTTPException: _not_served},
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=self._origins,
                    allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
                    allow_headers=["authorization", "content-type", "range", "if-none-match", "if-range"],
                    expose_headers=["content-range", "etag", "location"],
                ),
                Middleware(
                    Guard,
                    host=self._endpoint.host,
                    token=self._token,
                    origins=self._origins,
                    guarded=GUARDED,
                ),
            ],
        )
        application.router.redirect_slashes = False
        return application

    def _routes(self, rooms: Rooms, streams: EventStreams) -> list[BaseRoute]:
        served = Served(self._node, shutdown=lambda: None)
        blobs, queries = BlobEndpoints(served, streams), SharedQueries(self._node)
        described = openapi.document(API.endpoints)

        async def following(request: Request) -> Response:
            asked = live.parse(request.query_params.getlist("subscribe"))
            return streams.response([live.follow(served, queries, one, of) for of, one in enumerate(asked)])

        async def describe(request: Request) -> Response:
            return answer(described)

        async def index(request: Request) -> Response:
            return answer(openapi.index(described))

        async def health(request: Request) -> Response:
            self._node.stats()
            return answer({"status": "ok"})

        async def measure(request: Request) -> Response:
            node, clients = self._node, {"yjs": rooms.clients, "events": streams.open}
            text = metrics(node.presence(), node.stats(), await node.collections(), clients)
            return PlainTextResponse(text, media_type=MEDIA_TYPE, headers=HEADERS)

        return [
            *(endpoint.route(served) for endpoint in API.endpoints),
            Route("/api", answering(index)),
            Route("/api/live", answering(following)),
            Route("/api/openapi.json", answering(describe)),
            Route("/blobs", answering(blobs.put), methods=["PUT"]),
            Route("/blobs/{hash}", answering(blobs.put), methods=["PUT"]),
            Route("/blobs/{hash}", answering(blobs.get)),
            Route("/blobs/{hash}/progress", answering(blobs.progress)),
            WebSocketRoute("/yjs/{collection}/{id:path}", rooms.serve),
            Route("/healthz", answering(health)),
            Route("/metrics", answering(measure)),
            *(Mount(path, page) for path, page in self._pages.items()),
        ]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        """It listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def abort(self) -> None:
        """Cut off who does not read what was sent."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def cut_off(self, client: Client) -> None:
        """End one connection, whatever it has not taken."""
        for connection in list(self.server_state.connections):
            if client_of(connection.transport) == client:
                connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: signals are the application's to handle."""
        yield


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == 405:
        headers = {"allow": ", ".join(sorted(_allowed(request)))}
    hint = "; GET /api lists what there is" if error.status_code == 404 else ""
    return refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}{hint}", headers)


def _allowed(request: Request) -> set[str]:
    """The methods of a path; the routes each know their own."""
    allowed: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            allowed |= route.methods or set()
    return allowed
