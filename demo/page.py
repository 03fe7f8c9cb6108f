"""The page: what one node of the mesh knows, pushed to every browser that looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from demo.sensors import COLLECTION
from mesh import Stream
from mesh.control.client import ControlClient

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
SNAPSHOT = "{}"
"""Where the state goes in the page."""
SAMPLE_SECONDS = 2.0
"""How often round-trip times and byte counts are told anew; everything else is told when it changes."""
KEEPALIVE_SECONDS = 15.0
"""Silence after which a comment is sent, so that a browser that vanished is noticed."""

State = dict[str, Any]
"""Parts of the page by key, e.g. ``node/<id>``; ``None`` where one is gone."""

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:",
    "x-content-type-options": "nosniff",
}


class Feed:
    """What there is to see, and who looks.

    It is fed once, however many browsers there are. A browser gets the whole state first, then what
    changes; a slow one gets several changes as one.
    """

    def __init__(self) -> None:
        self.state: State = {}
        self._watchers: WeakSet[Stream[State]] = WeakSet()
        self._closed = False

    @property
    def watchers(self) -> int:
        """How many are looking."""
        return len(self._watchers)

    def put(self, key: str, value: Any) -> None:
        """A part is now ``value``; ``None`` takes it away."""
        if value is None:
            self.state.pop(key, None)
        else:
            self.state[key] = value
        for stream in list(self._watchers):
            stream.push({key: value})

    def watch(self) -> Stream[State]:
        """The whole state, then every change, until :meth:`close`."""
        stream: Stream[State] = Stream(
            merge=lambda older, newer: older | newer, on_close=lambda: self._watchers.discard(stream)
        )
        stream.push(dict(self.state))
        if self._closed:
            stream.finish()
        else:
            self._watchers.add(stream)
        return stream

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        for stream in list(self._watchers):
            stream.finish()


async def follow(home: Path, feed: Feed) -> None:
    """Tell ``feed`` what the node on ``home`` knows, until that node is gone.

    Raises:
        MeshError: it is.
    """
    async with ControlClient(home) as control:
        feed.put("hub", await control.call("node.info"))

        async def documents(collection: str, kind: str) -> None:
            async with control.stream("documents.observe", {"collection": collection}) as changes:
                async for change in changes:
                    document = change["document"]
                    gone = change["change"] == "removed"
                    feed.put(f"{kind}/{document['_id']}", None if gone else document)

        async def newest(key: str, method: str, params: dict[str, Any]) -> None:
            async with control.stream(method, params) as items:
                async for item in items:
                    feed.put(key, item)

        async with asyncio.TaskGroup() as following:
            following.create_task(documents("nodes", "node"))
            following.create_task(documents(COLLECTION, "document"))
            following.create_task(newest("presence", "node.observe_presence", {"every": SAMPLE_SECONDS}))
            following.create_task(newest("distributions", "distributions.watch", {}))


def application(feed: Feed) -> Starlette:
    """The page, its files, and ``/events``: a `snapshot` event, then `change` events, as JSON objects.

    The page holds the state of the moment, so that there is something to see before the first event.
    """
    before, after = (STATIC / "index.html").read_text().split(SNAPSHOT)

    async def index(request: Request) -> Response:
        return HTMLResponse(before + _in_html(feed.state) + after, headers=_HEADERS)

    async def events(request: Request) -> Response:
        return StreamingResponse(_events(feed), media_type="text/event-stream", headers=_HEADERS)

    return Starlette(
        routes=[Route("/", index), Route("/events", events), Mount("/static", StaticFiles(directory=STATIC))],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def _in_html(state: State) -> str:
    """``state`` as JSON that cannot end the script element that it stands in."""
    return msgspec.json.encode(state).decode().replace("<", "\\u003c")


async def _events(feed: Feed) -> AsyncIterator[bytes]:
    async with feed.watch() as stream:
        yield b"retry: 1000\n\n"
        kind = b"snapshot"
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    state = await anext(stream)
            except TimeoutError:
                yield b": still here\n\n"
            except StopAsyncIteration:
                return
            else:
                yield b"event: " + kind + b"\ndata: " + msgspec.json.encode(state) + b"\n\n"
                kind = b"change"


class PageServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: signals are the demo's to handle."""
        yield


@contextlib.asynccontextmanager
async def serve(home: Path, port: int) -> AsyncIterator[str]:
    """Serve the page of the node on ``home`` while the block runs; yields its address.

    If ``port`` is taken, a free one is used.
    """
    feed = Feed()

    def ended(following: asyncio.Task[None]) -> None:
        feed.close()  # browsers then say that they see nothing new
        if not following.cancelled() and (error := following.exception()) is not None:
            log.warning("the page no longer follows the node on %s: %r", home, error)

    with listening(port) as sock:
        config = uvicorn.Config(
            application(feed),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        server = PageServer(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        following = asyncio.create_task(follow(home, feed))
        following.add_done_callback(ended)
        try:
            yield f"http://{HOST}:{sock.getsockname()[1]}/"
        finally:
            server.should_exit = True
            following.cancel()
            await asyncio.wait({following, serving})
            serving.result()


def listening(port: int) -> socket.socket:
    """A socket that is bound to ``port`` on loopback, or to a free port if that one is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except OSError:
        sock.bind((HOST, 0))
    return sock
