"""TLS for the connections of a closed mesh: it carries secrets past strangers, and proves nothing by itself.

Every node has a self-signed certificate, and any is accepted. Who is at the other end comes out in the
handshake, which covers the hash of the certificate that was seen (see :mod:`mesh.core.handshake`).
"""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path

_FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)
_BEGIN = "-----BEGIN CERTIFICATE-----"


def make_certificate() -> bytes:
    """A new key and a self-signed certificate for it, as PEM. The names and times in it mean nothing."""
    # Importing it takes a tenth of a second, and a node does this once in its life.
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "docmesh")])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_ALWAYS,
        not_valid_after=_FOREVER,
    )
    certificate = builder.sign(key, algorithm=None)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def fingerprint_of(certificate: bytes) -> bytes:
    """What names a certificate (DER)."""
    return hashlib.sha256(certificate).digest()


class Tls:
    """How connections are encrypted.

    Attributes:
        client: for connections that are dialled.
        server: for those that come in; ``None``: there is no certificate to present.
        fingerprint: names the certificate that is presented; empty: none is.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        """
        Args:
            certificate: a file that :func:`make_certificate` has filled.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds something else.
        """
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.check_hostname = False
        self.client.verify_mode = ssl.CERT_NONE
        self.client.minimum_version = ssl.TLSVersion.TLSv1_3
        self.server: ssl.SSLContext | None = None
        self.fingerprint = b""
        if certificate is not None:
            _, begin, rest = certificate.read_text("ascii").partition(_BEGIN)
            self.fingerprint = fingerprint_of(ssl.PEM_cert_to_DER_cert(begin + rest))
            self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.server.minimum_version = ssl.TLSVersion.TLSv1_3
            self.server.load_cert_chain(certificate)
