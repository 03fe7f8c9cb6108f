"""What the gateway keeps for a WebSocket client that does harm."""

from __future__ import annotations

import asyncio
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from urllib.parse import urlsplit

import pytest
import websockets
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from mesh import Node
from mesh.gateway import Gateway
from mesh.gateway.websocket import MAX_FRAGMENTS, BoundedWebSocket

PINGED_BYTES = 4_000_000


async def test_answers_to_pings_do_not_pile_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[BoundedWebSocket] = []
    handle_connect = BoundedWebSocket.handle_connect

    def came(socket: BoundedWebSocket, request: Request) -> None:
        served.append(socket)
        handle_connect(socket, request)

    monkeypatch.setattr(BoundedWebSocket, "handle_connect", came)
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    async with Gateway(node) as gateway, asyncio.timeout(30):
        url = f"ws://{urlsplit(gateway.url).netloc}/yjs/cars/1"
        async with websockets.connect(url, ping_interval=None) as client:
            [server] = served
            client.transport.pause_reading()
            for transport in (client.transport, server.transport):
                for option in (SO_RCVBUF, SO_SNDBUF):
                    transport.get_extra_info("socket").setsockopt(SOL_SOCKET, option, 64 * 1024)
            for _ in range(PINGED_BYTES // len(ping * 100)):
                client.transport.write(ping * 100)
                await client.drain()
            assert server.transport.get_write_buffer_size() < PINGED_BYTES / 4
            client.transport.abort()


async def test_a_message_without_end_is_refused(node: Node) -> None:
    async with Gateway(node) as gateway, asyncio.timeout(30):
        url = f"ws://{urlsplit(gateway.url).netloc}/yjs/cars/1"
        async with websockets.connect(url) as client:
            client.transport.write(Frame(Opcode.BINARY, b"", fin=False).serialize(mask=True))
            client.transport.write(
                Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * (MAX_FRAGMENTS + 10)
            )
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
