"""The directory of a store: made once, opened by one process at a time, the same for every backend.

| name | what it is |
|---|---|
| `LOCK` | `flock` on it decides who has the store open (`lock.py`) |
| `FORMAT` | which engine, which version (`formatfile.py`); with it the store exists |
| `WITNESS` | a write number that is known to be durable (`witness.py`) |
| `<backend>/` | the engine's own files |
| `<backend>.new/` | an engine that is being made; never holds anything acknowledged |

The order of creation, and what a crash after each step leaves:

1. The directory and its parents, synced: an empty directory, which is an absent store.
2. `LOCK`, taken, its name synced: nobody else makes the same store; what follows is recognised as ours.
3. `<backend>.new/`, made by the engine, closed, everything in it synced, then `WITNESS`, both names synced:
   without `FORMAT` all of it is swept away and made again.
4. `FORMAT`, synced: the store exists, and the new engine is complete, for step 3 was durable before.
5. `<backend>.new/` becomes `<backend>/`, synced: only now the engine is opened for use. So an engine without
   `FORMAT`, or `FORMAT` with neither, is never a crash: `CorruptionError`, and nothing is made in its place.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from raftstore import registry
from raftstore.backend import DiskBackend, Recovery
from raftstore.durable import (
    check_platform,
    is_real_directory,
    make_directory,
    make_path,
    remove,
    sync_directory,
    sync_tree,
)
from raftstore.errors import ConfigError, CorruptionError, StoreFullError
from raftstore.formatfile import read_format, write_format
from raftstore.lock import StoreLock
from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst
from raftstore.witness import Missing, Testimony, Witness, create_witness, judge, read_witness

FORMAT: Final = "FORMAT"
LOCK: Final = "LOCK"
WITNESS: Final = "WITNESS"
_UNFINISHED: Final = {WITNESS, f"{WITNESS}.new", f"{FORMAT}.new"}
_IGNORED: Final = {"lost+found"}
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """An open store: its engine, its lock and its witness. Made by `open_store`."""

    def __init__(
        self,
        path: Path,
        backend: DiskBackend,
        lock: StoreLock,
        witness: Witness,
        *,
        created: bool,
        acknowledged_missing: Missing,
        notes: tuple[str, ...],
    ) -> None:
        self.path = path
        self.backend = backend
        self.created = created
        """This opening made the store, or finished making it."""
        self.acknowledged_missing: Missing = acknowledged_missing
        """Whether acknowledged writes are missing, as far as it can be known."""
        self.notes = notes
        """What an operator should know, beside the backend's own notes."""
        self._lock = lock
        self._witness = witness

    def witness(self, number: int, *, clean: bool = False) -> None:
        """Durably note that write `number` and everything before it is durable; `clean` when closing.

        One write and one sync, or nothing if the note says so already. A failing disk ends the notes, which
        is logged, and raises nothing: an old note stays true. One call at a time.
        """
        self._witness.note(number, clean=clean)

    def close(self) -> None:
        """Close the backend and let the next one in. Twice is fine; after an interrupt, needed.

        An interrupt lets nobody in while the backend may still write.
        """
        try:
            self.backend.close()
        except Exception:
            self._let_go()
            raise
        self._let_go()

    def _let_go(self) -> None:
        self._witness.close()
        self._lock.release()

    def abandon_in_child(self) -> None:
        """After a fork, in the child: close this process's copies of the descriptors, and do no more."""
        self._lock.abandon()
        self._witness.close()


def open_store(config: StoreConfig) -> Store:
    """Open the store that `config` names, or make it if it is absent and `config.create`.

    Raises, having made nothing: `ConfigError` if the directory holds something else, or another backend's
    store, or none and `create` is false; `BackendMissingError`. Raises `StoreLockedError` if the store is
    open, also in this process; `CorruptionError` if a part of it is missing or damaged, or it ends below what
    its witness knows; `FormatError` for a version that is not ours; `StoreFullError`, having made nothing
    that counts, if there is no room for a new store; whatever the backend's opening raises.
    """
    check_platform()
    engine = registry.backend_class(config.backend)
    names = _names(config.path)
    _check_place(config, names)
    try:
        if FORMAT not in names:
            make_path(config.path)
        lock = StoreLock(config.path / LOCK, config.limits.lock_timeout_ms)
    except OSError as error:
        if error.errno not in _FULL or FORMAT in names:
            raise
        raise _no_room(config) from error
    try:
        return _open_locked(config, engine, lock)
    except BaseException:
        lock.release()
        raise


def _names(path: Path) -> set[str]:
    try:
        return {child.name for child in path.iterdir()} - _IGNORED
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise ConfigError(f"{path} is not a directory", key="path") from error


def _check_place(config: StoreConfig, names: set[str]) -> None:
    """Refuse what is neither a store nor a place for one."""
    if FORMAT in names:
        return
    engines = _engines(config)
    ours = (
        {LOCK, *_UNFINISHED, *engines, *(f"{name}.new" for name in engines)} if LOCK in names else set[str]()
    )
    if strangers := sorted(names - ours):
        message = f"{config.path} holds other files ({', '.join(strangers[:3])}): give a directory of its own"
        raise ConfigError(message, key="path")
    if not config.create and not engines & names:
        message = f"there is no store at {config.path}: mount its disk, or set create = true to make one"
        raise ConfigError(message, key="create")


def _engines(config: StoreConfig) -> set[str]:
    return {config.backend, *registry.backend_names()}


def _open_locked(config: StoreConfig, engine: type[DiskBackend], lock: StoreLock) -> Store:
    names = _names(config.path)
    _check_place(config, names)
    if FORMAT not in names:
        _check_not_lost(config, names)
        _create(config, engine, names - {LOCK})
    created = _finish(config)
    backend = engine(config.path / config.backend, **config.options)  # type: ignore[call-arg]
    try:
        witness, missing, notes = _open_witness(config, backend.recovery)
    except BaseException:
        backend.close()
        raise
    return Store(
        config.path, backend, lock, witness, created=created, acknowledged_missing=missing, notes=notes
    )


def _check_not_lost(config: StoreConfig, names: set[str]) -> None:
    """Without FORMAT there must be no trace of a store that was ever in use."""
    traces = sorted(_engines(config) & names)
    testimony = read_witness(config.path / WITNESS) if WITNESS in names else None
    if testimony is not None and testimony.note is not None and testimony.note.number > 0:
        traces.append(WITNESS)
    if traces:
        message = f"{FORMAT} is missing, but a store was in use here: restore it from a copy"
        raise CorruptionError(message, file=config.path / traces[0])


def _create(config: StoreConfig, engine: type[DiskBackend], leftovers: set[str]) -> None:
    """Steps 2 to 4 of the module's docstring. `leftovers` are of an attempt that a crash cut short.

    If the disk is full, only the empty directory and its `LOCK` are left, an absent store.
    """
    try:
        _make(config, engine, leftovers)
    except OSError as error:
        if error.errno not in _FULL or FORMAT in _names(config.path):
            raise
        for name in _names(config.path) - {LOCK}:
            remove(config.path / name)
        raise _no_room(config) from error


def _no_room(config: StoreConfig) -> StoreFullError:
    return StoreFullError(
        f"no room on the disk for a new store: nothing was made; make room at {config.path}"
    )


def _make(config: StoreConfig, engine: type[DiskBackend], leftovers: set[str]) -> None:
    path, unfinished = config.path, config.path / f"{config.backend}.new"
    for name in leftovers:
        remove(path / name)
    sync_directory(path)
    make_directory(unfinished)
    engine(unfinished, **config.options).close()  # type: ignore[call-arg]
    sync_tree(unfinished)
    create_witness(path / WITNESS, 0)
    sync_directory(path)
    write_format(path / FORMAT, config.backend)
    sync_directory(path)


def _finish(config: StoreConfig) -> bool:
    """Check FORMAT, and take step 5 if it is still to do; says whether it was."""
    path = config.path
    stored = read_format(path / FORMAT).backend
    if stored != config.backend:
        message = f"{path} is a store of {stored}, not of {config.backend}: use migrate to change the backend"
        raise ConfigError(message, key="backend")
    engine, unfinished = path / stored, path / f"{stored}.new"
    if is_real_directory(engine):
        return False
    if engine.is_symlink() or not is_real_directory(unfinished):
        raise CorruptionError(f"{FORMAT} is here, but not the data it belongs to", file=engine)
    unfinished.rename(engine)
    sync_directory(path)
    return True


def _open_witness(config: StoreConfig, recovery: Recovery) -> tuple[Witness, Missing, tuple[str, ...]]:
    """The witness of this opening, what the last one's says of `recovery`, and notes for an operator.

    Before a write can be acknowledged, the file says durably that the log is in use.
    """
    path = config.path / WITNESS
    notes: tuple[str, ...] = ()
    testimony = _read_if_there(path)
    if testimony.note is None:
        missing: Missing = "unknown"
        note = create_witness(path, recovery.number)
        sync_directory(path.parent)
        notes = (f"{path} was missing or damaged and was made again",)
    else:
        note = testimony.note
        missing = judge(note, recovery, is_whole=testimony.is_whole, engine=config.path / config.backend)
    witness = Witness(path, note, volatile=isinstance(config.strategy, MemFirst))
    try:
        witness.mark_open(recovery.number)
    except BaseException:
        witness.close()
        raise
    return witness, missing, notes


def _read_if_there(path: Path) -> Testimony:
    try:
        return read_witness(path)
    except FileNotFoundError:
        return Testimony(None, is_whole=False)
