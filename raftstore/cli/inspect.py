"""`raftstore inspect`: what a store holds."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from raftstore.backend import Recovery
from raftstore.cli.looking import (
    AsJson,
    StorePath,
    as_dict,
    finish,
    look,
    print_damage,
    print_json,
    printable,
)
from raftstore.examine import StoreExamination

TERMS_SHOWN_MAX = 5


def command(path: StorePath, json: AsJson = False) -> None:
    """Show what a store holds, from what opening it would read. Changes nothing.

    Exit status: 0 nothing is wrong as far as was looked, 1 something is damaged, 2 could not look.
    """
    found = look(path, deep=False, as_json=json)
    if json:
        print_json(as_dict(found))
    else:
        _show(found)
    finish(found)


def _show(found: StoreExamination) -> None:
    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(found):
        table.add_row(name, Text(printable(value)))
    console.print(table)
    print_damage(console, found)


def _rows(found: StoreExamination) -> Iterator[tuple[str, str]]:
    yield "store", str(found.path)
    if found.format is not None:
        yield "backend", f"{found.format.backend}, layout version {found.format.version}"
    if found.recovery is not None:
        yield from _log_rows(found, found.recovery)
    if found.hard_state is not None:
        voted_for = found.hard_state.voted_for
        yield (
            "term",
            f"{found.hard_state.term}, {'no vote' if voted_for is None else f'voted for {voted_for}'}",
        )
        yield "commit index", str(found.hard_state.commit)
    if found.meta:
        yield "metadata", ", ".join(f"{key} ({len(value)} bytes)" for key, value in found.meta.items())
    yield from _state_rows(found)
    yield from (("note", note) for note in found.notes)
    yield from ((f"  {key}", str(value)) for key, value in found.details.items())


def _log_rows(found: StoreExamination, recovery: Recovery) -> Iterator[tuple[str, str]]:
    entries = recovery.last.index - recovery.anchor.index
    first = recovery.anchor.index + 1
    yield "entries", f"{entries}, indexes {first}..{recovery.last.index}" if entries else "none"
    yield (
        "purged",
        f"up to index {recovery.anchor.index}, term {recovery.anchor.term}" if first > 1 else "nothing",
    )
    runs = [f"{run.term} from index {run.index}" for run in recovery.term_runs]
    left_out = len(runs) - TERMS_SHOWN_MAX
    shown = [f"… {left_out} more", *runs[-TERMS_SHOWN_MAX:]] if left_out > 0 else runs
    yield "terms", ", ".join(shown) or "none"
    yield "last write", f"number {recovery.number}" + (", end proved" if recovery.end_is_proved else "")
    if recovery.torn_bytes:
        yield "torn tail", f"{recovery.torn_bytes} bytes of an unfinished write, which opening drops"


def _state_rows(found: StoreExamination) -> Iterator[tuple[str, str]]:
    if found.witness is not None and found.witness.note is not None:
        note = found.witness.note
        yield (
            "witness",
            f"write {note.number} was durable, {'closed cleanly' if note.clean else 'not closed'}",
        )
    yield "acknowledged writes missing", found.acknowledged_missing
    if found.stats is not None:
        size, free = decimal(found.stats.bytes_on_disk), decimal(found.stats.bytes_reclaimable)
        yield "on disk", f"{size} in {found.stats.files} files, {free} of it reclaimable"
