"""Who a node is: an Ed25519 key, and the name that follows from it."""

from __future__ import annotations

import base64
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PRIVATE_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 32

_NODE_ID = re.compile(r"[a-z2-7]{52}")


def node_id_of(public_key: bytes) -> str:
    """The id of the node with this key: SHA-256 of it in lower-case base32, 52 characters."""
    return base64.b32encode(hashlib.sha256(public_key).digest()).decode().rstrip("=").lower()


def is_node_id(text: str) -> bool:
    """Whether it can be the id of a node, known or not."""
    return _NODE_ID.fullmatch(text) is not None


def short_id(node_id: str) -> str:
    """The start of ``node_id``: enough for people to tell a few nodes apart, never for a decision."""
    return node_id[:8]


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of ``public_key`` signed ``message``; never, for a malformed key or signature."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Identity:
    """A node's key pair.

    Attributes:
        node_id: what other nodes know this one by.
        public_key: 32 bytes.
    """

    __slots__ = ("_private_key", "node_id", "public_key")

    def __init__(self, private_key: bytes) -> None:
        """
        Args:
            private_key: 32 secret random bytes.

        Raises:
            ValueError: ``private_key`` has another length.
        """
        self._private_key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._private_key.public_key().public_bytes_raw()
        self.node_id = node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"<Identity {short_id(self.node_id)}>"
