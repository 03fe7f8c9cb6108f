"""Who may talk to the gateway: checked before anything else, for HTTP and WebSockets alike.

A page of any web site can make the browser of whoever looks at it send requests to this machine. It cannot
choose the ``Host`` under which it does so (a name that its owner makes point here, at most), nor leave out
who it is (``Origin``, or ``Sec-Fetch-Site`` where there is none).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from mesh.gateway.answers import refusal

TOKEN_PARAMETER = "access_token"
"""Where the token is where a browser cannot set headers."""

_OPEN = frozenset({"/healthz"})

_Refused = tuple[int, str, dict[str, str]]
"""Status, reason and headers."""


class Guard:
    """Lets through what may pass.

    Args:
        app: the application.
        host: the host that is listened on.
        token: what everybody has to show; ``None``: nothing.
        origins: pages that may talk to the gateway besides its own, such as ``https://app.example.org``.
        guarded: the starts of the paths that take the token.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        token: str | None,
        origins: Collection[str],
        guarded: tuple[str, ...],
    ) -> None:
        self._app = app
        self._hosts = {host.lower(), "localhost"}
        self._token = None if token is None else token.encode()
        self._origins = frozenset(origins)
        self._guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        shown = _taken_token(scope, headers)
        refused = self._refused(scope, headers, shown)
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(*refused)(scope, receive, send)
        else:
            websocket = WebSocket(scope, receive, send)
            await websocket.accept()  # a client is told nothing of a handshake that was refused
            await websocket.close(4000 + refused[0], refused[1])

    def _refused(self, scope: Scope, headers: Headers, shown: bytes | None) -> _Refused | None:
        try:
            unquote_to_bytes(scope["raw_path"] + b"?" + scope["query_string"]).decode()
        except UnicodeDecodeError:
            return 400, "the address is not UTF-8 behind its % signs", {}
        host = headers.get("host", "")
        if not self._is_known(host):
            return 403, "this host is not this gateway: use its IP address, or localhost", {}
        origin = headers.get("origin")
        if not self._is_welcome(scope, headers, host, origin):
            return 403, "a page of another origin may not talk to this gateway, unless it is allowed", {}
        if self._token is None or scope["path"] in _OPEN or not scope["path"].startswith(self._guarded):
            return None
        if shown is None or not hmac.compare_digest(shown, self._token):
            return 401, "this gateway takes a token (Authorization: Bearer)", {"www-authenticate": "Bearer"}
        return None

    def _is_known(self, host: str) -> bool:
        """Whether a name that somebody else made point here cannot be meant."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)

    def _is_welcome(self, scope: Scope, headers: Headers, host: str, origin: str | None) -> bool:
        if origin is not None:
            return origin in self._origins or origin.partition("://")[2] == host
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return True
        # Somebody follows a link: what comes is shown to them, and not to the page that they come from.
        return scope.get("method") == "GET" and headers.get("sec-fetch-dest") == "document"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _taken_token(scope: Scope, headers: Headers) -> bytes | None:
    """The token that was shown; taken out of the query, so that it gets into no log."""
    given: str | None = None
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if any(name == TOKEN_PARAMETER for name, _ in query):
        given = next(value for name, value in query if name == TOKEN_PARAMETER)
        rest = [(name, value) for name, value in query if name != TOKEN_PARAMETER]
        scope["query_string"] = urlencode(rest).encode()
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        given = bearer.strip()
    return None if given is None else given.encode()
