"""`raftstore export-pysyncobj`: a store becomes a journal of PySyncObj's own again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raftstore.cli.looking import COULD_NOT_LOOK, DAMAGED, printable
from raftstore.errors import CorruptionError, RaftStoreError

Source = Annotated[str, typer.Argument(metavar="STORE_URL", help="The URL or TOML file of the store.")]
JournalFile = Annotated[
    Path, typer.Argument(metavar="JOURNAL_FILE", help="To be made, with a .meta beside it.")
]


def command(store: Source, journal: JournalFile) -> None:
    """Move the store of a stopped PySyncObj node, or a Patroni member, back into PySyncObj's own journal.

    Entries, term, vote and commit index are written, read back and compared. Remove the store before the node
    runs again: what happens then is not in it. Its dump is not moved: a node that named no fullDumpFile has
    it in STORE.dump, and must name that. Exit status: 0 done, 1 the store is damaged, 2 could not.
    """
    try:
        from raftstore.adapters.pysyncobj.exporting import export_journal

        found = export_journal(store, journal)
    except (RaftStoreError, OSError) as error:
        typer.echo(f"nothing was exported: {printable(str(error))}", err=True)
        raise typer.Exit(DAMAGED if isinstance(error, CorruptionError) else COULD_NOT_LOOK) from error
    state = found.hard_state
    typer.echo(
        f"exported and verified: entries {found.anchor.index + 1}..{found.last.index}, term {state.term}, "
        f"vote {printable(state.voted_for or 'none')}, commit index {state.commit}"
    )
    typer.echo(f"the journal is {printable(str(found.path))}; now remove the store")
    if found.dump is not None:
        typer.echo(f"its dump is {printable(str(found.dump))}: keep it, and name it as fullDumpFile")
    elif found.anchor.index:
        typer.echo("it begins with a dump: the node needs its fullDumpFile, as before")
