"""`raftstore verify`: whether everything in a store is what was written."""

from __future__ import annotations

from rich.console import Console

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


def command(path: StorePath, json: AsJson = False) -> None:
    """Check every checksum, index and term in a store. Reads all of it, changes nothing.

    Exit status: 0 clean, 1 damaged, 2 could not look.
    """
    found = look(path, deep=True, as_json=json)
    if json:
        print_json(as_dict(found))
    else:
        _show(found)
    finish(found)


def _show(found: StoreExamination) -> None:
    console = Console()
    state = "clean" if found.is_clean else "damaged"
    backend = found.format.backend if found.format is not None else "unknown backend"
    line = f"{state}: {found.path} ({backend}), {found.entries_checked} entries checked"
    style = "bold green" if found.is_clean else "bold red"
    console.print(printable(line), style=style, markup=False, highlight=False, soft_wrap=True)
    if found.recovery is not None and found.recovery.torn_bytes:
        console.print(
            f"a torn tail of {found.recovery.torn_bytes} bytes, which opening drops: normal after a crash"
        )
    for note in found.notes:
        console.print(printable(note), markup=False, highlight=False, soft_wrap=True)
    if found.acknowledged_missing != "no":
        console.print(f"acknowledged writes missing: {found.acknowledged_missing}")
    print_damage(console, found)
