"""Files whose names others chose never appear outside the inbox, whatever is there already."""

from __future__ import annotations

import os
import random
import stat
import unicodedata
from pathlib import Path

from blake3 import blake3

from mesh.core.file_names import MAX_NAME_BYTES
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.distributions.inbox import Inbox
from mesh.storage.worker import InlineWorker

NAMES = 2000
CONTENT = b"hostile"
HASH = blake3(CONTENT).hexdigest()
PARTS = [
    "..", ".", "/", "\\", "etc", "passwd", "~", "$HOME", "`id`", "%2e%2e%2f", "\0", "\n", "\r", "\t",
    "\x1b[2J",
    "\u202e", "\u200b", "\ufeff", "\uff0f", "\u2215", "\u2024", "\u212a", "a\u0301", "\ud7ff",
    "con", "nul.txt",
    "aux.", "com1", "lpt\u00b9", ":", "*", "?", '"', "<", ">", "|", " ", ".bashrc", ".ssh", "authorized_keys",
    "C:", "-rf", "x" * 300, "é" * 150, "😀" * 80, ".incoming-", "inside", "outside", "a.tar.gz", "." * 40, "",
]  # fmt: skip


class OneBlob:
    """The blobs of a node that holds one."""

    async def export(self, hash: str, destination: Path) -> None:
        destination.write_bytes(CONTENT)


def names() -> list[str]:
    rng = random.Random(1)
    made = ["".join(rng.choices(PARTS, k=rng.randint(1, 6))) for _ in range(NAMES - 3)]
    return [*made, "../outside", "/etc/passwd", "..\\outside"]


def tree(root: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.readlink(path)
            elif path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


async def test_2000_hostile_names_stay_inside_and_nothing_is_written_through_links(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "inbox"
    outside.mkdir()
    directory.mkdir()
    (outside / "precious").write_bytes(b"precious")
    before = tree(outside)
    for link, target in [("etc", outside), ("inside", outside / "precious"), ("passwd", outside / "new")]:
        (directory / link).symlink_to(target)
    links = tree(directory)
    inbox = Inbox(directory, OneBlob(), InlineWorker(), "van")  # type: ignore[arg-type]
    await inbox.open()
    for number, name in enumerate(names()):
        token = BlobToken(HASH, len(CONTENT), HASH, BlobMetadata(name=name))
        async with inbox.staged(token, f"d{number}") as reveal:
            path = await reveal()
        assert path.parent == directory, name
        found = path.lstat()
        assert stat.S_ISREG(found.st_mode), name
        assert path.name in os.listdir(directory)
        assert len(path.name.encode()) <= MAX_NAME_BYTES + 40
        assert not any(unicodedata.category(character)[0] == "C" for character in path.name), name
        assert path.read_bytes() == CONTENT
    assert tree(outside) == before
    assert {name: tree(directory)[name] for name in links} == links
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inbox", "outside"]
    assert not [name for name in os.listdir(directory) if name.startswith(".")]
