"""The transport of production: one WebSocket per connection, one binary message per message."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
from http import HTTPStatus
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Request, Response
from websockets.protocol import State

from mesh.core.limits import peer_log
from mesh.errors import AddressInUse, InvalidAddress, LinkClosed, PeerUnreachable, PlaintextRefused
from mesh.network.addresses import Endpoint, is_loopback, is_wildcard, parse_listen, parse_url
from mesh.network.bulk_frames import LARGE_BYTES
from mesh.network.bulk_stream import BulkConnection, OpeningConnection
from mesh.network.sockets import (
    OPEN_SECONDS,
    QUEUED_MESSAGES,
    Dialled,
    Entrance,
    Incoming,
    address,
    read_little,
)
from mesh.network.tls import Tls, fingerprint_of
from mesh.network.transport import (
    BROKE,
    BULK_PATH,
    HEADROOM_BYTES,
    MAX_STRANGER_BYTES,
    PATHS,
    Accept,
    Buffer,
    Connection,
    max_message_bytes,
)

CLOSE_SECONDS = 2.0

_WRITE_BUFFER_BYTES = 64 * 1024
_MAX_CLOSE_REASON_BYTES = 123  # what a WebSocket close frame has room for

log = peer_log(__name__)
# websockets logs tracebacks of what strangers send. What matters of it is said here, in one line.
_quiet = logging.Logger("websockets", logging.CRITICAL + 1)

_EITHER_END: dict[str, Any] = {
    "compression": None,
    "ping_interval": None,  # links have their own heartbeat
    "close_timeout": CLOSE_SECONDS,
    "max_size": MAX_STRANGER_BYTES,
    "max_queue": QUEUED_MESSAGES,
    "write_limit": _WRITE_BUFFER_BYTES,
    "logger": _quiet,
}


class WebSocketConnection:
    """See :class:`mesh.network.transport.Connection`."""

    __slots__ = ("__weakref__", "_socket", "binding", "path", "remote")

    def __init__(
        self, socket: ClientConnection | ServerConnection, remote: str, path: str, binding: bytes
    ) -> None:
        self._socket = socket
        self.path = path
        self.binding = binding
        self.remote = remote

    def trust(self) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        if isinstance(self._socket, Incoming):
            self._socket.trust(max_message_bytes(self.path))
        else:
            self._socket.protocol.max_message_size = max_message_bytes(self.path)

    async def send(self, *messages: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        socket = self._socket
        if socket.state is State.OPEN:
            for message in messages:
                socket.protocol.send_binary(message)
            socket.send_data()
        await self._has_room()

    async def send_in_place(self, message: bytearray) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        socket = self._socket
        if not isinstance(socket, Incoming) or len(message) < HEADROOM_BYTES + LARGE_BYTES:
            await self.send(memoryview(message)[HEADROOM_BYTES:])  # it is masked, or goes with others
            return
        if socket.state is State.OPEN:
            socket.send_in_place(message)
        await self._has_room()

    async def _has_room(self) -> None:
        socket = self._socket
        if socket.state is State.OPEN and not (socket.paused or socket.transport.is_closing()):
            return  # as nearly always: what follows takes several times as long
        try:
            async with socket.send_context():
                pass
        except ConnectionClosed as error:
            raise LinkClosed(_why_closed(error)) from error

    async def receive(self) -> bytes:
        """See :class:`mesh.network.transport.Connection`."""
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosed as error:
            raise LinkClosed(_why_closed(error)) from error

    def reuse(self, message: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""

    async def close(self, reason: str = "") -> None:
        """See :class:`mesh.network.transport.Connection`."""
        short = reason.encode()[:_MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
        try:
            # The library's own timeout does not cover a peer that stopped reading while much is unsent.
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close(reason=short)
        except TimeoutError:
            log.debug("%s did not answer the closing handshake", self.remote)
        finally:
            self._socket.transport.abort()


class WebSocketListener:
    """See :class:`mesh.network.transport.Listener`."""

    def __init__(self, accept: Accept, tls: Tls | None) -> None:
        self.address = ""
        self.port = 0
        self._accept = accept
        self.binding = tls.fingerprint if tls else b""
        self._server: Server | None = None
        self._entrance = Entrance(tls.server if tls else None)
        self._open: set[WebSocketConnection] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen on one address of this machine."""

        class Here(Incoming):
            entrance = self._entrance

        self._server = await serve(
            self._handle,
            host,
            port,
            origins=[None],  # a web page may reach loopback: refuse whatever a browser sends
            process_request=self._check_path,
            server_header=None,
            open_timeout=OPEN_SECONDS,
            create_connection=Here,
            **_EITHER_END,
        )
        bound, self.port = self._server.sockets[0].getsockname()[:2]
        dialable = _outward_address(bound) if is_wildcard(bound) else bound
        if dialable is not None:
            self.address = Endpoint(dialable, self.port, secure=self._entrance.tls is not None).url

    async def close(self) -> None:
        """See :class:`mesh.network.transport.Listener`."""
        if self._server is None:
            return
        self._server.close(close_connections=False)
        for connecting in [s for s in self._entrance.sockets if s.state is State.CONNECTING]:
            connecting.transport.abort()
        encrypting = self._entrance.encrypting
        for task, transport in list(encrypting.items()):
            transport.abort()
            task.cancel()
        if encrypting:
            await asyncio.wait(encrypting)
        await asyncio.gather(*(connection.close("the node is closing") for connection in self._open))
        await self._server.wait_closed()

    def _check_path(self, connection: ServerConnection, request: Request) -> Response | None:
        self._entrance.opening.pop(connection, None)
        if request.path in PATHS:
            return None
        return connection.respond(HTTPStatus.NOT_FOUND, f"Mesh nodes talk at {', '.join(PATHS)}.\n")

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        connection = WebSocketConnection(socket, address(socket.transport), socket.request.path, self.binding)
        self._open.add(connection)
        try:
            await self._accept(connection)
        except Exception:
            log.exception("the handler of a connection from %s failed", connection.remote)
        finally:
            await connection.close()
            self._open.discard(connection)


class _Dial(connect):
    """A redirect is somebody else's idea of whom to dial."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class WebSocketTransport:
    """See :class:`mesh.network.transport.Transport`."""

    def __init__(self, tls: Tls | None = None) -> None:
        """
        Args:
            tls: spoken on every connection, which then may leave this machine. ``None``: on none, and every
                address that is not loopback raises ``PlaintextRefused``.
        """
        self._tls = tls

    async def listen(self, address: str, accept: Accept) -> WebSocketListener:
        """See :class:`mesh.network.transport.Transport`.

        Raises:
            PlaintextRefused: the address is not loopback, and must be.
        """
        endpoint = parse_listen(address)
        try:
            host = (await self._resolve(address, endpoint, socket.AI_PASSIVE))[0]
            listener = WebSocketListener(accept, self._tls)
            await listener.start(host, endpoint.port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(address) from error
            raise InvalidAddress(address, _why_not_bound(error)) from error
        return listener

    def check(self, url: str) -> None:
        """See :class:`mesh.network.transport.Transport`."""
        host, _, _, secure = parse_url(url)
        if secure and self._tls is None:
            raise InvalidAddress(url, "wss:// needs credentials: `mesh join`, or Credentials.join()")
        if self._tls is not None and not secure:
            raise InvalidAddress(url, "a node with credentials speaks TLS only: write wss://host:port")
        # What a name stands for is known, and checked, when it is dialled.
        if _is_ip_address(host) and self._tls is None and not is_loopback(host):
            raise PlaintextRefused(url)

    async def dial(self, url: str) -> Connection:
        """See :class:`mesh.network.transport.Transport`.

        Raises:
            PlaintextRefused: the address is not loopback, and must be.
        """
        self.check(url)
        endpoint = parse_url(url)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                hosts = await self._resolve(url, endpoint)
                for host in hosts[:-1]:
                    try:
                        return await self._connect(endpoint, host)
                    except OSError as error:
                        log.debug("%s does not answer at %s: %s", url, host, error)
                return await self._connect(endpoint, hosts[-1])
        except (OSError, InvalidHandshake) as error:
            raise PeerUnreachable(url, _why_unreachable(error, secure=endpoint.secure)) from error

    async def _connect(self, endpoint: Endpoint, host: str) -> Connection:
        client = await _Dial(
            endpoint.url + ("/" if endpoint.path == "/" else ""),
            host=host,
            port=endpoint.port,
            proxy=None,
            user_agent_header=None,
            open_timeout=None,  # dial() has one around everything
            ssl=self._tls.client if self._tls else None,
            create_connection=OpeningConnection if endpoint.path == BULK_PATH else Dialled,
            **_EITHER_END,
        )
        if endpoint.path != BULK_PATH:
            read_little(client.transport)
        presented = client.transport.get_extra_info("ssl_object")
        binding = fingerprint_of(presented.getpeercert(binary_form=True)) if presented else b""
        if isinstance(client, OpeningConnection):
            return BulkConnection(client, address(client.transport), binding)
        return WebSocketConnection(client, address(client.transport), endpoint.path, binding)

    async def _resolve(self, address: str, endpoint: Endpoint, flags: int = 0) -> list[str]:
        """The IP addresses of a host. What is checked is what is used: a name may change its meaning."""
        if _is_ip_address(endpoint.host):
            hosts = [endpoint.host]
        else:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
            hosts = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if self._tls is None and not all(map(is_loopback, hosts)):
            raise PlaintextRefused(address)
        return hosts


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _why_closed(error: ConnectionClosed) -> str:
    frame = error.sent if error.rcvd is None or error.rcvd_then_sent is False else error.rcvd
    if frame is not None:
        return frame.reason or ("the other side closed it" if frame is error.rcvd else "closed by this side")
    cause = error.__cause__
    return f"{BROKE} ({cause})" if isinstance(cause, OSError) else BROKE


def _why_not_bound(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "this name has no address"
    if error.errno in (errno.EADDRNOTAVAIL, None):  # None: what asyncio of Python 3.13 makes of it
        return "this machine does not have that address"
    if error.errno == errno.EACCES:
        return "this user may not listen on that port"
    return error.strerror or str(error)


def _outward_address(wildcard: str) -> str | None:
    """The address of this machine from which others would see it come; ``None``: it has no way out."""
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if ":" in wildcard else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))  # sends nothing: the machine only chooses its address
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _why_unreachable(error: Exception, *, secure: bool) -> str:
    match error:
        case ConnectionRefusedError():
            return "nothing listens there"
        case TimeoutError():
            return f"no answer within {OPEN_SECONDS:g} s"
        case socket.gaierror():
            return "this name has no address"
        case InvalidStatus():
            return f"what answers there is not a mesh node (HTTP {error.response.status_code})"
        case ssl.SSLError() | ConnectionResetError() if secure:
            return "what answers there speaks no TLS 1.3: it is a node without credentials, or no mesh node"
        case InvalidHandshake() if not secure:
            return "what answers there is not a mesh node, or one with credentials (wss://)"
        case InvalidHandshake():
            return "what answers there is not a mesh node"
    return getattr(error, "strerror", None) or str(error)
