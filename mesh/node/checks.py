"""What no node can be, refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mesh.core.identity import short_id
from mesh.core.rates import Limits
from mesh.core.scopes import FORMATION_RULE, Capabilities, NodeFacts, is_formation_name
from mesh.distributions.checks import MAX_SECONDS
from mesh.errors import InvalidNode
from mesh.membership.credentials import Credentials
from mesh.node.probe import Probe
from mesh.node.settings import Settings
from mesh.storage.data_dir import DataDir
from mesh.storage.identity import load_or_create_identity

MAX_NAME_CHARS = 256
"""Length of a node's name; peers refuse longer ones."""


def check_settings(settings: Settings) -> None:
    """Refuse what cannot be told from the arguments' types.

    Raises:
        InvalidNode: one of them is not what it must be.
    """
    if settings.receive not in ("auto", "manual", "off"):
        raise InvalidNode(f'receive must be "auto", "manual" or "off", not {settings.receive!r}')
    check_credentials(settings.credentials)
    check_name(settings.name)
    check_cache(settings.cache_bytes)
    check_facts(settings.formations, settings.capabilities)
    check_policy(settings.policy, settings.retention)


def check_discovery(discovery: object) -> None:
    """Refuse what this version has not.

    Raises:
        InvalidNode: it was asked for.
    """
    if discovery:
        raise InvalidNode(
            "this version has no discovery: leave it out. Peers are dialled at the addresses in `peers`"
        )


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
    for name in formations:
        if not is_formation_name(name):
            raise InvalidNode(f"a formation {FORMATION_RULE}, not {name!r:.60}")
    declared = capabilities if isinstance(capabilities, Capabilities) else Capabilities()
    facts = {"formations": formations, "capabilities": declared}
    try:
        msgspec.convert(msgspec.json.decode(msgspec.json.encode(facts)), NodeFacts)
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError) as error:
        raise InvalidNode(f"not what a node can say of itself: {error}") from error


def check_credentials(credentials: object) -> None:
    """Refuse what are no credentials.

    Raises:
        InvalidNode: they are not.
    """
    if credentials is not None and not isinstance(credentials, Credentials):
        raise InvalidNode(
            f"credentials are Credentials.load(...) or the like, not a {type(credentials).__name__}"
        )


def check_home(credentials: Credentials | None, directory: DataDir) -> None:
    """Refuse to be somebody else in a node's directory, or to open that of a member to an open mesh.

    Raises:
        InvalidNode: that would happen.
    """
    if credentials is None:
        if directory.certificates.exists():
            raise InvalidNode(
                f"{directory.path} belongs to a member of a closed mesh: pass credentials=Credentials.load()"
            )
    elif directory.identity.exists():
        node_id = load_or_create_identity(directory.identity).node_id
        if node_id != credentials.node_id:
            raise InvalidNode(
                f"{directory.path} is that of the node {short_id(node_id)}, and the credentials are those of "
                f"{short_id(credentials.node_id)}: give each a directory of its own"
            )


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
