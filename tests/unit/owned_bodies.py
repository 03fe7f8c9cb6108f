"""Bodies of owned documents that say as little as they may."""

from __future__ import annotations

from typing import Any

NODE = {
    "name": "", "formations": [], "capabilities": {}, "hub": False, "listen": None, "version": "0",
    "started_at": 0.0,
}  # fmt: skip


def node_body(**more: Any) -> dict[str, Any]:
    """What a node says of itself; unknown fields are let be."""
    return NODE | more


def distribution_body(publisher: str, nonce: str, **more: Any) -> dict[str, Any]:
    """An empty file for everybody."""
    token = {"hash": "0" * 64, "size_bytes": 0, "chunks_hash": "0" * 64}
    scope = {"type": "all"}
    body = {"token": token, "scope": scope, "priority": 2, "publisher": publisher, "nonce": nonce}
    return body | {"created_at": 1.0} | more
