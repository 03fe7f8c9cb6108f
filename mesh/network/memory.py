"""A network in memory: many nodes in one process, on whatever clock the event loop has, with faults.

It carries whole messages in order, as a WebSocket does, with delays, limited bandwidth and bounded buffers.
A message is never lost in the middle of a connection: as over TCP, what breaks is the connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mesh.errors import AddressInUse, InvalidAddress, LinkClosed, PeerUnreachable
from mesh.network.addresses import Endpoint, is_loopback, parse_listen, parse_url
from mesh.network.transport import MAX_STRANGER_BYTES, Accept, Buffer, max_message_bytes

DIAL_SECONDS = 10.0
"""How long a dial waits for a host that does not answer."""

BUFFER_BYTES = 256 * 1024
"""What a connection holds in one direction, under way and unread, before ``send`` waits."""

_BROKEN = "the connection broke"

log = logging.getLogger(__name__)


class Path(NamedTuple):
    """What lies between two hosts, per direction.

    Attributes:
        delay: seconds that every message takes.
        jitter: up to so many seconds more, at random; order within a connection holds.
        loss: probability that a message breaks the connection.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0


_DIRECT = Path()


class _Host:
    """One machine: its listeners, its connections, and how busy its network interface is."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self.listeners: dict[int, MemoryListener] = {}
        self.connections: dict[MemoryConnection, None] = {}  # in the order they were made
        self.bytes_per_second = bytes_per_second
        self.upload_free_at = 0.0
        self.download_free_at = 0.0
        self.next_port = 40_000


class MemoryNetwork:
    """What all hosts hang on. Hosts are names; whatever is not set for one or for two has the defaults."""

    def __init__(
        self, rng: random.Random, *, path: Path = _DIRECT, bytes_per_second: float | None = None
    ) -> None:
        """
        Args:
            rng: the source of jitter and loss.
            path: between hosts for which :meth:`set_path` was not called.
            bytes_per_second: bandwidth of hosts, each way; ``None``: unlimited.
        """
        self.rng = rng
        self._default_path = path
        self._default_bandwidth = bytes_per_second
        self._paths: dict[frozenset[str], Path] = {}
        self._hosts: dict[str, _Host] = {}
        self._group_of: dict[str, int] | None = None
        self._silent = True
        self._cut: set[frozenset[str]] = set()
        self._healed = asyncio.Event()
        self._healed.set()

    # --- what tests and simulations do to it ----------------------------------------------------

    def transport(self, host: str) -> MemoryTransport:
        """The transport of the nodes on ``host``."""
        return MemoryTransport(self, host)

    def set_path(self, a: str, b: str, path: Path) -> None:
        """Set what lies between two hosts, for whatever is sent from now on."""
        self._paths[frozenset((a, b))] = path

    def set_bandwidth(self, host: str, bytes_per_second: float | None) -> None:
        """Limit what ``host`` can send and what it can receive."""
        self.host(host).bytes_per_second = bytes_per_second

    def partition(self, groups: Iterable[Iterable[str]], *, silent: bool = True) -> None:
        """Hosts in different groups do not reach each other until :meth:`heal`; all unnamed hosts are a
        group of their own.

        Args:
            groups: names of hosts.
            silent: connections between the groups stall and dials time out; otherwise connections break
                and dials fail at once.
        """
        self._group_of = {host: number for number, group in enumerate(groups) for host in group}
        self._silent = silent
        self._healed.clear()
        if not silent:
            self._break_where(lambda a, b: self.separated(a, b))

    def cut(self, a: str, b: str) -> None:
        """Break the connections between two hosts; dials between them fail until :meth:`heal`."""
        self._cut.add(frozenset((a, b)))
        self.drop(a, b)

    def drop(self, a: str, b: str) -> None:
        """Break the connections between two hosts, once."""
        self._break_where(lambda x, y: {x, y} == {a, b})

    def crash(self, name: str) -> None:
        """``name`` loses its listeners and connections without a goodbye. It can be used again at once."""
        host = self.host(name)
        for listener in list(host.listeners.values()):
            listener.stop()
        self._break_where(lambda x, y: name in (x, y))

    def heal(self) -> None:
        """Everybody reaches everybody again; what stalled is delivered."""
        self._group_of = None
        self._cut.clear()
        self._healed.set()
        for host in list(self._hosts.values()):
            for connection in list(host.connections):
                connection.incoming.flush()

    # --- what connections ask --------------------------------------------------------------------

    def host(self, name: str) -> _Host:
        """The machine of that name."""
        return self._hosts.setdefault(name, _Host(self._default_bandwidth))

    def path(self, a: str, b: str) -> Path:
        """What lies between two hosts."""
        return self._paths.get(frozenset((a, b)), self._default_path)

    def separated(self, a: str, b: str) -> bool:
        """Whether a partition lies between two hosts."""
        groups = self._group_of
        return groups is not None and groups.get(a, -1) != groups.get(b, -1)

    def stalls(self, a: str, b: str) -> bool:
        """Whether what is under way between two hosts does not arrive for now."""
        return self._silent and self.separated(a, b)

    def refuses(self, a: str, b: str) -> bool:
        """Whether a dial between two hosts fails at once."""
        return frozenset((a, b)) in self._cut or (not self._silent and self.separated(a, b))

    async def healed(self) -> None:
        """Wait for :meth:`heal`."""
        await self._healed.wait()

    def _break_where(self, concerned: Callable[[str, str], bool]) -> None:
        for host in list(self._hosts.values()):
            for connection in list(host.connections):
                if concerned(connection.host, connection.peer_host):
                    connection.break_off()


class _Pipe:
    """One direction of a connection: what is under way, then what has arrived and is unread."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._source, self._target = source, target
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[bytes | None] = deque()  # None: the end
        self._due = 0  # how many of them would have arrived, were there no partition
        self._arrived: deque[bytes] = deque()
        self._held_bytes = 0
        self._last_arrival = 0.0
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.max_message_bytes = MAX_STRANGER_BYTES
        self.closed: str | None = None  # why nothing can be sent any more
        self.ended: str | None = None  # why nothing will arrive any more

    async def send(self, message: bytes) -> None:
        if self.closed is not None:
            raise LinkClosed(self.closed)
        self._hold(len(message))
        self._dispatch(message, self._arrival_of(len(message)))
        await self._writable.wait()
        if self.closed is not None:
            raise LinkClosed(self.closed)

    async def receive(self) -> bytes:
        while not self._arrived:
            if self.ended is not None:
                raise LinkClosed(self.ended)
            self._readable.clear()
            await self._readable.wait()
        message = self._arrived.popleft()
        self._hold(-len(message))
        return message

    def close(self, reason: str) -> None:
        """Nothing more is sent; what was sent arrives."""
        if self.closed is None:
            self.closed = reason or "the other side closed it"
            self._writable.set()
            self._dispatch(None, self._arrival_of(0))

    def break_off(self, reason: str) -> None:
        """At once, for both sides; what is under way is lost."""
        self.closed = self.closed or reason
        self.ended = self.ended or reason
        self._under_way.clear()
        self._due = 0
        self._readable.set()
        self._writable.set()

    def flush(self) -> None:
        """Deliver what is due, unless a partition stalls it."""
        while self._due and not self._network.stalls(self._source, self._target):
            self._due -= 1
            message = self._under_way.popleft()
            if message is None:
                self.ended = self.ended or self.closed
            elif len(message) > self.max_message_bytes:
                self.break_off(f"a message of {len(message)} bytes, where {self.max_message_bytes} may be")
            elif self.ended is None:
                self._arrived.append(message)
            self._readable.set()

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        if self._held_bytes < BUFFER_BYTES:
            self._writable.set()
        elif self.closed is None:
            self._writable.clear()

    def _arrival_of(self, size: int) -> float:
        path = self._network.path(self._source, self._target)
        sender, receiver = self._network.host(self._source), self._network.host(self._target)
        time = self._loop.time()
        if sender.bytes_per_second is not None:
            time = sender.upload_free_at = max(time, sender.upload_free_at) + size / sender.bytes_per_second
        time += path.delay
        if path.jitter:
            time += self._network.rng.uniform(0, path.jitter)
        if receiver.bytes_per_second is not None:
            time = max(time, receiver.download_free_at) + size / receiver.bytes_per_second
            receiver.download_free_at = time
        self._last_arrival = max(self._last_arrival, time)
        return self._last_arrival

    def _dispatch(self, message: bytes | None, arrival: float) -> None:
        self._under_way.append(message)
        if arrival > self._loop.time():
            self._loop.call_at(arrival, self._arrive)
        else:
            self._loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        if self._due < len(self._under_way):  # else it broke while this was under way
            self._due += 1
            self.flush()


class MemoryConnection:
    """See :class:`mesh.network.transport.Connection`."""

    def __init__(
        self,
        network: MemoryNetwork,
        host: str,
        peer_host: str,
        path: str,
        incoming: _Pipe,
        outgoing: _Pipe,
    ) -> None:
        self.host, self.peer_host = host, peer_host
        self.remote = peer_host
        self.path = path
        self.binding = b""
        self.incoming, self._outgoing = incoming, outgoing
        self._network = network
        network.host(host).connections[self] = None

    def trust(self) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        self.incoming.max_message_bytes = max_message_bytes(self.path)

    async def send(self, message: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""
        path = self._network.path(self.host, self.peer_host)
        if path.loss and self._network.rng.random() < path.loss:
            self.break_off()
        await self._outgoing.send(bytes(message))

    async def receive(self) -> bytes:
        """See :class:`mesh.network.transport.Connection`."""
        return await self.incoming.receive()

    def reuse(self, message: Buffer) -> None:
        """See :class:`mesh.network.transport.Connection`."""

    async def close(self, reason: str = "") -> None:
        """See :class:`mesh.network.transport.Connection`."""
        self._outgoing.close(reason)
        self.incoming.break_off(reason or "closed by this side")
        self._network.host(self.host).connections.pop(self, None)

    def break_off(self) -> None:
        """Both sides lose it at once."""
        self.incoming.break_off(_BROKEN)
        self._outgoing.break_off(_BROKEN)
        self._network.host(self.host).connections.pop(self, None)


class MemoryListener:
    """See :class:`mesh.network.transport.Listener`."""

    def __init__(self, network: MemoryNetwork, name: str, port: int, accept: Accept) -> None:
        self.address = Endpoint(name, port).url
        self._name, self.port = name, port
        self.binding = f"{name}:{port}".encode()
        self._host = network.host(name)
        self._accept = accept
        self._handlers: dict[asyncio.Task[None], MemoryConnection] = {}
        self._host.listeners[port] = self

    def accept(self, connection: MemoryConnection) -> None:
        """A connection has come in."""
        task = asyncio.get_running_loop().create_task(self._handle(connection))
        self._handlers[task] = connection
        task.add_done_callback(self._handlers.pop)

    def stop(self) -> None:
        """Nothing more comes in."""
        if self._host.listeners.get(self.port) is self:
            del self._host.listeners[self.port]

    async def close(self) -> None:
        """See :class:`mesh.network.transport.Listener`."""
        self.stop()
        for connection in list(self._handlers.values()):
            await connection.close("the node is closing")
        if self._handlers:
            await asyncio.wait(self._handlers)

    async def _handle(self, connection: MemoryConnection) -> None:
        try:
            await self._accept(connection)
        except Exception:
            log.exception("the handler of a connection from %s failed", connection.remote)
        finally:
            await connection.close()


class MemoryTransport:
    """See :class:`mesh.network.transport.Transport`. Its addresses are ``ws://<name of the host>:<port>``, in
    closed meshes, too, and the channel is bound to that name and port."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self._network = network
        self._name = host

    async def listen(self, address: str, accept: Accept) -> MemoryListener:
        """See :class:`mesh.network.transport.Transport`. A loopback host stands for this one."""
        endpoint = parse_listen(address)
        if endpoint.host != self._name and not is_loopback(endpoint.host):
            raise InvalidAddress(address, f"this machine is called {self._name}")
        host = self._network.host(self._name)
        port = endpoint.port
        while not port or (not endpoint.port and port in host.listeners):
            host.next_port += 1
            port = host.next_port
        if port in host.listeners:
            raise AddressInUse(address)
        return MemoryListener(self._network, self._name, port, accept)

    def check(self, url: str) -> None:
        """See :class:`mesh.network.transport.Transport`."""
        parse_url(url)

    async def dial(self, url: str) -> MemoryConnection:
        """See :class:`mesh.network.transport.Transport`."""
        endpoint = parse_url(url)
        network, here, there = self._network, self._name, endpoint.host
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                while network.stalls(here, there):
                    await network.healed()
                await _travel(network, here, there)
                listener = network.host(there).listeners.get(endpoint.port)
                if network.refuses(here, there):
                    raise PeerUnreachable(url, "there is no way to that machine")
                if listener is None:
                    raise PeerUnreachable(url, "nothing listens there")
                to, back = _Pipe(network, here, there), _Pipe(network, there, here)
                mine = MemoryConnection(network, here, there, endpoint.path, back, to)
                theirs = MemoryConnection(network, there, here, endpoint.path, to, back)
                mine.binding = theirs.binding = listener.binding
                listener.accept(theirs)
                try:
                    await _travel(network, there, here)
                except asyncio.CancelledError:
                    mine.break_off()
                    raise
        except TimeoutError as error:
            raise PeerUnreachable(url, f"no answer within {DIAL_SECONDS:g} s") from error
        return mine


async def _travel(network: MemoryNetwork, source: str, target: str) -> None:
    """One message's way."""
    path = network.path(source, target)
    await asyncio.sleep(path.delay + (network.rng.uniform(0, path.jitter) if path.jitter else 0))
