"""HTTP as uvicorn speaks it, but for what it says of a request that it cannot read."""

from __future__ import annotations

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from mesh.control.protocol import ErrorBody
from mesh.gateway.answers import HEADERS, JSON, ErrorAnswer
from mesh.gateway.outgoing import Patient

MAX_HEAD_BYTES = 64 * 1024
"""Of a request: its line, which the query is part of, and its headers."""

LINGER_SECONDS = 2.0
"""How long the rest of a request that was refused is taken, so that its sender gets to read why."""

_TEXT = (
    f"this is no HTTP request, or its line and headers are over {MAX_HEAD_BYTES} bytes: a large selector "
    "goes into the body of POST /api/collections/NAME/query"
)


class Http(Patient, H11Protocol):
    """One connection."""

    _refused = False

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of what was refused they go nowhere."""
        if not self._refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Say why, and close once that has been read: who is still sending would see a reset instead."""
        self._refused = True
        body = msgspec.json.encode(ErrorAnswer(ErrorBody("BadRequest", _TEXT)))
        headers = {**HEADERS, "content-type": JSON, "content-length": str(len(body)), "connection": "close"}
        for event in (
            h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
