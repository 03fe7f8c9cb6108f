"""A network in memory: many nodes in one process, on whatever clock the event loop has, with faults.

It carries whole messages in order, as a WebSocket does, with delays, limited bandwidth and bounded buffers.
A message is never lost in the middle of a connection: as over TCP, what breaks is the connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mesh.errors import AddressInUse, InvalidAddress, PeerUnreachable
from mesh.network.addresses import Endpoint, is_loopback, parse_listen, parse_url
from mesh.network.memory_connection import MemoryConnection, Pipe
from mesh.network.transport import Accept

DIAL_SECONDS = 10.0
"""How long a dial waits for a host that does not answer."""

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
                to, back = Pipe(network, here, there), Pipe(network, there, here)
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
