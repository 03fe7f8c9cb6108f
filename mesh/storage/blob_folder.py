"""Blobs in a folder.

    blobs/ab/<hash>           the content; visible here only when whole, verified and durable
    blobs/ab/<hash>.chunks    its chunk list, where it has more than one chunk
    blobs/ab/<hash>.token     its token and whether it is cached, as JSON
    partial/<hash>.data       a blob on its way in: full length, holes where chunks are missing
    partial/<hash>.chunks     its verified chunk list, once known
    temp/                     copies being added; whatever is here at ``open`` is left over and removed

Every side file can be lost: it is made again from the content. Folders are 0700, files 0600.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

import msgspec
from blake3 import blake3

from mesh.core.chunks import Buffer, chunk_length, derived_hashes, list_matches
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import BlobCorrupt, BlobNotFound, DataDirUnusable
from mesh.storage.blob_export import export_file
from mesh.storage.blob_partial import PartialFile
from mesh.storage.blob_sources import Intake, check_room, pieces_of, sync_folder, write_all, writing
from mesh.storage.blobs import PartialBlob, Source
from mesh.storage.worker import Worker

_HASH = re.compile(r"[0-9a-f]{64}")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Side(msgspec.Struct, frozen=True):
    token: BlobToken
    cached: bool = False


class BlobFolder:
    """The layout on disk. Everything here blocks and runs on the store's worker."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.partials = root / "partial"
        self.temp = root / "temp"
        self.sizes: dict[str, int] = {}
        self.open_partials: dict[str, PartialFile] = {}
        self._numbers = itertools.count()

    def load(self) -> None:
        """Find out what is here, by name and size only, and remove what is left over."""
        try:
            self.make_folders()
            for left in self.temp.iterdir():
                left.unlink()
            self.sizes.clear()
            for folder in self.blobs.iterdir():
                with os.scandir(folder) as entries:
                    files = {entry.name: entry for entry in entries if entry.is_file(follow_symlinks=False)}
                for name, entry in files.items():
                    if _HASH.fullmatch(name):
                        self.sizes[name] = entry.stat(follow_symlinks=False).st_size
                    elif name.partition(".")[0] not in files:  # the side file of a blob that is not here
                        os.unlink(entry.path)
        except OSError as error:
            raise DataDirUnusable(str(self.blobs.parent), error.strerror or str(error)) from error

    def make_folders(self) -> None:
        """Make the folders; again, where somebody removed them."""
        for folder in (self.blobs, self.partials, self.temp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def blob_path(self, hash: str) -> Path:
        """Where a whole blob is."""
        return self.blobs / hash[:2] / hash

    def partial_path(self, hash: str) -> Path:
        """Where the bytes of a partial blob are."""
        return self.partials / f"{hash}.data"

    def create_temp(self) -> tuple[int, Path]:
        """A new file to write to."""
        path = self.temp / f"{os.getpid()}-{next(self._numbers)}"
        with writing(self.temp, 0):
            self.make_folders()
            return os.open(path, _NEW, 0o600), path

    def publish(self, path: Path, token: BlobToken, hashes: bytes, *, cached: bool) -> None:
        """Make the durable, verified content at ``path`` visible under its hash."""
        final = self.blob_path(token.hash)
        with writing(final.parent, token.size_bytes):
            if not final.parent.exists():
                self.make_folders()
                final.parent.mkdir(mode=0o700)
                sync_folder(self.blobs)
            if token.chunk_count > 1:
                self._write_side(final.with_suffix(".chunks"), hashes)
            self._write_side(final.with_suffix(".token"), msgspec.json.encode(_Side(token, cached)))
            path.rename(final)
            sync_folder(final.parent)
        self.sizes[token.hash] = token.size_bytes

    def side(self, hash: str) -> _Side:
        """Token and flag of a whole blob; made again from the content where they are lost."""
        final = self.blob_path(hash)
        try:
            side = msgspec.json.decode(self._read_side(final.with_suffix(".token")), type=_Side)
            if side.token.hash == hash and side.token.size_bytes == self.size(hash):
                return side
        except (OSError, msgspec.MsgspecError):
            pass  # lost or damaged: made again below
        token, hashes = self._rehash(hash)
        if token.chunk_count > 1:
            self._write_side(final.with_suffix(".chunks"), hashes)
        self._write_side(final.with_suffix(".token"), msgspec.json.encode(_Side(token)))
        return _Side(token)

    def set_cached(self, hash: str, *, cached: bool) -> None:
        """Remember whether a whole blob is here for others only."""
        side = self.side(hash)
        if side.cached != cached:
            path = self.blob_path(hash).with_suffix(".token")
            self._write_side(path, msgspec.json.encode(_Side(side.token, cached)))
            sync_folder(path.parent)

    def chunk_list(self, hash: str) -> bytes:
        """The chunk list of a whole blob."""
        token = self.side(hash).token
        hashes = derived_hashes(token)
        if hashes is None:
            path = self.blob_path(hash).with_suffix(".chunks")
            with suppress(OSError):  # lost: made again below
                hashes = self._read_side(path)
            if hashes is None or not list_matches(token, hashes):
                _, hashes = self._rehash(hash)
                self._write_side(path, hashes)
        return hashes

    def read_chunk(self, hash: str, index: int, headroom: int) -> bytearray:
        """See the port."""
        partial = self.open_partials.get(hash)
        size = partial.token.size_bytes if partial is not None else self.size(hash)
        length = chunk_length(size, index)
        if index < 0 or length <= 0:
            raise BlobNotFound(hash)
        data = bytearray(headroom + length)
        view = memoryview(data)[headroom:]
        if partial is not None:
            if not partial.read_into(view, index):
                raise BlobNotFound(hash)
            return data
        fd = self.open_blob(hash)
        try:
            if os.preadv(fd, [view], index * CHUNK_BYTES) != length:
                raise BlobNotFound(hash)
        finally:
            os.close(fd)
        return data

    def size(self, hash: str) -> int:
        """The size of a whole blob."""
        if hash not in self.sizes:
            raise BlobNotFound(hash)
        return self.sizes[hash]

    def open_blob(self, hash: str) -> int:
        """A file descriptor to read a whole blob from."""
        self.size(hash)
        try:
            return os.open(self.blob_path(hash), _READ)
        except FileNotFoundError as error:  # somebody removed the file
            del self.sizes[hash]
            raise BlobNotFound(hash) from error

    def read(self, hash: str) -> bytes:
        """The whole content."""
        with open(self.open_blob(hash), "rb") as file:
            data = file.read()
        if blake3(data).hexdigest() != hash:
            self._drop_rotten(hash)
        return data

    def _drop_rotten(self, hash: str) -> NoReturn:
        self.delete(hash)
        raise BlobCorrupt(hash)

    def export(self, hash: str, destination: Path) -> None:
        """See the port."""
        fd = self.open_blob(hash)
        try:
            if not export_file(fd, destination, hash):
                self._drop_rotten(hash)
        finally:
            os.close(fd)

    def delete(self, hash: str) -> None:
        """See the port."""
        partial = self.open_partials.get(hash)
        if partial is not None:
            partial.release()
        had_partial = self.partial_path(hash).exists()
        self.remove_partial(hash)
        if self.sizes.pop(hash, None) is None:
            if not had_partial:
                raise BlobNotFound(hash)
            return
        final = self.blob_path(hash)
        for path in (final, final.with_suffix(".token"), final.with_suffix(".chunks")):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # somebody removed the folder with it
            sync_folder(final.parent)

    # --- partial blobs -------------------------------------------------------------------------------

    def open_partial(self, partial: PartialFile) -> bytes | None:
        """Open the file; the chunk list where it is known."""
        hashes = derived_hashes(partial.token)
        if hashes is None:
            with suppress(OSError):  # not known yet, or lost: it is fetched
                hashes = self._read_side(self.partial_path(partial.token.hash).with_suffix(".chunks"))
                if not list_matches(partial.token, hashes):
                    hashes = None
        partial.acquire()
        self.open_partials[partial.token.hash] = partial
        return hashes

    def partial_closed(self, partial: PartialFile) -> None:
        """Called by a partial file when it is released."""
        del self.open_partials[partial.token.hash]

    def save_partial_list(self, token: BlobToken, hashes: bytes) -> None:
        """Keep a verified chunk list, so that a later attempt need not ask for it."""
        if token.chunk_count > 1:
            with writing(self.partials, len(hashes)):
                self._write_side(self.partial_path(token.hash).with_suffix(".chunks"), hashes, durable=False)

    def remove_partial(self, hash: str) -> None:
        """Forget what is left of a partial blob."""
        path = self.partial_path(hash)
        path.unlink(missing_ok=True)
        path.with_suffix(".chunks").unlink(missing_ok=True)

    # --- side files ----------------------------------------------------------------------------------

    def _write_side(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        fd, temp = self.create_temp()
        try:
            with writing(self.temp, len(data)):
                for start in range(0, len(data), CHUNK_BYTES):
                    write_all(fd, data[start : start + CHUNK_BYTES], start)
                if durable:
                    os.fsync(fd)
            temp.rename(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _read_side(self, path: Path) -> bytes:
        with open(os.open(path, _READ), "rb") as file:
            return file.read()

    def _rehash(self, hash: str) -> tuple[BlobToken, bytes]:
        intake = Intake()
        with open(self.open_blob(hash), "rb") as file:
            while data := file.read(CHUNK_BYTES):
                intake.update(data)
        token, hashes = intake.finish(BlobMetadata())
        if token.hash != hash:
            self._drop_rotten(hash)
        return token, hashes


class FolderBlobs:
    """See :class:`~mesh.storage.blobs.BlobStore`."""

    def __init__(self, root: str | os.PathLike[str], worker: Worker) -> None:
        """``worker`` runs everything that blocks, and is closed with the store."""
        self._folder = BlobFolder(Path(root))
        self._worker = worker
        self._exporting = asyncio.Lock()

    async def open(self) -> None:
        """See the port."""
        await self._worker.run(self._folder.load)

    async def close(self) -> None:
        """See the port."""
        for partial in list(self._folder.open_partials.values()):
            await partial.close()
        await self._worker.close()

    async def add(self, source: Source, metadata: BlobMetadata) -> BlobToken:
        """See the port."""
        copy = _Copy(self._folder)
        try:
            async with aclosing(pieces_of(source, self._worker)) as pieces:
                async for piece in pieces:
                    await self._worker.run(copy.append, piece)
            return await self._worker.run(copy.take, metadata)
        finally:
            # After a cancellation a job may still be using the file: this comes after it on the worker.
            await self._worker.run(copy.close)

    async def begin(self, token: BlobToken, *, cached: bool) -> PartialBlob:
        """See the port."""
        token.check()
        partial = PartialFile(self._folder, self._worker, token)
        partial.cached = cached
        try:
            hashes = await self._worker.run(self._folder.open_partial, partial)
            if hashes is not None:
                await partial.examine(hashes)
        except BaseException:
            await partial.close()
            raise
        return partial

    def exists(self, hash: str) -> bool:
        """See the port."""
        return hash in self._folder.sizes

    def hashes(self) -> list[str]:
        """See the port."""
        return list(self._folder.sizes)

    def storage_bytes(self) -> int:
        """See the port."""
        return sum(self._folder.sizes.values())

    async def info(self, hash: str) -> BlobToken | None:
        """See the port."""
        try:
            return (await self._worker.run(self._folder.side, hash)).token
        except BlobNotFound:
            return None

    async def cached(self, hash: str) -> bool:
        """See the port."""
        return (await self._worker.run(self._folder.side, hash)).cached

    async def keep(self, hash: str) -> None:
        """See the port."""
        await self._worker.run(self._folder.set_cached, hash, cached=False)

    async def delete(self, hash: str) -> None:
        """See the port."""
        await self._worker.run(self._folder.delete, hash)

    async def chunk_list(self, hash: str) -> bytes:
        """See the port."""
        partial = self._folder.open_partials.get(hash)
        if partial is not None and partial.hashes is not None:
            return partial.hashes
        return await self._worker.run(self._folder.chunk_list, hash)

    async def read_chunk(self, hash: str, index: int, headroom: int = 0) -> bytearray:
        """See the port."""
        return await self._worker.run(self._folder.read_chunk, hash, index, headroom)

    async def read(self, hash: str) -> bytes:
        """See the port."""
        return await self._worker.run(self._folder.read, hash)

    def path(self, hash: str) -> Path:
        """See the port."""
        self._folder.size(hash)
        return self._folder.blob_path(hash)

    def open_file(self, hash: str) -> BinaryIO:
        """See the port."""
        return open(self._folder.open_blob(hash), "rb")

    async def export(self, hash: str, destination: str | os.PathLike[str]) -> None:
        """See the port."""
        async with self._exporting:
            await self._worker.run(self._folder.export, hash, Path(destination))


class _Copy:
    """A source on its way in. All methods are jobs."""

    def __init__(self, folder: BlobFolder) -> None:
        self._folder = folder
        self._intake = Intake()
        self._file: tuple[int, Path] | None = None

    def append(self, data: Buffer) -> None:
        """Hash and write the next bytes."""
        fd = self._fd()
        with writing(self._folder.temp, len(data)):
            check_room(self._folder.temp, len(data))
            write_all(fd, data, self._intake.size)
        self._intake.update(data)

    def take(self, metadata: BlobMetadata) -> BlobToken:
        """Keep the copy, also in the place of one that is held: that may have rotted."""
        fd = self._fd()
        token, hashes = self._intake.finish(metadata)
        with writing(self._folder.temp, token.size_bytes):
            os.fdatasync(fd)
        with suppress(BlobNotFound):  # its first metadata stay
            token = msgspec.structs.replace(token, metadata=self._folder.side(token.hash).token.metadata)
        assert self._file is not None
        self._folder.publish(self._file[1], token, hashes, cached=False)
        self._folder.remove_partial(token.hash)
        return token

    def close(self) -> None:
        """Close the file, and remove it unless it was kept."""
        if self._file is not None:
            os.close(self._file[0])
            self._file[1].unlink(missing_ok=True)

    def _fd(self) -> int:
        if self._file is None:
            self._file = self._folder.create_temp()
        return self._file[0]
