"""`mesh init`, `invite`, `join`, `revoke`, `rotate` and `whoami`: who belongs to the mesh."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mesh import Credentials
from mesh.cli.new_home import undone_if_new
from mesh.cli.output import Output
from mesh.cli.parsing import parse_duration, parsed
from mesh.cli.settings import Control, Settings, common_options, controlled
from mesh.cli.units import clean, duration
from mesh.control.socket_path import make_private
from mesh.core.certificates import REVOKED, ROLES
from mesh.core.enrolment import MAX_USES, read_token
from mesh.errors import InvitationRefused, MembershipRefused, NodeNotRunning, PeerUnreachable
from mesh.network.addresses import is_loopback, parse_url
from mesh.network.transport import BROKE
from mesh.node.presence import Presence
from mesh.storage.data_dir import DataDir
from mesh.storage.identity import load_or_create_identity


@click.command()
@common_options
@click.option(
    "--root-key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Make another admin of the mesh with this key instead.",
)
@click.pass_context
def init(context: click.Context, root_key: Path | None) -> None:
    """Begin a closed mesh, with --home as its first admin.

    Its nodes speak TLS and admit only whom an admin has invited (`mesh invite`).
    """
    settings = context.ensure_object(Settings)
    with undone_if_new(settings.home), _stopped(settings.home):
        credentials = Credentials.create(settings.home, root_key)
    key = root_key or settings.home / "root.key"
    Output(settings.json).result(
        _described(credentials) | {"home": str(settings.home), "root_key": str(key)},
        f"{credentials.node_id} is an admin of the mesh {credentials.mesh_id}, whose key is {key}: "
        f"keep a copy in a safe place. Next: `mesh up --home {settings.home} --listen 0.0.0.0:7700`",
    )


def _split(texts: tuple[str, ...]) -> list[str]:
    return [name for text in texts for name in text.split(",")]


@click.command()
@common_options
@click.option(
    "--role", type=click.Choice(list(ROLES)), default="member", show_default=True, help="What it becomes."
)
@click.option(
    "--collections",
    multiple=True,
    metavar="NAME,...",
    help="What it may read and write; cars* stands for all that start so. [default: all]",
)
@click.option("--write", multiple=True, metavar="NAME,...", help="What it may write, if not all of these.")
@click.option("--read-only", is_flag=True, help="It may write nothing.")
@click.option(
    "--uses", type=click.IntRange(1, MAX_USES), default=1, show_default=True, help="For so many nodes."
)
@click.option(
    "--ttl",
    default="1h",
    show_default=True,
    metavar="TIME",
    callback=parsed(parse_duration),
    help="For so long: 90, 15m, 1h, 7d.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="URL",
    help="Where else this node can be reached, such as wss://hq.example.org:7700.",
)
@controlled
async def invite(
    control: Control,
    role: str,
    collections: tuple[str, ...],
    write: tuple[str, ...],
    read_only: bool,
    uses: int,
    ttl: float,
    addresses: tuple[str, ...],
) -> None:
    """Print a token with which another node can join.

    Whoever has it can use it: it is a secret. This node has to be up when it is used.

    \b
    Roles:
      member   reads and writes documents, and receives files
      relay    a member that asks and fetches on behalf of others as well
      publish  a member that distributes files
      admin    all of this; invites, renews, revokes, and cancels what others distribute
    """
    if read_only and write:
        raise click.UsageError("--read-only and --write contradict each other")
    token = await control.call(
        "node.invite",
        {
            "role": role,
            "collections": _split(collections) or ["*"],
            "write": [] if read_only else (_split(write) or None),
            "uses": uses,
            "ttl": ttl,
            "addresses": list(addresses),
        },
    )
    if all(is_loopback(parse_url(address).host) for address in read_token(token).addresses):
        click.echo("mesh: good on this machine only: this node listens on loopback", err=True)
    control.output.result({"token": token, "expires_at": time.time() + ttl}, token)


@click.command()
@common_options
@click.argument("token", required=False, envvar="MESH_TOKEN")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Read it from there.",
)
@click.pass_context
def join(context: click.Context, token: str | None, token_file: Path | None) -> None:
    """Join the mesh that TOKEN invites to.

    Other users can see the arguments of a process: rather give it by --token-file, by the environment
    variable MESH_TOKEN, or on stdin (TOKEN left out, or -); a terminal is asked for it.
    """
    settings = context.ensure_object(Settings)
    if token is not None and token_file is not None:
        raise click.UsageError("give TOKEN or --token-file")
    if token_file is not None:
        text = token_file.read_text(errors="replace")
    elif token not in (None, "-"):
        assert token is not None
        text = token
    elif sys.stdin.isatty():
        text = click.prompt("Token", hide_input=True, err=True)
    else:
        text = sys.stdin.buffer.read().decode(errors="replace")
    addresses = read_token(text).addresses
    with undone_if_new(settings.home, needed=_may_be_admitted), _stopped(settings.home):
        credentials = asyncio.run(Credentials.join(settings.home, text))
    what = "an admin" if "admin" in credentials.roles else "a member"
    Output(settings.json).result(
        _described(credentials) | {"addresses": addresses},
        f"{credentials.node_id} is {what} of the mesh {credentials.mesh_id}. "
        f"Next: `mesh up --home {settings.home} --peer {clean(addresses[0])}`",
    )


def _may_be_admitted(failure: BaseException) -> bool:
    """Whether only the answer may be lost: the admin's node gives it again, to the same key."""
    told = isinstance(failure, InvitationRefused | MembershipRefused) and BROKE not in str(failure)
    return not (told or isinstance(failure.__cause__, PeerUnreachable))


@click.command()
@common_options
@click.argument("node")
@controlled
async def revoke(control: Control, node: str) -> None:
    """End the membership of NODE (its id, the start of it, or its name).

    Its links are cut, here at once and elsewhere as the news arrives.
    """
    before = await control.call("node.standings")
    node_id = await control.call("node.revoke", {"node_id": node})
    again = before.get(node_id) == REVOKED
    control.output.result(
        {"node_id": node_id},
        f"{node_id} was revoked already, and what others may have given it since is void as well"
        if again
        else f"{node_id} is no member any more",
    )


@click.command()
@common_options
@click.argument("url", required=False)
@click.pass_context
def rotate(context: click.Context, url: str | None) -> None:
    """Give the node a new key, and with it a new id.

    URL is the node of an admin that is up, wss://HOST:PORT; with root.key on --home none is needed. The old
    id is no member any more, and what it owns (receipts, distributions) stays as it was. If somebody else
    may have the key, `mesh revoke` the node instead, which ends it under both ids, and invite it anew.
    """
    settings = context.ensure_object(Settings)
    with undone_if_new(settings.home), _stopped(settings.home):
        before = Credentials.load(settings.home).node_id
        credentials = asyncio.run(Credentials.rotate(settings.home, url))
    Output(settings.json).result(
        _described(credentials) | {"before": before},
        f"{before} is {credentials.node_id} from now on. Next: start it again with `mesh up`",
    )


@click.command()
@common_options
@click.pass_context
def whoami(context: click.Context) -> None:
    """Show the credentials on --home.

    That it was revoked, a node hears from peers: only while it runs.
    """
    settings = context.ensure_object(Settings)
    directory = DataDir(settings.home)
    if directory.identity.exists() and not directory.certificates.exists():
        node_id = load_or_create_identity(directory.identity).node_id
        Output(settings.json).result(
            {"node_id": node_id, "mesh_id": None}, f"node    {node_id}\nmesh    open: no credentials"
        )
        return
    credentials = Credentials.load(settings.home)
    revoked_by = asyncio.run(_revoked_by(settings))
    grant = credentials.membership.chain[0].grant
    left = credentials.expires_at - time.time()
    lines = {
        "node": credentials.node_id,
        "mesh": credentials.mesh_id,
        "roles": ", ".join(grant.roles),
        "reads": ", ".join(grant.read) or "nothing",
        "writes": ", ".join(grant.write) or "nothing",
        "valid": f"for another {duration(left)}" if left > 0 else "no longer, until an admin renews it",
    }
    if revoked_by is not None:
        lines["valid"] = f"no longer: revoked, says {clean(revoked_by)}"
    Output(settings.json).result(
        _described(credentials) | {"revoked_by": revoked_by},
        "\n".join(f"{name:<6}  {text}" for name, text in lines.items()),
    )


async def _revoked_by(settings: Settings) -> str | None:
    """The address at which the node that runs on --home hears that it was revoked; ``None``: it hears no
    such thing, or does not run."""
    try:
        async with Control(settings) as control:
            presence = Presence.from_dict(await control.call("node.presence"))
    except NodeNotRunning:
        return None
    return presence.revoked_by


def _described(credentials: Credentials) -> dict[str, object]:
    grant = credentials.membership.chain[0].grant
    return {
        "node_id": credentials.node_id,
        "mesh_id": credentials.mesh_id,
        "roles": grant.roles,
        "read": grant.read,
        "write": grant.write,
        "expires_at": credentials.expires_at,
    }


@contextmanager
def _stopped(home: Path) -> Iterator[None]:
    """No node runs on ``home`` meanwhile, and it is private.

    Raises:
        DataDirInUse: one does.
    """
    make_private(home)
    directory = DataDir(home)
    directory.open()
    try:
        yield
    finally:
        directory.close()
