"""The `mesh` command: its subcommands, and what becomes of errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from mesh.cli import deliveries, distributions, documents, facts, files, membership, node
from mesh.cli.distribute import distribute
from mesh.cli.doctor import doctor
from mesh.cli.fetch import fetch
from mesh.cli.output import Output, print_json
from mesh.cli.settings import Settings, common_options
from mesh.cli.up import up
from mesh.errors import (
    BlobCorrupt,
    BlobNotFound,
    DistributionTimeout,
    FetchFailed,
    FetchTimeout,
    LinkedFileChanged,
    MeshError,
)
from mesh.version import VERSION

FAILED = 1
"""Exit status: the job did not succeed (a distribution or fetch failed, was cancelled, or took too long)."""
USAGE = 2
"""Exit status: the command line is wrong."""
UNUSABLE = 4
"""Exit status: bad input, or an environment in which the command cannot work."""
INTERRUPTED = 130
"""Exit status: Ctrl-C."""

_FAILURES = (DistributionTimeout, FetchTimeout, FetchFailed)


class MeshCommand(click.Group):
    """A group that ends with the documented exit statuses, and never with a traceback for a MeshError."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """See :meth:`click.Command.main`; always ends with ``SystemExit``."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            status = super().main(arguments, *rest, **extra)
        except click.UsageError as error:
            status = USAGE
            if "--json" in arguments:
                _report(error.format_message(), "UsageError", as_json=True)
            else:
                error.show()
        except click.ClickException as error:
            status = UNUSABLE
            _report(error.format_message(), type(error).__name__, as_json="--json" in arguments)
        except MeshError as error:
            status = FAILED if isinstance(error, _FAILURES) else UNUSABLE
            _report(_in_commands(error), type(error).__name__, as_json="--json" in arguments)
        except click.Abort:
            status = INTERRUPTED
        sys.exit(status or 0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See :meth:`click.Group.format_commands`; by subject."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(command.name or "", command.get_short_help_str(70)) for command in commands]
                )


def _in_commands(error: MeshError) -> str:
    """What the error says, with commands where it speaks of Python's methods."""
    if isinstance(error, LinkedFileChanged):
        return str(error)
    if isinstance(error, BlobCorrupt):
        return (
            f"blob {error.hash} was damaged on this disk: what is damaged of it is fetched again "
            "if another node has it, so try again in a moment"
        )
    if isinstance(error, BlobNotFound):
        return (
            f"no blob {error.hash} is held here: `mesh blobs` lists what is, "
            "and `mesh fetch` gets it from the mesh by its token"
        )
    return str(error)


def _report(message: str, kind: str, *, as_json: bool) -> None:
    click.echo(f"mesh: {message}", err=True)
    if as_json:
        print_json({"error": {"type": kind, "message": message}})


@click.group(cls=MeshCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="mesh %(version)s")
@common_options
def cli() -> None:
    """An offline-first document mesh with file distribution.

    `mesh up` runs a node; the other commands talk to the node that runs on the same --home.
    """


@click.command()
@common_options
@click.pass_context
def version(context: click.Context) -> None:
    """Print the version."""
    settings = context.ensure_object(Settings)
    Output(settings.json).result({"version": VERSION}, f"mesh {VERSION}")


SECTIONS = {
    "The node": (
        up, node.down, node.status, node.peers, node.members, node.connect, node.disconnect, node.pause,
        node.resume, node.limits, facts.formations, facts.capabilities, doctor, version,
    ),
    "The mesh": (
        membership.init, membership.invite, membership.join, membership.revoke, membership.rotate,
        membership.whoami,
    ),
    "Files": (
        distribute, distributions.distributions, distributions.distribution, distributions.cancel,
        distributions.retry, deliveries.deliveries, deliveries.accept, deliveries.reject, files.add,
        files.blobs, fetch, files.export, files.delete, files.pin, files.unpin, files.verify,
    ),
    "Documents": (
        documents.collections, documents.query, documents.index, documents.upsert, documents.remove,
        documents.watch, documents.subscribe, documents.unsubscribe, documents.subscriptions,
    ),
}  # fmt: skip

for commands in SECTIONS.values():
    for command in commands:
        cli.add_command(command)


def main() -> NoReturn:
    """Run the command line of this process."""
    cli.main(prog_name="mesh")


if __name__ == "__main__":
    main()
