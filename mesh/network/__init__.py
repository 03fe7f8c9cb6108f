"""Adapters to the outside: WebSocket and in-memory transports, links, and the peers they lead to."""
