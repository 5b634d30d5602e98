"""Opens a store: makes it if it is new, tries it first if that is in doubt, checks what it holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from raftstore.backend import Recovery
from raftstore.errors import CorruptionError
from raftstore_rocksdb.child import LINKS_PREFIX, ChildFailedError, look_from_child
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.failures import FULL
from raftstore_rocksdb.files import (
    CLEAN,
    CREATING,
    DB,
    KEPT,
    data_is_missing,
    is_new,
    keep_wal,
    read_clean,
    remove_clean,
    symbolic_link,
    sync_directory,
    write_clean,
)
from raftstore_rocksdb.layout import BOUNDS, pack_bounds
from raftstore_rocksdb.look import mark_disagrees, recovery_of
from raftstore_rocksdb.mending import manifest_is_whole, mend_current, mend_manifest
from raftstore_rocksdb.room import Room, no_room
from raftstore_rocksdb.rows import Rows
from raftstore_rocksdb.shape import Shape
from raftstore_rocksdb.state import read_state

T = TypeVar("T")

NEW_STORE_BYTES: Final = 4 << 20
"""What RocksDB takes for an empty store, the steps included in which it allocates its logs."""

_KEPT_NOTE: Final = "RocksDB does not say what an unclean stop made it drop of its log: the log is kept."


class Opened(msgspec.Struct, frozen=True):
    """An open store and what opening found."""

    engine: Engine
    recovery: Recovery
    shape: Shape


def open_store(path: Path, room: Room, *, write_buffer_bytes: int, open_timeout_s: float) -> Opened:
    """Open the store in the directory `path`, which is new if it is empty. What is reported is durable.

    Raises `CorruptionError`, `FormatError`, `StoreLockedError`, `OSError`.
    """
    if link := symbolic_link(path):
        raise CorruptionError("a symbolic link among the store's files", file=link)
    if not (path / DB).is_dir():
        _create(path, room, write_buffer_bytes)
    clean, mended = read_clean(path), with_room(room, lambda: mend_current(path / DB))
    notes = [] if mended is None else [mended]
    if clean is None or not manifest_is_whole(path / DB):
        notes += with_room(room, lambda: _look_first(path, open_timeout_s))
    kept = clean is None and keep_wal(path)
    bytes_read = _bytes_to_read(path / DB)
    try:
        engine = open_engine(path, room, write_buffer_bytes)
    except CorruptionError:
        mended = with_room(room, lambda: mend_manifest(path / DB, path / KEPT))
        if mended is None:
            raise
        notes.append(mended)
        kept = kept or (path / KEPT).is_dir()
        engine = open_engine(path, room, write_buffer_bytes)
    try:
        return _check(path, engine, clean, kept, bytes_read, notes)
    except BaseException:
        engine.close()
        raise


def open_engine(path: Path, room: Room, write_buffer_bytes: int) -> Engine:
    """Open RocksDB, if need be with the room of the ballast: it writes what its log held to a sorted file."""
    try:
        return with_room(room, lambda: Engine(path / DB, write_buffer_bytes=write_buffer_bytes))
    except FileNotFoundError as error:
        raise CorruptionError(f"a file of the store is missing: {error}", file=path / DB) from error


def with_room(room: Room, action: Callable[[], T]) -> T:
    """What `action` returns. If the disk is too full for it, it is done again with the ballast's room."""
    try:
        return action()
    except OSError as error:
        if error.errno not in FULL:
            raise
    room.release()
    return action()


def _create(path: Path, room: Room, write_buffer_bytes: int) -> None:
    """Make an empty store. It is whole before it has its name: a crash leaves a new store or none.

    Raises `OSError(ENOSPC)`, having left nothing, if the disk has no room for the ballast beside it.
    """
    if not is_new(path):
        raise CorruptionError(data_is_missing(path), file=path)
    fresh = path / CREATING
    shutil.rmtree(fresh, ignore_errors=True)
    if not room.has_for_ballast(NEW_STORE_BYTES):
        raise no_room(path, "the reserve of a new store does not fit")
    fresh.mkdir(mode=0o700)
    engine = Engine(fresh, write_buffer_bytes=write_buffer_bytes, create=True)
    try:
        engine.apply(Rows([], [(BOUNDS, pack_bounds(Shape()))]))
        engine.sync()
        engine.flush()
    finally:
        engine.close()
    fresh.rename(path / DB)
    sync_directory(path)
    write_clean(path, 0)


def _look_first(path: Path, timeout_s: float) -> list[str]:
    """See in a child process that RocksDB comes back from reading the store at all."""
    try:
        for left in path.glob(f"{LINKS_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        look_from_child(path, deep=False, timeout_s=timeout_s, scratch=path)
    except ChildFailedError as error:
        if error.by_store:
            raise CorruptionError(str(error), file=path / DB) from error
        return [f"RocksDB was opened without a trial in a child process, which failed: {error}"]
    return []


def _check(
    path: Path, engine: Engine, clean: int | None, kept: bool, bytes_read: int, notes: list[str]
) -> Opened:
    state = read_state(engine)
    if clean is not None and clean != state.shape.number:
        raise CorruptionError(mark_disagrees(clean, state.shape.number), file=path / CLEAN)
    if kept:
        notes.append(_KEPT_NOTE)
    found = recovery_of(path, state)
    recovery = msgspec.structs.replace(
        found, kept_at=path / KEPT if kept else None, bytes_read=bytes_read, notes=notes
    )
    remove_clean(path)
    return Opened(engine, recovery, state.shape)


def _bytes_to_read(db: Path) -> int:
    """RocksDB reads its write-ahead logs and its manifest; both are bounded, all else is read as needed."""
    patterns = ("*.log", "MANIFEST-*", "CURRENT")
    return sum(file.stat().st_size for pattern in patterns for file in db.glob(pattern))
