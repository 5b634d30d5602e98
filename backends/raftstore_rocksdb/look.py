"""Looks at a store without changing a byte of it. Runs in a child process, through `main`.

RocksDB's read-only mode writes files of its own beside the store, so it is given a directory of symbolic
links to the store's files instead.
"""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from raftstore.backend import Damage, Examination, Recovery
from raftstore.entry import LogId
from raftstore.errors import CorruptionError, RaftStoreError
from raftstore_rocksdb.child import NO_ROOM_STATUS
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.failures import FULL
from raftstore_rocksdb.files import DB, data_is_missing, is_new, read_clean
from raftstore_rocksdb.layout import KEY_INDEX_END, entry_key, key_index, unpack_entry
from raftstore_rocksdb.mending import mend_current, mend_manifest
from raftstore_rocksdb.shape import Shape
from raftstore_rocksdb.state import State, read_state
from raftstore_rocksdb.upkeep import stats_of

_OWN: Final = ("LOG", "LOCK", "rocksdict-config.json")
_DAMAGE_MAX: Final = 100


def look(path: Path, links: Path, *, deep: bool) -> Examination:
    """Examine the store at `path` through `links`, an empty directory. `deep` reads every entry.

    May hang or kill the process if the store is damaged. Raises `OSError` if there is no room in `links`.
    """
    if not (path / DB).is_dir():
        damage = [] if is_new(path) else [Damage(data_is_missing(path))]
        return Examination(None if damage else Recovery(), stats_of(path, None, Shape()), 0, damage)
    _link(path / DB, links)
    mend_current(links)
    try:
        engine = _read_only(links)
    except (RaftStoreError, OSError) as error:
        _raise_if_full(error)
        return Examination(None, stats_of(path, None, Shape()), 0, [_damage(path, error)])
    try:
        return _look(path, engine, deep)
    finally:
        engine.close()


def _read_only(links: Path) -> Engine:
    """As opening does it: what it would mend in the store is mended in `links`."""
    try:
        return Engine.read_only(links)
    except (CorruptionError, FileNotFoundError):
        if mend_manifest(links) is None:
            raise
    return Engine.read_only(links)


def _raise_if_full(error: Exception) -> None:
    """A disk that is full beside the store says nothing of the store."""
    if isinstance(error, OSError) and error.errno in FULL:
        raise error


def _look(path: Path, engine: Engine, deep: bool) -> Examination:
    try:
        state = read_state(engine)
    except (RaftStoreError, OSError) as error:
        return Examination(None, stats_of(path, engine, Shape()), 0, [_damage(path, error)])
    damage = _check_mark(path, state)
    checked = _check_entries(path, engine, state.shape, damage) if deep else 0
    recovery = recovery_of(path, state) if not damage else None
    details: dict[str, object] = {"sorted_files": len(engine.files()), "term_runs": len(state.shape.runs)}
    return Examination(recovery, stats_of(path, engine, state.shape), checked, damage, details)


def recovery_of(path: Path, state: State) -> Recovery:
    """What opening would report, or reports, of `state`. Call it before anything in `path` is changed."""
    shape = state.shape
    return Recovery(
        anchor=shape.anchor,
        last=shape.last,
        term_runs=shape.runs,
        hard_state=state.hard_state,
        meta=state.meta,
        number=shape.number,
        end_is_proved=read_clean(path) == shape.number,
        tail_is_visible=False,  # RocksDB stops at the first record of its log that it cannot read
    )


def _link(db: Path, links: Path) -> None:
    for file in db.iterdir():
        if not file.name.startswith(_OWN) and file.is_file() and not file.is_symlink():
            (links / file.name).symlink_to(file.absolute())


def _check_mark(path: Path, state: State) -> list[Damage]:
    closed_at = read_clean(path)
    if closed_at is None or closed_at == state.shape.number:
        return []
    return [Damage(mark_disagrees(closed_at, state.shape.number))]


def mark_disagrees(closed_at: int, number: int) -> str:
    """The complaint about a store that was closed after one write and now ends at another."""
    return f"the store was closed cleanly after write {closed_at}, but write {number} is the last one there"


def _check_entries(path: Path, engine: Engine, shape: Shape, damage: list[Damage]) -> int:
    """Check every entry; add to `damage`; say how many are sound. Stops at the first unreadable block."""
    walk = _Walk(shape)
    try:
        with closing(engine.scan(entry_key(0), entry_key(KEY_INDEX_END))) as records:
            for key, value in records:
                walk.step(key, value)
                if len(walk.damage) >= _DAMAGE_MAX:
                    break
        walk.expect(shape.last.index + 1)
    except (RaftStoreError, OSError) as error:
        unreadable = _damage(path, error)
        walk.damage.append(msgspec.structs.replace(unreadable, first_index=walk.next_index))
    damage.extend(walk.damage)
    return walk.sound


class _Walk:
    """Goes through the entries and notes what is not as `shape` says."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._run = -1
        self.next_index = shape.first_index
        self.sound = 0
        self.damage: list[Damage] = []

    def step(self, key: bytes, value: bytes) -> None:
        """Take the next record."""
        index = key_index(key) if len(key) == len(entry_key(0)) else 0
        if not self._shape.holds(index, index + 1):
            message = "an entry outside of the log's bounds"
            self.damage.append(Damage(message, first_index=index, last_index=index))
            return
        self.expect(index)
        self.next_index = index + 1
        self._check(index, key, value)

    def expect(self, index: int) -> None:
        """Note the entries that are missing before `index`."""
        if self.next_index < index:
            message = "entries are missing"
            self.damage.append(Damage(message, first_index=self.next_index, last_index=index - 1))

    def _check(self, index: int, key: bytes, value: bytes) -> None:
        try:
            entry = unpack_entry(index, key, value)
        except CorruptionError as error:
            self.damage.append(Damage(str(error), first_index=index, last_index=index))
            return
        if entry.id == LogId(self._term_at(index), index):
            self.sound += 1
        else:
            message = "an entry's term is not the one that the term runs say"
            self.damage.append(Damage(message, first_index=index, last_index=index))

    def _term_at(self, index: int) -> int:
        runs = self._shape.runs
        while self._run + 1 < len(runs) and runs[self._run + 1].index <= index:
            self._run += 1
        return runs[self._run].term


def _damage(path: Path, error: Exception) -> Damage:
    """`error` as damage, with the names of the store's own files."""
    if not isinstance(error, CorruptionError):
        return Damage(str(error))
    file = str(path / DB / error.file.name) if error.file is not None else None
    return Damage(str(error), file, error.offset, error.first_index, error.last_index)


def main(arguments: list[str]) -> None:
    """Examine the store that `arguments` name, and write what was found to standard output, as JSON.

    The last argument is a time in seconds after which the process dies, whatever RocksDB is doing.
    """
    path, links, deep, seconds = arguments
    signal.alarm(int(seconds))
    try:
        found = look(Path(path), Path(links), deep=deep == "deep")
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.exit(NO_ROOM_STATUS)
    sys.stdout.buffer.write(msgspec.json.encode(found))
