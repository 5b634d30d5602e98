"""`raftstore import-pysyncobj`: a journal of PySyncObj's own becomes a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raftstore.cli.looking import COULD_NOT_LOOK, DAMAGED, printable
from raftstore.errors import CorruptionError, RaftStoreError

JournalFile = Annotated[Path, typer.Argument(metavar="JOURNAL_FILE", help="Its .meta must lie beside it.")]
Target = Annotated[str, typer.Argument(metavar="STORE_URL", help="The URL or TOML file of the new store.")]


def command(journal: JournalFile, store: Target) -> None:
    """Move the journal of a stopped PySyncObj node, or a Patroni member, into a new store.

    Entries, term, vote and commit index are written, read back and compared; the journal's files are not
    changed, and a dump file is used as before. Exit status: 0 done, 1 the journal is damaged, 2 could not.
    """
    try:
        from raftstore.adapters.pysyncobj.importing import import_journal

        found = import_journal(journal, store)
    except (RaftStoreError, OSError) as error:
        typer.echo(f"nothing was imported: {printable(str(error))}", err=True)
        raise typer.Exit(DAMAGED if isinstance(error, CorruptionError) else COULD_NOT_LOOK) from error
    state = found.hard_state
    indexes = f"{found.anchor.index + 1}..{found.last.index}" if found.entries else "none"
    typer.echo(
        f"imported and verified: entries {indexes}, term {state.term}, "
        f"vote {printable(state.voted_for or 'none')}, commit index {state.commit}"
    )
    typer.echo(f"the store is {printable(str(found.path))}; {printable(str(journal))} is unchanged")
