"""Files that only this user may read: written whole or not at all, and refused if others may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mesh.errors import CredentialsUnusable
from mesh.storage.folders import sync_folder

_MAX_BYTES = 1 << 20


def foreign(status: os.stat_result) -> bool:
    """Whether another user owns a file or directory, and so could change it or open it to anybody."""
    return status.st_uid not in (os.geteuid(), 0)


def private_directory(path: Path) -> None:
    """Make a directory, or make sure that nobody else could put files into the one that is there.

    Raises:
        CredentialsUnusable: others may write there or own it, or it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise CredentialsUnusable(str(path), error.strerror or str(error)) from error
    if foreign(status):
        raise CredentialsUnusable(str(path), _owner(path, status))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CredentialsUnusable(str(path), f"others may write there; `chmod 700 {path}`")


def read_private(path: Path) -> bytes:
    """What is in a file.

    Raises:
        CredentialsUnusable: it cannot be read, or others could have read or written it.
    """
    try:
        with path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read(_MAX_BYTES)
    except OSError as error:
        raise CredentialsUnusable(str(path), error.strerror or str(error)) from error
    if foreign(status):
        raise CredentialsUnusable(str(path), _owner(path, status))
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CredentialsUnusable(
            str(path),
            f"others may read it (mode {stat.S_IMODE(status.st_mode):o}); `chmod 600 {path}`, and if anybody "
            "did, revoke this node and join anew from an empty directory",
        )
    return content


def write_private(path: Path, content: bytes) -> None:
    """Replace a file.

    Raises:
        CredentialsUnusable: it cannot be written; what was there still is.
    """
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}.draft")
    try:
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise CredentialsUnusable(str(path), error.strerror or str(error)) from error


def _owner(path: Path, status: os.stat_result) -> str:
    return f"others may use it: it belongs to the user {status.st_uid}; `chown {os.geteuid()} {path}`"
