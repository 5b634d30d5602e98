"""Moving a store back into a journal of PySyncObj's own: the other direction of `importing.py`."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import msgspec

from raftstore.adapters.pysyncobj import library
from raftstore.adapters.pysyncobj.dumps import default_dump
from raftstore.adapters.pysyncobj.journal_file import meta_path, read_entries, read_hard_state
from raftstore.adapters.pysyncobj.node_ids import decode_id
from raftstore.config import load
from raftstore.durable import sync_directory
from raftstore.entry import HardState, LogId
from raftstore.errors import ConfigError, CorruptionError, EntryTooLargeError, FormatError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig

FILE_BYTES_MAX: Final = 2**32 - 1
"""PySyncObj keeps the end of its journal in 32 bits."""
ENTRY_OVERHEAD_BYTES: Final = 24
HEADER_BYTES: Final = 40


class Exported(msgspec.Struct, frozen=True):
    """What was moved: the ids of the entry before the first and of the last, and Raft's state."""

    path: Path
    anchor: LogId
    last: LogId
    hard_state: HardState
    dump: Path | None = None
    """`STORE.dump`, if the node kept its dumps there: PySyncObj must be told (`fullDumpFile`)."""


def export_journal(source: str | os.PathLike[str] | StoreConfig, journal: str | os.PathLike[str]) -> Exported:
    """Make of the store `source` a journal of PySyncObj's own, in the file `journal` and its `.meta`.

    The node must be stopped. The file appears under its name, and durable, only when all of it was written,
    read back and compared; before, it is built beside, in `NAME.exporting`. The store keeps what it holds:
    remove it before the node runs again, for what happens then is not in it. All of the log is in memory
    meanwhile, as it will be in PySyncObj. A dump stays where it is; without it, the node would forget all
    that came before the log.

    Raises, and leaves no file, `ConfigError` if there is something at `journal` already or no store at
    `source`, `FormatError` if the store is not that of a PySyncObj node, `EntryTooLargeError` if a file of
    PySyncObj's cannot hold it, and what `raftstore.open` and reading raise.
    """
    target, config = Path(journal), msgspec.structs.replace(load(source), create=False)
    building = target.with_name(target.name + ".exporting")
    for path in (target, building):
        _refuse_used(path)
    try:
        with open_log(config) as log:
            found = _examine(log, target)
            _write(log, building)
            _verify(log, building)
        _rename_both(building, target)
    except BaseException:
        for left in (building, meta_path(building)):
            left.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)
    return found


def _rename_both(building: Path, target: Path) -> None:
    """The journal last: what has its name has all. Neither is left if that fails."""
    meta_path(building).rename(meta_path(target))
    try:
        building.rename(target)
    except BaseException:
        meta_path(target).unlink()
        raise


def _refuse_used(path: Path) -> None:
    for file in (path, meta_path(path)):
        if file.is_symlink() or file.exists():
            raise ConfigError(f"there is something at {file} already: move it away")


def _examine(log: RaftLog, target: Path) -> Exported:
    """What will be moved, read once from end to end, so that nothing is begun that cannot be finished."""
    size = HEADER_BYTES
    for entry in log.scan():
        if entry.kind:
            raise FormatError(
                f"{log.config.path} is not the store of a PySyncObj node: {entry.id} has a kind"
            )
        size += ENTRY_OVERHEAD_BYTES + len(entry.data)
    if log.is_empty and log.anchor.index:
        raise FormatError(
            f"{log.config.path} holds a purged log without entries, which PySyncObj cannot have"
        )
    if size > FILE_BYTES_MAX:
        raise EntryTooLargeError(
            f"the log takes {size} bytes, and PySyncObj's own journal holds {FILE_BYTES_MAX}: start the node "
            "on its store, let it write a dump (forceLogCompaction), stop it, and try again"
        )
    dump = default_dump(log.config.path)
    return Exported(target, log.anchor, log.last, log.hard_state, dump if dump.is_file() else None)


def _write(log: RaftLog, building: Path) -> None:
    """Everything, by PySyncObj's own class, which syncs nothing; then durable."""
    file: Any = library.load().journal.FileJournal(str(building))
    try:
        for entry in log.scan():
            file.add(entry.data, entry.index, entry.term)
        state = log.hard_state
        file.setRaftCommitIndex(max(1, state.commit))
        file.setCurrentTerm(state.term, None if state.voted_for is None else decode_id(state.voted_for))
    finally:
        file._destroy()
    for path in (building, meta_path(building)):
        _sync(path)


def _verify(log: RaftLog, building: Path) -> None:
    """Read the files again, by our own reader, and compare all of it with the log."""
    for stored, wanted in zip_longest(read_entries(building), log.scan()):
        if stored != wanted:
            index = wanted.index if wanted is not None else log.next_index
            raise CorruptionError(f"entry {index} was read back otherwise", file=building)
    state, wanted_state = read_hard_state(building, 0), log.hard_state
    commit = max(1, wanted_state.commit)
    if (state.term, state.voted_for, state.commit) != (wanted_state.term, wanted_state.voted_for, commit):
        raise CorruptionError(f"read back was {state}, not {wanted_state}", file=meta_path(building))


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
