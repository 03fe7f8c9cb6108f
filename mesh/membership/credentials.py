"""Credentials: the files that make a node a member of a closed mesh."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from mesh.core.certificates import ADMIN, FORGED, Certificate, Revocation, grant_of, issue
from mesh.core.enrolment import read_token
from mesh.core.identity import PRIVATE_KEY_BYTES, Identity, short_id
from mesh.core.membership import Membership
from mesh.core.renewal import retired, succeeded
from mesh.core.structs import UNREADABLE
from mesh.errors import CredentialsUnusable, MembershipRefused
from mesh.membership.asking import enrol_by, succeed_at
from mesh.network.tls import Tls, make_certificate
from mesh.network.websocket import WebSocketTransport
from mesh.storage.data_dir import CERTIFICATES
from mesh.storage.identity import load_or_create_identity
from mesh.storage.private_files import private_directory, read_private, write_private

_IDENTITY, _TLS, _ROOT = "identity.key", "tls.pem", "root.key"
_NEXT, _RETIRED = "identity.key.next", "retired.json"


class Credentials:
    """Who a node is, and the proof that it is a member of a mesh.

    Make them with :meth:`create`, :meth:`join` or :meth:`load`. One node at a time uses them.

    Attributes:
        node_id: who the node is.
        mesh_id: which mesh it belongs to.
        identity: its key.
        membership: its certificates, and who was revoked.
    """

    def __init__(self, identity: Identity, chain: Sequence[Certificate], home: Path | None = None) -> None:
        """``home``: where they are kept; ``None``: nowhere, and only a simulation can use that."""
        self.identity = identity
        self.membership = Membership(chain)
        self.node_id = identity.node_id
        self.mesh_id = self.membership.mesh_id
        self._home = home

    def __repr__(self) -> str:
        roles = ", ".join(sorted(self.roles))
        return f"<Credentials of {short_id(self.node_id)} in the mesh {short_id(self.mesh_id)}: {roles}>"

    @classmethod
    def create(cls, home: str | os.PathLike[str], root_key: str | os.PathLike[str] | None = None) -> Self:
        """A new mesh, and the node in the directory ``home`` as its first admin.

        The key of the mesh is ``root.key`` in there. It renews that admin's certificate, and whoever has it
        can make admins: it may be moved to a safe place, and back once a year.

        Args:
            root_key: the file with the key of a mesh that exists, which gets one more admin.

        Raises:
            CredentialsUnusable: there are credentials already, or a file or directory cannot be used.
            DataDirUnusable: there is no key, and none can be made.
        """
        root = None if root_key is None else _read_key(_path(root_key))
        path, identity = cls._prepare(home)
        if root is None:
            if _is_there(path / _ROOT):
                raise CredentialsUnusable(
                    str(path),
                    f"{_ROOT} there is the key of a mesh already: make another admin of that one with "
                    f"`mesh init --root-key {path / _ROOT}`, or move it to a safe place",
                )
            secret = os.urandom(PRIVATE_KEY_BYTES)
            write_private(path / _ROOT, secret.hex().encode() + b"\n")
            root = Identity(secret)
        chain = issue(root, [], identity.public_key, grant_of(ADMIN), time.time())
        credentials = cls(identity, chain, path)
        credentials.keep()
        return credentials

    @classmethod
    def load(cls, home: str | os.PathLike[str]) -> Self:
        """The credentials in the directory ``home``. They may have expired: then they can only be renewed.

        Raises:
            CredentialsUnusable: there are none, they do not belong together, or others may read them.
        """
        path = _path(home)
        if not _is_there(path / CERTIFICATES):
            raise CredentialsUnusable(
                str(path), "there are none: `mesh init` begins a mesh, `mesh join TOKEN` enters one"
            )
        private_directory(path)
        identity = _read_key(path / _IDENTITY)
        read_private(path / _TLS)
        try:
            chain = msgspec.json.decode(read_private(path / CERTIFICATES), type=list[Certificate])
            if _is_there(path / _NEXT) and chain[0].public_key == _read_key(path / _NEXT).public_key:
                identity = _go_over(path)
            credentials = cls(identity, chain, path)
            credentials.membership.admit(chain, identity.public_key, chain[0].not_before)
        except (IndexError, MembershipRefused, *UNREADABLE) as error:
            raise CredentialsUnusable(str(path / CERTIFICATES), str(error)) from error
        return credentials

    @classmethod
    async def join(cls, home: str | os.PathLike[str], token: str) -> Self:
        """Become a member of the mesh that ``token`` invites to: makes a key if there is none, and has it
        certified by the admin's node, which has to be up. A member of that mesh becomes one anew, as it must
        after it was revoked.

        Raises:
            InvitationRefused: the token is malformed, spent or over, or somebody else answers there.
            PeerUnreachable: nobody answers at any address of the token.
            CredentialsUnusable: there are credentials of another mesh, or the directory cannot be used.
            DataDirUnusable: there is no key, and none can be made.
        """
        invitation = read_token(token)
        path, identity = cls._prepare(home, again=invitation.mesh_id)
        chain = await enrol_by(WebSocketTransport(Tls()), identity, invitation)
        credentials = cls(identity, chain, path)
        credentials.keep()
        return credentials

    @classmethod
    async def rotate(cls, home: str | os.PathLike[str], url: str | None = None) -> Self:
        """A new key, and with it a new id, for the node in the directory ``home``, which must not run. What
        it may do stays as it is, and the old id is no member any more as soon as the mesh hears of it.

        What the old id owns stays as it was, readable everywhere: its ``nodes`` document, its receipts, and
        its distributions, which go on, and which only an admin can still cancel. Of what is for every node of
        a scope the new id receives its own; where a scope names node ids, the old one stays named. A key that
        may have been stolen is better revoked: that ends this node under both ids. May be repeated after a
        failure.

        Args:
            url: the node of an admin, which has to be up; with ``root.key`` in ``home`` none is needed.

        Raises:
            CredentialsUnusable: there are none, or no ``url`` and no ``root.key``.
            PeerUnreachable: nobody answers there.
            InvitationRefused, MembershipRefused: who answers there does not certify the new key.
            InvalidAddress: ``url`` is not ``wss://host:port``.
        """
        old = cls.load(home)
        path, chain, now = _path(home), old.membership.chain, time.time()
        root = old.root()
        if root is None and url is None:
            raise CredentialsUnusable(
                str(path),
                "without root.key there, a new key needs the address of an admin's node, wss://HOST:PORT",
            )
        successor = load_or_create_identity(path / _NEXT)
        fact = retired(old.identity, chain, successor.public_key, now)
        if root is not None:
            renewed = succeeded(root, [], fact, now)
        else:
            assert url is not None
            renewed = await succeed_at(WebSocketTransport(Tls()), url, old.identity, successor, fact)
        credentials = cls(successor, renewed, path)
        member = old.membership.admit(renewed, successor.public_key, renewed[0].not_before)
        if member.grant != chain[0].grant:
            raise MembershipRefused(FORGED, "the certificate that was answered is not for the same rights")
        write_private(path / _RETIRED, msgspec.json.encode(fact))
        credentials.keep()  # from now on the new key counts: a death before this changes nothing
        _go_over(path)
        write_private(path / _TLS, make_certificate())
        return credentials

    def retirement(self) -> Revocation | None:
        """What this node said of its former key when it changed it; ``None``: it never did.

        Raises:
            CredentialsUnusable: its file cannot be used.
        """
        if self._home is None or not _is_there(self._home / _RETIRED):
            return None
        try:
            return msgspec.json.decode(read_private(self._home / _RETIRED), type=Revocation)
        except UNREADABLE as error:
            raise CredentialsUnusable(str(self._home / _RETIRED), str(error)) from error

    @classmethod
    def _prepare(cls, home: str | os.PathLike[str], again: str = "") -> tuple[Path, Identity]:
        path = _path(home)
        private_directory(path)
        if _is_there(path / CERTIFICATES) and cls.load(path).mesh_id != again:
            raise CredentialsUnusable(
                str(path), "this node is a member of a mesh already; use another directory for another mesh"
            )
        identity = load_or_create_identity(path / _IDENTITY)
        if not _is_there(path / _TLS):
            write_private(path / _TLS, make_certificate())
        return path, identity

    @property
    def roles(self) -> frozenset[str]:
        """What the node is: ``admin``, ``publish``, ``relay``, ``member``."""
        return frozenset(self.membership.chain[0].grant.roles)

    @property
    def expires_at(self) -> float:
        """When the certificate ends, in seconds since the epoch."""
        return self.membership.chain[0].not_after

    def tls(self) -> Tls:
        """The node's own TLS certificate.

        Raises:
            CredentialsUnusable: its file cannot be used.
        """
        assert self._home is not None
        path = self._home / _TLS
        read_private(path)
        try:
            return Tls(path)
        except (OSError, ValueError) as error:
            raise CredentialsUnusable(str(path), f"it holds no TLS certificate and key ({error})") from error

    def root(self) -> Identity | None:
        """The key of the mesh; ``None``: it is not here.

        Raises:
            CredentialsUnusable: its file cannot be used.
        """
        if self._home is None or not _is_there(self._home / _ROOT):
            return None
        root = _read_key(self._home / _ROOT)
        return root if root.node_id == self.mesh_id else None

    def keep(self) -> None:
        """Write down the chain that is held.

        Raises:
            CredentialsUnusable: it cannot be written.
        """
        if self._home is not None:
            content = msgspec.json.format(msgspec.json.encode(self.membership.chain))
            write_private(self._home / CERTIFICATES, content + b"\n")


def _go_over(path: Path) -> Identity:
    """Let the next key take the place of the present one."""
    try:
        (path / _NEXT).replace(path / _IDENTITY)
    except OSError as error:
        raise CredentialsUnusable(str(path / _NEXT), error.strerror or str(error)) from error
    return _read_key(path / _IDENTITY)


def _path(given: str | os.PathLike[str]) -> Path:
    try:
        path = Path(given).expanduser().absolute()
        if b"\0" in os.fsencode(path):
            raise ValueError("it has a NUL in it")
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: ~somebody who is not there
        raise CredentialsUnusable(repr(given), f"this is not a path: {error}") from error
    return path


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise CredentialsUnusable(str(path), error.strerror or str(error)) from error


def _read_key(path: Path) -> Identity:
    try:
        return Identity(bytes.fromhex(read_private(path).decode("ascii").strip()))
    except ValueError as error:
        raise CredentialsUnusable(str(path), "it does not hold a key (64 hexadecimal digits)") from error
