"""The table of subcommands. Each is a module here with a function `command`, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Final

import rich as _rich  # pyright: ignore[reportUnusedImport]  # noqa: F401  # missing? say so before a command runs
import typer

from raftstore.cli import COULD_NOT_RUN
from raftstore.cli.ending import interruptible

COMMANDS: Final = {
    "inspect": "Show what a store holds.",
    "verify": "Check every checksum, index and term in a store.",
    "demo": "Kill the nodes of a Raft cluster while they write, and see that nothing is lost.",
    "torture": "Kill a store on this disk at random times, and see that nothing acknowledged is lost.",
    "compare": "Measure every backend, strategy and flush policy on this disk.",
    "import-pysyncobj": "Move the journal of a PySyncObj node into a new store.",
    "export-pysyncobj": "Move the store of a PySyncObj node back into a journal of its own.",
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The durable log under a Raft node.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raftstore {version('raftstore')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """What stands before a command."""


def _add(name: str, summary: str) -> None:
    @app.command(
        name,
        help=summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def forward(context: typer.Context) -> None:  # pyright: ignore[reportUnusedFunction]
        _run(name, context.args)


def _run(name: str, arguments: list[str]) -> None:
    try:
        module = import_module(f"raftstore.cli.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        typer.echo(f"raftstore {name} needs {error.name}: pip install 'raftstore[all]'", err=True)
        raise typer.Exit(COULD_NOT_RUN) from error
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(module.command)
    with interruptible():
        single(arguments, prog_name=f"raftstore {name}")


for _name, _summary in COMMANDS.items():
    _add(_name, _summary)
