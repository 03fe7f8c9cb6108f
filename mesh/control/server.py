"""The control endpoint of a running node: a Unix socket that only this user can reach."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response as HttpResponse

from mesh.control import socket_path
from mesh.control.error_mapping import to_body
from mesh.control.methods import METHODS
from mesh.control.protocol import (
    MAX_MESSAGE_BYTES,
    MAX_OPEN_REQUESTS,
    Reply,
    Request,
    decode_request,
    encode,
)
from mesh.control.registry import Served
from mesh.errors import DataDirUnusable, MeshError, ProtocolViolation

if TYPE_CHECKING:
    from mesh import Node

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 1.0
"""Seconds that a client gets to close its side; a suspended one must not hold up the node."""


class ControlServer:
    """Serves the control methods of ``node`` on the socket of ``home``.

    Its life encloses the end of the node's: ``retire()`` while the node still holds its directory,
    then the node's ``close()``, then ``close()`` here; so whoever asked for a shutdown learns from the
    closed connection that everything is released.
    """

    def __init__(self, node: Node, home: Path, *, shutdown: Callable[[], None]) -> None:
        self._served = Served(node, shutdown)
        self._home = home.absolute()
        self._server: Server | None = None
        self._deliveries: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. The node must be started: its lock on ``home`` is what makes a found socket stale.

        Raises:
            DataDirUnusable: no socket can be made for ``home``.
        """
        path = socket_path.prepare(self._home)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(path))
            path.chmod(0o600)
            self._server = await unix_serve(
                self._serve,
                sock=listening,
                process_request=_refuse_other_users,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT,
            )
        except OSError as error:
            listening.close()
            raise DataDirUnusable(
                str(self._home), f"no control socket at {path}: {error.strerror}"
            ) from error
        self._deliveries = asyncio.create_task(self._served.collect_deliveries())

    def retire(self) -> None:
        """Take the socket away: nobody new comes in, who is connected stays. May be repeated."""
        if self._server is not None and self._server.is_serving():
            self._server.close(close_connections=False)
            socket_path.clear(self._home)

    async def close(self) -> None:
        """End every connection and what it asked for. May be repeated."""
        if self._server is None:
            return
        self.retire()
        server, self._server = self._server, None
        if self._deliveries is not None:
            self._deliveries.cancel()
            await asyncio.wait([self._deliveries])
        await asyncio.gather(*(connection.close(1001) for connection in server.all_connections))
        await server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        """Answer one client; what it left open when it goes away is cancelled."""
        running: dict[int, asyncio.Task[None]] = {}
        try:
            async for text in connection:
                request = decode_request(text)
                if request.cancel:
                    await self._cancel(connection, request.id, running.get(request.id))
                    continue
                if request.id in running or len(running) >= MAX_OPEN_REQUESTS:
                    raise ProtocolViolation(
                        f"request {request.id} is open already, or {MAX_OPEN_REQUESTS} others are"
                    )
                task = running[request.id] = asyncio.create_task(self._answer(connection, request))
                task.add_done_callback(functools.partial(_forget, running, request.id))
        except ProtocolViolation as error:
            log.warning("control client: %s", error)
            await connection.close(1002, str(error)[:100])
        except ConnectionClosed:
            pass  # it went away without saying so: nothing more to answer
        finally:
            left = list(running.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _cancel(self, connection: ServerConnection, id: int, task: asyncio.Task[None] | None) -> None:
        if task is None:
            return  # answered already, the cancellation crossed the answer
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            await connection.send(encode(Reply(id, end=True)))

    async def _answer(self, connection: ServerConnection, request: Request) -> None:
        with contextlib.suppress(ConnectionClosed):  # nobody is left to hear it
            try:
                await self._run(connection, request)
            except MeshError as error:
                await connection.send(encode(Reply(request.id, error=to_body(error))))
            except ConnectionClosed:
                raise
            except Exception as error:
                log.exception("control method %s failed", request.method)
                unexpected = MeshError(
                    f"{request.method} failed in the node ({type(error).__name__}: {error}): see its log"
                )
                await connection.send(encode(Reply(request.id, error=to_body(unexpected))))

    async def _run(self, connection: ServerConnection, request: Request) -> None:
        method = METHODS[request.method]
        outcome = method.bind(self._served, request.params)
        if not method.streams:
            result = await cast(Awaitable[Any], outcome)
            await connection.send(encode(Reply(request.id, result=result)))
            return
        async with contextlib.aclosing(cast(Any, outcome)) as items:
            async for item in cast(AsyncIterator[Any], items):
                await connection.send(encode(Reply(request.id, item=item)))
        await connection.send(encode(Reply(request.id, end=True)))


def _forget(running: dict[int, asyncio.Task[None]], id: int, task: asyncio.Task[None]) -> None:
    del running[id]


def _refuse_other_users(connection: ServerConnection, request: HttpRequest) -> HttpResponse | None:
    """The socket's mode keeps others out; this holds where the system ignores that mode."""
    uid = socket_path.peer_uid(connection.transport.get_extra_info("socket"))
    if uid is None or uid == os.geteuid():
        return None
    log.warning("control connection of user %d refused", uid)
    return connection.respond(HTTPStatus.FORBIDDEN, "this node belongs to another user\n")
