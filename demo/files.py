"""Files: a real one of a good size to distribute, and the copies that are delivered."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from pathlib import Path

from blake3 import blake3

from mesh.core.file_names import safe_file_name, suffixed_file_name
from mesh.core.tokens import BlobToken

MIN_BYTES = 1_000_000
MAX_BYTES = 200_000_000
_READ_BYTES = 1 << 20


class NoFile(Exception):
    """There is no file to distribute; the message says why."""


def checked_file(path: Path) -> Path:
    """``path``, absolute, if it is a regular file that can be read.

    Raises:
        NoFile: it is not.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise NoFile(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise NoFile(f"cannot distribute {path}: it is not a regular file")
    return path.resolve()


def find_file() -> Path:
    """The largest file of 1 to 200 MB that came with this Python: its program, its libraries.

    Raises:
        NoFile: there is none; name one instead.
    """
    paths = sysconfig.get_paths()
    roots = {Path(paths[key]).resolve() for key in ("stdlib", "platlib", "purelib")}
    best: tuple[int, Path] | None = None
    for path in (Path(sys.executable).resolve(), *_files_below(roots)):
        try:
            found = path.lstat()
        except OSError:
            continue  # it was removed meanwhile
        if (
            stat.S_ISREG(found.st_mode)
            and MIN_BYTES <= found.st_size <= MAX_BYTES
            and os.access(path, os.R_OK)
        ):
            best = max(best or (0, path), (found.st_size, path))
    if best is None:
        raise NoFile("no file of 1 to 200 MB found beside this Python: name one, `python -m demo FILE`")
    return best[1]


def _files_below(roots: set[Path]) -> list[Path]:
    outermost = [root for root in roots if not any(other in root.parents for other in roots)]
    return [Path(folder, name) for root in outermost for folder, _, names in os.walk(root) for name in names]


def delivered_file(inbox: Path, token: BlobToken, distribution_id: str) -> Path | None:
    """The file that a distribution has put into ``inbox``; ``None``: there is none."""
    plain = safe_file_name(token.metadata.name, token.hash)
    for name in (suffixed_file_name(plain, distribution_id), plain):
        if (inbox / name).is_file():
            return inbox / name
    return None


def b3sum(path: Path) -> str:
    """The BLAKE3 of a file, as ``b3sum`` prints it."""
    digest = blake3()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
