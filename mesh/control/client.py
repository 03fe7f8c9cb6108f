"""Talks to the running node of a home directory, from another process of the same user."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

from msgspec import UNSET
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from mesh.control import socket_path
from mesh.control.error_mapping import from_body
from mesh.control.protocol import MAX_MESSAGE_BYTES, Reply, Request, decode_reply, encode
from mesh.errors import MeshError, NodeNotRunning, PermissionDenied


class ControlClient:
    """An async context manager; entering it connects.

    Calls may run at the same time and share a connection. Every stream has a connection of its own, so
    that a slow reader of it holds up nothing else, and the node feels how slow it is.

    Raises:
        NodeNotRunning: no node listens on ``home``, or it stopped meanwhile.
        PermissionDenied: the node there belongs to another user.
        MeshError: what the method raised in the node, as the same class with the same message.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._home = Path(home).absolute()
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count()

    async def __aenter__(self) -> Self:
        self._connection = await self._connect()
        self._reader = asyncio.create_task(self._read(self._connection))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._connection is not None
        assert self._reader is not None
        await self._connection.close()
        await self._reader

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of ``method``, as plain JSON types. Cancelling this gives it up in the node, too."""
        assert self._connection is not None, "use `async with ControlClient(home)`"
        id = next(self._ids)
        text = encode(Request(id, method, dict(params or {})))
        waiter = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            await self._connection.send(text)
            return await waiter
        except ConnectionClosed:
            raise NodeNotRunning(str(self._home)) from None
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(encode(Request(id, cancel=True)))
            raise
        finally:
            del self._waiting[id]

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, params: Mapping[str, Any] | None = None
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """The items of a streaming ``method``; leaving the context ends it in the node."""
        connection = await self._connect()
        try:
            yield self._items(connection, Request(0, method, dict(params or {})))
        finally:
            await connection.close()

    async def closed(self) -> None:
        """Wait until the node has ended this connection, which it does when everything is closed."""
        assert self._reader is not None, "use `async with ControlClient(home)`"
        await asyncio.shield(self._reader)

    async def _items(self, connection: ClientConnection, request: Request) -> AsyncIterator[Any]:
        try:
            await connection.send(encode(request))
            while not (reply := decode_reply(await connection.recv())).end:
                yield _unwrap(reply)
        except ConnectionClosed:
            raise NodeNotRunning(str(self._home)) from None

    async def _connect(self) -> ClientConnection:
        try:
            connection = await unix_connect(
                str(socket_path.find(self._home)),
                uri="ws://localhost/",
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                ping_interval=None,
                close_timeout=1,
            )
        except PermissionError:
            raise PermissionDenied(f"the node on {self._home} belongs to another user") from None
        except (OSError, InvalidMessage):  # nothing there, nobody listens, or it is just closing
            raise NodeNotRunning(str(self._home)) from None
        except InvalidHandshake:
            raise PermissionDenied(f"the node on {self._home} refuses this user") from None
        uid = socket_path.peer_uid(connection.transport.get_extra_info("socket"))
        if uid not in (None, os.geteuid()):
            await connection.close()
            raise PermissionDenied(f"the node on {self._home} belongs to another user")
        return connection

    async def _read(self, connection: ClientConnection) -> None:
        failure: MeshError = NodeNotRunning(str(self._home))
        try:
            async for text in connection:
                reply = decode_reply(text)
                waiter = self._waiting.get(reply.id)
                if waiter is None or waiter.done():
                    continue  # given up meanwhile
                try:
                    waiter.set_result(_unwrap(reply))
                except MeshError as error:
                    waiter.set_exception(error)
        except MeshError as error:
            failure = error
            await connection.close(1002)
        except ConnectionClosed:
            pass  # the node died: whoever waits is told so below
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(failure)


def _unwrap(reply: Reply) -> Any:
    if not isinstance(reply.error, type(UNSET)):
        raise from_body(reply.error)
    return reply.item if reply.result is UNSET else reply.result
