"""The WebSockets of the gateway: the server's, but that they keep little for a client that does not read, or
never ends what it says."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from mesh.gateway.outgoing import Patient

MAX_FRAGMENTS = 4096
"""Of one message: its bytes have a bound, but there may be none in them."""


class BoundedWebSocket(Patient, WebSocketsSansIOProtocol):
    """One connection."""

    def handle_ping(self) -> None:
        """Who takes nothing gets no answers to pings: they would pile up."""
        answers = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(answers))

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message."""
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.transport.is_closing():
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
