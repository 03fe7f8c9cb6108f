"""Safe names for files whose names others chose."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_BYTES = 200
"""Length of a safe name in UTF-8; leaves room for a distribution id under the usual limit of 255."""

_MAX_SUFFIX_BYTES = 20
_NOT_IN_NAMES = re.compile(r'[<>:"|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)


def safe_file_name(name: str | None, blob_hash: str) -> str:
    """A plain visible file name that is made of ``name``, or the hash of the blob if nothing is left of it.

    No directories, no control or invisible characters, nothing that any usual file system reserves, at most
    ``MAX_NAME_BYTES`` long with the extension kept. A name that is safe already stays as it is.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    # NFC may make a new character of two, so it goes first; what is dropped below cannot make another.
    visible = "".join(c for c in unicodedata.normalize("NFC", last) if unicodedata.category(c)[0] != "C")
    visible = _trimmed(_NOT_IN_NAMES.sub("_", unicodedata.normalize("NFC", visible)))
    if _RESERVED.match(visible):
        visible = f"_{visible}"
    return _shortened(visible) or blob_hash


def suffixed_file_name(safe_name: str, suffix: str) -> str:
    """``safe_name`` with ``-suffix`` before its extension, for when the plain name is taken."""
    stem, extension = _split(safe_name)
    return f"{stem}-{suffix}{extension}"


def _trimmed(name: str) -> str:
    # A leading dot would hide the file; trailing dots and spaces are dropped by some file systems.
    return name.strip().lstrip(". ").rstrip(". ").strip()


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, extension = _split(name)
    room = MAX_NAME_BYTES - len(extension.encode())
    cut = stem.encode()[:room].decode(errors="ignore")
    return _trimmed(cut + extension)


def _split(name: str) -> tuple[str, str]:
    """Stem and extension; an extension that is too long to be one belongs to the stem."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) >= _MAX_SUFFIX_BYTES:
        return name, ""
    return stem, dot + extension
