"""What no node can be, refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mesh.core.rates import Limits
from mesh.core.scopes import Capabilities, NodeFacts
from mesh.distributions.checks import MAX_SECONDS
from mesh.errors import InvalidNode
from mesh.node.probe import Probe
from mesh.storage.data_dir import DataDir

MAX_NAME_CHARS = 256
"""Length of a node's name; peers refuse longer ones."""


def check_name(name: str | None) -> None:
    """Refuse a name that peers would not accept.

    Raises:
        InvalidNode: it is empty, too long or not printable.
    """
    if name is not None and not (0 < len(name) <= MAX_NAME_CHARS and name.isprintable()):
        raise InvalidNode(f"a name must have 1 to {MAX_NAME_CHARS} printable characters: {name[:40]!r}")


def check_limits(upload: float | None, download: float | None, link: float | None) -> Limits:
    """The caps of a node.

    Raises:
        InvalidNode: one of them cannot be kept to.
    """
    limits = Limits(upload, download, link)
    try:
        limits.check()
    except ValueError as error:
        raise InvalidNode(str(error)) from error
    return limits


def check_cache(cache_bytes: int | None) -> None:
    """Refuse what is no number of bytes.

    Raises:
        InvalidNode: it is not.
    """
    if cache_bytes is not None and (type(cache_bytes) is not int or cache_bytes < 0):
        raise InvalidNode(f"cache_bytes is a number of bytes, 0 or more, not {cache_bytes!r}")


def check_policy(policy: object, retention: object) -> None:
    """Refuse what cannot be asked, and what is no number of seconds.

    Raises:
        InvalidNode: it is one of these.
    """
    if policy is not None and not callable(policy):
        raise InvalidNode(f"a policy is a function of an Offer, not {policy!r}")
    if not isinstance(retention, int | float) or not 0 <= retention <= MAX_SECONDS:
        raise InvalidNode(f"retention is a number of seconds up to {MAX_SECONDS:g}, not {retention!r}")


def check_facts(formations: list[str], capabilities: Capabilities | Probe | None) -> None:
    """Refuse what no node document can say, and what would therefore count nowhere.

    Raises:
        InvalidNode: a formation or a capability is not what it must be.
    """
    if capabilities is not None and not isinstance(capabilities, Capabilities) and not callable(capabilities):
        raise InvalidNode(f"capabilities are Capabilities(...) or a probe, not {capabilities!r}")
    declared = capabilities if isinstance(capabilities, Capabilities) else Capabilities()
    facts = {"formations": formations, "capabilities": declared}
    try:
        msgspec.convert(msgspec.json.decode(msgspec.json.encode(facts)), NodeFacts)
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError) as error:
        raise InvalidNode(f"not what a node can say of itself: {error}") from error


def check_inbox(inbox: Path, directory: DataDir | None) -> None:
    """Refuse an inbox that is no directory, or where files from others would lie among the node's own.

    Raises:
        InvalidNode: it is one of these.
    """
    if inbox.exists() and not inbox.is_dir():
        raise InvalidNode(f"the inbox {inbox} is not a directory: name one, or a path where one can be made")
    if directory is None:
        return
    inbox, home, blobs = inbox.resolve(), directory.path.resolve(), directory.blobs.resolve()
    if home.is_relative_to(inbox) or inbox.is_relative_to(blobs):
        raise InvalidNode(
            f"the inbox {inbox} would lie among the node's own files: use another, such as {home / 'inbox'}"
        )
