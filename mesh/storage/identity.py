"""The file that holds a node's private key."""

from __future__ import annotations

import os
from pathlib import Path

from mesh.core.identity import PRIVATE_KEY_BYTES, Identity
from mesh.errors import DataDirUnusable
from mesh.storage.folders import sync_folder


def load_or_create_identity(path: str | os.PathLike[str]) -> Identity:
    """The identity in the file ``path``, which is made, with a new key, if there is none.

    The file holds the key as one line of hexadecimal digits. Only its owner may read it; a file that others
    may read is tightened. It is whole or absent at any time, and two processes that make it at once get
    the same key.

    Raises:
        DataDirUnusable: the file cannot be read or written, or does not hold a key.
    """
    file = Path(path)
    try:
        if not file.exists():
            _create(file)
        return _load(file)
    except OSError as error:
        raise DataDirUnusable(str(file), error.strerror or str(error)) from error


def _load(file: Path) -> Identity:
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_mode & 0o077:
            os.fchmod(opened.fileno(), 0o600)
        content = opened.read(4 * PRIVATE_KEY_BYTES)
    try:
        return Identity(bytes.fromhex(content.decode("ascii").strip()))
    except ValueError as error:
        raise DataDirUnusable(
            str(file),
            "it does not hold a key (64 hexadecimal digits): restore it from a backup, "
            "or move it away to start as a new node",
        ) from error


def _create(file: Path) -> None:
    draft = file.with_name(f"{file.name}.{os.urandom(8).hex()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(os.urandom(PRIVATE_KEY_BYTES).hex().encode() + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
        try:
            os.link(draft, file)  # unlike a rename, it never replaces a key that another process just made
        except FileExistsError:
            return
    finally:
        draft.unlink()
    sync_folder(file.parent)
