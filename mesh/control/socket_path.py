"""Where the control socket of a node is, and who may use it.

Normally ``<home>/control.sock``. Unix sockets have short paths (104 to 108 bytes), so for a deeper home
the socket is in a private directory of the runtime directory, and ``<home>/control.json`` says where.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

from mesh.errors import DataDirUnusable

SOCKET_NAME = "control.sock"
NOTE_NAME = "control.json"
MAX_SOCKET_PATH_BYTES = 100
"""Works everywhere: Linux allows 107 bytes, macOS and the BSDs 103."""


def make_private(home: Path) -> None:
    """Create ``home``, readable for this user only; an existing one of ours becomes so.

    A directory that others share by design (sticky, like ``/tmp``) or own keeps its mode.

    Raises:
        DataDirUnusable: ``home`` is not a directory, or cannot be made one.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.stat()
        if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
            home.chmod(0o700)
    except FileExistsError:
        raise DataDirUnusable(str(home), "it is not a directory") from None
    except OSError as error:
        raise DataDirUnusable(str(home), error.strerror or str(error)) from error


def find(home: Path) -> Path:
    """Where the socket of a node on ``home`` is, if there is one."""
    try:
        return Path(json.loads((home / NOTE_NAME).read_bytes())["socket"])
    except (OSError, ValueError, KeyError, TypeError):
        return home / SOCKET_NAME  # no (usable) note: where it normally is


def prepare(home: Path) -> Path:
    """Choose where the socket goes, and clear away what a dead process left there.

    Only to be called by who holds the lock of ``home``.

    Raises:
        DataDirUnusable: there is no room for a socket.
    """
    clear(home)
    direct = home / SOCKET_NAME
    if _fits(direct):
        return direct
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if base and os.path.isdir(base) and _fits(Path(base, "mesh-xxxxxxxx", SOCKET_NAME)):
            path = Path(tempfile.mkdtemp(prefix="mesh-", dir=base), SOCKET_NAME)
            _write_private(home / NOTE_NAME, json.dumps({"socket": str(path)}))
            return path
    raise DataDirUnusable(
        str(home), "its path is too long for a Unix socket, and so is that of the runtime directory"
    )


def clear(home: Path) -> None:
    """Remove the socket of ``home``, with its directory and its note if it is elsewhere."""
    path = find(home)
    path.unlink(missing_ok=True)
    if path.parent != home:
        with contextlib.suppress(OSError):  # gone already, or not empty: not ours to delete then
            path.parent.rmdir()
        (home / NOTE_NAME).unlink(missing_ok=True)


def peer_uid(connected: socket.socket) -> int | None:
    """The user at the other end of a Unix socket; ``None`` where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = struct.Struct("3i")  # pid, uid, gid
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    return int(credentials.unpack(packed)[1])


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
