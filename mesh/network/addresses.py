"""Addresses: what people write to say where to listen and whom to dial."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

from mesh.errors import InvalidAddress
from mesh.network.transport import PATHS


class Endpoint(NamedTuple):
    """A host (name or IP address, without brackets), a port, the path of a URL, and whether TLS is spoken."""

    host: str
    port: int
    path: str = "/"
    secure: bool = False

    @property
    def url(self) -> str:
        """This endpoint as others dial it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}{self.path.rstrip('/')}"


def parse_listen(address: str) -> Endpoint:
    """``host:port`` in its parts; IPv6 addresses stand in brackets.

    Raises:
        InvalidAddress: ``address`` is something else.
    """
    return _parse(address, f"//{address}", "write host:port, such as 127.0.0.1:7700 or [::1]:0")


def parse_url(url: str) -> Endpoint:
    """``ws://host:port`` or ``wss://host:port`` in its parts; the path says what the connection is for.

    Raises:
        InvalidAddress: ``url`` is something else.
    """
    form = "write ws://host:port or wss://host:port, such as ws://127.0.0.1:7700"
    if not isinstance(url, str):
        raise InvalidAddress(repr(url), form)
    scheme = url.partition("://")[0].lower()
    if scheme not in ("ws", "wss"):
        raise InvalidAddress(url, form)
    endpoint = _parse(url, url, form)
    if endpoint.port == 0 or endpoint.path not in PATHS:
        raise InvalidAddress(url, form)
    return endpoint._replace(secure=scheme == "wss")


def _parse(address: str, url: str, form: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidAddress(address, form) from error
    if not host or port is None or parts.username is not None or parts.query or parts.fragment:
        raise InvalidAddress(address, form)
    return Endpoint(host, port, parts.path or "/")


def is_loopback(host: str) -> bool:
    """Whether ``host`` (an IP address, or the name ``localhost``) can only be this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_wildcard(host: str) -> bool:
    """Whether ``host`` stands for all addresses of a machine: one can listen there, and not dial it."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
