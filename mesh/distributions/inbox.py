"""The inbox: where completed files appear, whole, under safe names, and nothing else is ever seen."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from blake3 import blake3

from mesh.core.file_names import safe_file_name, suffixed_file_name
from mesh.core.tokens import BlobToken
from mesh.distributions.ports import Blobs
from mesh.errors import InvalidNode
from mesh.storage.folders import sync_folder
from mesh.storage.worker import Worker

logger = logging.getLogger("mesh.distributions")

_READ_BYTES = 1 << 20
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Inbox:
    """Files are copied into a hidden directory first and then appear in one step.

    A name that is taken, by whatever it may be (a symbolic link too), is never written to or through: the
    file then gets the id of the distribution as a suffix. A file that is there already with this very
    content is the delivered one: a crash after it appeared makes no second copy.
    """

    def __init__(self, directory: Path, blobs: Blobs, worker: Worker, node_id: str) -> None:
        self._directory = directory
        self._blobs = blobs
        self._worker = worker
        self._staging_prefix = f".incoming-{node_id[:16]}-"

    async def open(self) -> None:
        """Make the directory, and remove what a crash left half done.

        Raises:
            InvalidNode: it cannot be made, or not be cleaned up.
        """
        try:
            await self._worker.run(self._prepare)
        except OSError as error:
            raise InvalidNode(
                f"the inbox {self._directory} cannot be used ({error.strerror or error}): name a directory "
                "that this process may write to, or a path where it can make one"
            ) from error

    @contextlib.asynccontextmanager
    async def staged(
        self, token: BlobToken, distribution_id: str
    ) -> AsyncIterator[Callable[[], Awaitable[Path]]]:
        """Copies the blob beside the inbox; what it yields makes it appear and tells where.

        Raises:
            OSError, MeshError: there is no room, or no right to write.
        """
        plain = safe_file_name(token.metadata.name, token.hash)
        names = (plain, suffixed_file_name(plain, distribution_id))
        delivered = await self._worker.run(self._delivered, names, token)
        if delivered is not None:

            async def already() -> Path:
                return delivered

            yield already
            return
        staging = await self._worker.run(self._make_staging)
        try:
            await self._blobs.export(token.hash, staging / "blob")

            async def reveal() -> Path:
                path = await self._worker.run(self._reveal, staging / "blob", names, token)
                logger.info("distribution %s is in the inbox: %s", distribution_id, path)
                return path

            yield reveal
        finally:
            await self._worker.run(shutil.rmtree, staging, ignore_errors=True)

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for left in self._directory.glob(f"{self._staging_prefix}*"):
            shutil.rmtree(left)

    def _make_staging(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        return Path(tempfile.mkdtemp(prefix=self._staging_prefix, dir=self._directory))

    def _delivered(self, names: tuple[str, ...], token: BlobToken) -> Path | None:
        found = (self._directory / name for name in names)
        return next((path for path in found if _is_file_of(path, token)), None)

    def _reveal(self, staged: Path, names: tuple[str, ...], token: BlobToken) -> Path:
        for name in names:
            target = self._directory / name
            try:
                _move_without_overwriting(staged, target)
            except FileExistsError:
                if not _is_file_of(target, token):
                    continue  # else another distribution of the same blob was faster
            sync_folder(self._directory)
            return target
        raise FileExistsError(
            errno.EEXIST, "the inbox holds other files under this name: move them away and retry", str(target)
        )


def _is_file_of(path: Path, token: BlobToken) -> bool:
    """Whether a regular file, not a link to one, is there with the very content of the blob."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != token.size_bytes:
        return False
    digest = blake3()
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest() == token.hash


def _move_without_overwriting(source: Path, target: Path) -> None:
    try:
        # Unlike a rename, a hard link fails if the target exists, be it a dangling symbolic link.
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "the name is taken", str(target)) from error
        source.rename(target)
