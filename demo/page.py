"""The page and what it asks of the supervisor. What is in the mesh it asks of a node's gateway itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.fleet import HOST, Fleet, NotPossible
from demo.processes import NodeFailed
from demo.scenarios import Scenarios
from mesh.errors import MeshError

STATIC = Path(__file__).parent / "static"
KEEPALIVE_SECONDS = 15.0
"""Silence after which a comment is sent, so that a browser that vanished is noticed."""

HEADERS = {
    "cache-control": "no-store",
    # The gateways are on other ports of this machine, and a late joiner's is not known beforehand.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    f"connect-src 'self' http://{HOST}:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Cap(msgspec.Struct):
    """How fast a node may send files, in bytes a second; ``None``: as fast as it goes."""

    upload_limit: Annotated[int, msgspec.Meta(ge=4096)] | None = None


class Pair(msgspec.Struct):
    """Two nodes, by name."""

    one: str
    other: str


class WithHeaders:
    """Sets headers on every answer, files included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self._app(scope, receive, sending)


def application(fleet: Fleet, scenarios: Scenarios) -> Starlette:
    """The page, its files, and ``/demo``: the state of the processes as `state` events, and orders.

    An order of another site's page is refused; one that cannot be done answers 409 and says why.
    """

    async def index(request: Request) -> Response:
        return Response((STATIC / "index.html").read_bytes(), media_type="text/html")

    async def events(request: Request) -> Response:
        return StreamingResponse(_events(fleet), media_type="text/event-stream")

    def ordered(order: Callable[[Request], Awaitable[object]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if request.headers.get("origin") != f"http://{request.headers['host']}":
                raise HTTPException(403, "only the page itself may give orders")
            try:
                await order(request)
            except (msgspec.MsgspecError, RecursionError) as error:
                return JSONResponse({"error": str(error)}, 400)
            except (NotPossible, NodeFailed, MeshError) as error:
                return JSONResponse({"error": str(error)}, 409)
            return JSONResponse({})

        return endpoint

    def with_node(act: Callable[[str], Awaitable[None]]) -> Callable[[Request], Awaitable[None]]:
        return lambda request: act(request.path_params["name"])

    async def cap(request: Request) -> None:
        wanted = msgspec.json.decode(await request.body(), type=Cap)
        await fleet.cap(request.path_params["name"], wanted.upload_limit)

    async def cut(request: Request) -> None:
        pair = msgspec.json.decode(await request.body(), type=Pair)
        await fleet.cut(pair.one, pair.other)

    async def mend(request: Request) -> None:
        pair = msgspec.json.decode(await request.body(), type=Pair)
        await fleet.mend(pair.one, pair.other)

    async def join(request: Request) -> None:
        await fleet.join()

    async def play(request: Request) -> None:
        scenarios.begin(request.path_params["name"])

    orders: dict[str, Callable[[Request], Awaitable[None]]] = {
        "/demo/nodes/{name}/pause": with_node(fleet.pause),
        "/demo/nodes/{name}/resume": with_node(fleet.resume),
        "/demo/nodes/{name}/kill": with_node(fleet.kill),
        "/demo/nodes/{name}/restart": with_node(fleet.restart),
        "/demo/nodes/{name}/cap": cap,
        "/demo/links/cut": cut,
        "/demo/links/mend": mend,
        "/demo/joiners": join,
        "/demo/scenarios/{name}": play,
    }
    return Starlette(
        routes=[
            Route("/", index),
            Route("/demo/events", events),
            *(Route(path, ordered(order), methods=["POST"]) for path, order in orders.items()),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
        ],
    )


async def _events(fleet: Fleet) -> AsyncIterator[bytes]:
    async with fleet.watch() as stream:
        yield b"retry: 1000\n\n"
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    state: dict[str, Any] = await anext(stream)
            except TimeoutError:
                yield b": still here\n\n"
            except StopAsyncIteration:
                return
            else:
                yield b"event: state\ndata: " + msgspec.json.encode(state) + b"\n\n"


class PageServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: signals are the demo's to handle."""
        yield


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, sock: socket.socket) -> AsyncIterator[None]:
    """Serve ``app`` on a bound socket while the block runs."""
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    server = PageServer(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def listening(port: int) -> socket.socket:
    """A socket that is bound to ``port`` on loopback, or to a free port if that one is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except OSError:
        sock.bind((HOST, 0))
    return sock
