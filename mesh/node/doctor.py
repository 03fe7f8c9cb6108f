"""What could go wrong with a node soon, or already does: `mesh doctor`."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from mesh.core.identity import short_id
from mesh.core.renewal import OTHERS_RENEW_SECONDS
from mesh.core.structs import Struct
from mesh.errors import CredentialsUnusable, IdentityCloned
from mesh.membership.credentials import Credentials
from mesh.node.missing_blobs import MissingBlob
from mesh.node.presence import Presence
from mesh.storage.data_dir import DataDir
from mesh.storage.private_files import foreign

SKEW_SECONDS = 60.0
"""How far the clocks of two nodes may be apart: expiry, certificates and times in receipts go by them."""

FREE_BYTES = 1 << 30
FREE_SHARE = 0.05
"""What has to be free of the disk: the lesser of the two."""

DESCRIPTORS = 4096
"""Files that a process should be allowed to open: every link takes one or two."""

_SECRETS = ("identity.key", "identity.key.next", "root.key", "tls.pem")
_DAY = 86_400.0


class Finding(Struct, frozen=True):
    """One thing that is not as it should be.

    Attributes:
        subject: ``permissions``, ``certificate``, ``disk``, ``descriptors``, ``identity``, ``plaintext``,
            ``clock`` or ``blob``.
        problem: what was found.
        advice: what to do about it.
    """

    subject: str
    problem: str
    advice: str


def examine(home: Path, now: float) -> list[Finding]:
    """Look at a node's directory, whether the node runs or not; ``now`` in seconds since the epoch."""
    return [*_permissions(home), *_certificate(home, now), *_disk(home), *_descriptors()]


def examine_running(presence: Presence, missing: Sequence[MissingBlob] = ()) -> list[Finding]:
    """Look at a node that runs; ``missing`` is what its ``missing_blobs()`` gave."""
    found = [*_cloned(presence), *_revoked(presence), *_plaintext(presence), *_clocks(presence)]
    return [*found, *map(_missing, missing)]


def _permissions(home: Path) -> Iterable[Finding]:
    directory = DataDir(home)
    folders = (home, directory.blobs)
    files = (*(home / name for name in _SECRETS), directory.certificates, directory.store)
    closed = home.exists() and not stat.S_IMODE(home.stat().st_mode) & 0o077
    for path in (*folders, *files):
        if not path.exists():
            continue
        status = path.stat()
        if foreign(status):
            what = f"{path} belongs to the user {status.st_uid}, who may do with it what it likes"
            yield Finding("permissions", what, f"chown {os.geteuid()} {path}" + _leaked(path))
        if closed and path.name not in _SECRETS:
            continue  # nobody else gets there
        if (mode := stat.S_IMODE(status.st_mode)) & 0o077 and path in folders:
            yield Finding("permissions", f"others may enter {path} (mode {mode:o})", f"chmod 700 {path}")
        elif mode & 0o077:
            what = f"others may read {path} (mode {mode:o})"
            yield Finding("permissions", what, f"chmod 600 {path}" + _leaked(path))


def _leaked(path: Path) -> str:
    if path.name not in _SECRETS:
        return ""
    return "; if anybody did, revoke this node and join anew from an empty directory"


def _certificate(home: Path, now: float) -> Iterable[Finding]:
    if not DataDir(home).certificates.exists():
        return
    try:
        left = Credentials.load(home).expires_at - now
    except CredentialsUnusable as error:
        if "others may" not in str(error):  # that was found already
            yield Finding("certificate", str(error), "join the mesh anew, from an empty directory")
        return
    if left <= 0:
        yield Finding(
            "certificate",
            f"it has expired {-left / _DAY:.0f} days ago: nobody links with this node",
            "keep the node up until it meets an admin's node, which renews it; an admin that `mesh init` has "
            "made starts again with the root.key of the mesh in its directory",
        )
    elif left < OTHERS_RENEW_SECONDS - _DAY:  # by then, any admin that is met has renewed it
        yield Finding(
            "certificate",
            f"it expires in {left / _DAY:.0f} days, and no admin was met who renews it",
            "connect this node with an admin's; an admin that `mesh init` has made renews itself with the "
            "root.key of the mesh in its directory",
        )


def _disk(home: Path) -> Iterable[Finding]:
    if not home.exists():
        return
    usage = shutil.disk_usage(home)
    if usage.free < min(FREE_BYTES, FREE_SHARE * usage.total):
        yield Finding(
            "disk",
            f"{usage.free >> 20} MiB are free on the disk of {home}",
            "make room: what is fetched waits for it, and soon nothing can be written (StorageFull)",
        )


def _descriptors() -> Iterable[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < DESCRIPTORS:  # negative: unlimited
        yield Finding(
            "descriptors",
            f"a process that is started from here may open {hard} files, and every link takes one or two",
            "if this node is to have hundreds of links, raise the hard limit: LimitNOFILE= in its systemd "
            "unit, or /etc/security/limits.conf",
        )


def _cloned(presence: Presence) -> Iterable[Finding]:
    if presence.rival is not None:
        yield Finding("identity", presence.rival, IdentityCloned.ADVICE)


def _revoked(presence: Presence) -> Iterable[Finding]:
    if presence.revoked_by is not None:
        yield Finding(
            "certificate",
            f"this node is no member any more: it was revoked, says {presence.revoked_by}",
            "if that was no mistake, leave it; else have an admin `mesh invite` it, then `mesh down` and "
            "`mesh join TOKEN` here",
        )


def _plaintext(presence: Presence) -> Iterable[Finding]:
    if presence.address is not None and presence.address.startswith("ws://"):
        yield Finding(
            "plaintext",
            f"{presence.address} is open to every program on this machine, and not encrypted",
            "for anything but trying things out: `mesh init`, or `mesh join TOKEN`",
        )


def _clocks(presence: Presence) -> Iterable[Finding]:
    for peer in presence.peers:
        if peer.clock_skew is not None and abs(peer.clock_skew) > SKEW_SECONDS:
            where = "ahead of" if peer.clock_skew > 0 else "behind"
            yield Finding(
                "clock",
                f"the clock of {peer.name or short_id(peer.node_id)} is {abs(peer.clock_skew):.0f} s {where} "
                "that of this node",
                "set both by NTP: distributions expire and certificates count by them",
            )


def _missing(blob: MissingBlob) -> Finding:
    return Finding(
        "blob",
        f"{blob.token.metadata.name or 'a blob'} is distributed by this node, which does not hold it, nor is "
        f"a linked node known to: who has not got it waits (blob {blob.token.hash}, "
        f"distribution {', '.join(blob.distribution_ids)})",
        "if it was added with --link, the file has changed or is gone: put it back and `mesh add` it; or "
        "`mesh distribute` the new one with --supersedes ID; or `mesh cancel ID`. If another node holds it, "
        "connect with that one",
    )
