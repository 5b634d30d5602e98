"""What `inspect` and `verify` share: looking at a store, exit statuses, and the result as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raftstore.backend import Damage, Recovery
from raftstore.errors import RaftStoreError, StoreLockedError
from raftstore.examine import StoreExamination, examine_store

CLEAN, DAMAGED, COULD_NOT_LOOK = 0, 1, 2
DAMAGE_SHOWN_MAX: Final = 20

StorePath = Annotated[Path, typer.Argument(metavar="PATH", help="The store's directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def look(path: Path, *, deep: bool, as_json: bool) -> StoreExamination:
    """Examine the store, or say why not and exit with 2."""
    try:
        return examine_store(path, deep=deep)
    except (RaftStoreError, OSError) as error:
        pid = error.pid if isinstance(error, StoreLockedError) else None
        if as_json:
            print_json({"path": str(path), "state": "could not look", "reason": str(error), "pid": pid})
        else:
            typer.echo(f"could not look: {printable(str(error))}", err=True)
        raise typer.Exit(COULD_NOT_LOOK) from error


def finish(found: StoreExamination) -> None:
    """Leave with the exit status that says what was found."""
    raise typer.Exit(CLEAN if found.is_clean else DAMAGED)


def print_json(shown: dict[str, Any]) -> None:
    typer.echo(json.dumps(shown, indent=2, default=str))


def as_dict(found: StoreExamination) -> dict[str, Any]:
    """The result in the stable form that scripts read. What is not known is null."""
    testimony = found.witness
    note = msgspec.to_builtins(testimony.note) if testimony is not None else None
    return {
        "path": str(found.path),
        "state": "clean" if found.is_clean else "damaged",
        "backend": found.format.backend if found.format is not None else None,
        "version": found.format.version if found.format is not None else None,
        "log": _log(found, found.recovery) if found.recovery is not None else None,
        "hard_state": msgspec.to_builtins(found.hard_state),
        "meta_bytes": {key: len(value) for key, value in found.meta.items()}
        if found.meta is not None
        else None,
        "witness": note | {"whole": testimony.is_whole}
        if testimony is not None and note is not None
        else None,
        "acknowledged_missing": found.acknowledged_missing,
        "stats": msgspec.to_builtins(found.stats),
        "entries_checked": found.entries_checked,
        "damage": msgspec.to_builtins(found.damage),
        "notes": found.notes,
        "details": found.details,
    }


def _log(found: StoreExamination, recovery: Recovery) -> dict[str, Any]:
    return {
        "anchor": msgspec.to_builtins(recovery.anchor),
        "last": msgspec.to_builtins(recovery.last),
        "first_index": found.first.index if found.first is not None else None,
        "entries": recovery.last.index - recovery.anchor.index,
        "term_runs": msgspec.to_builtins(list(recovery.term_runs)),
        "write_number": recovery.number,
        "end_is_proved": recovery.end_is_proved,
        "torn_bytes": recovery.torn_bytes,
        "bytes_read": recovery.bytes_read,
    }


def printable(text: str) -> str:
    """`text` as any terminal can show it: names of files may hold anything."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def print_damage(console: Console, found: StoreExamination) -> None:
    """The damaged places, the first of many, and what to do."""
    if found.is_clean:
        return
    table = Table(title=f"{len(found.damage)} damaged", title_justify="left", title_style="bold red")
    for heading in ("what", "file", "offset", "indexes"):
        table.add_column(heading, overflow="fold")
    for damage in found.damage[:DAMAGE_SHOWN_MAX]:
        table.add_row(*(Text(printable(cell)) for cell in _cells(damage)))
    console.print(table)
    if len(found.damage) > DAMAGE_SHOWN_MAX:
        console.print(f"and {len(found.damage) - DAMAGE_SHOWN_MAX} more: --json shows all")
    console.print("Nothing was changed. Rebuild the node from its peers, or restore a copy.")


def _cells(damage: Damage) -> list[str]:
    offset = "" if damage.offset is None else str(damage.offset)
    first, last = damage.first_index, damage.last_index
    indexes = "" if first is None else str(first) if last in (None, first) else f"{first}..{last}"
    return [damage.message, damage.file or "", offset, indexes]
