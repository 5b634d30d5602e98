"""Looks at a store that nobody has open, without opening it and without changing a byte.

The directory's own files are checked here, the engine's by its backend; `raftstore inspect` and `raftstore
verify` show the result.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from raftstore import registry
from raftstore.backend import BackendStats, Damage, Examination, Recovery
from raftstore.durable import is_real_directory
from raftstore.entry import HardState, LogId
from raftstore.errors import CorruptionError, RaftStoreError
from raftstore.formatfile import Format, read_format
from raftstore.hardstate import decode_hard_state, decode_meta
from raftstore.lock import held_shared
from raftstore.store import FORMAT, LOCK, WITNESS
from raftstore.witness import Missing, Testimony, judge, read_witness


class CouldNotLookError(RaftStoreError):
    """Nothing can be said about the store: it is absent, open elsewhere, or needs what is not installed."""


class StoreExamination(msgspec.Struct, kw_only=True):
    """What was found. None where a part could not be read; `damage` then says why."""

    path: Path
    format: Format | None = None
    witness: Testimony | None = None
    recovery: Recovery | None = None
    """What opening would report."""
    hard_state: HardState | None = None
    meta: dict[str, bytes] | None = None
    acknowledged_missing: Missing = "unknown"
    stats: BackendStats | None = None
    entries_checked: int = 0
    damage: list[Damage] = []
    notes: list[str] = []
    details: dict[str, object] = {}

    @property
    def is_clean(self) -> bool:
        return not self.damage

    @property
    def first(self) -> LogId | None:
        """The first live entry, None if there is none."""
        return next(iter(self.recovery.term_runs), None) if self.recovery is not None else None


def examine_store(path: Path, *, deep: bool) -> StoreExamination:
    """Look at the store in `path`: `deep` reads every entry, otherwise what opening would read.

    Changes nothing, and keeps writers out meanwhile. Raises `CouldNotLookError`, `StoreLockedError` at once
    if a process has the store open, `FormatError`, `BackendMissingError`, `ConfigError` for a backend that is
    not registered, OSError. Damage is no error: it is in the result.
    """
    if not path.is_dir():
        raise CouldNotLookError(f"there is no directory {path}")
    found = StoreExamination(path=path)
    with _noting(found), held_shared(path / LOCK):
        _look(found, deep=deep)
    return found


@contextmanager
def _noting(found: StoreExamination) -> Generator[None]:
    """What proves to be damaged ends this part of the examination, and is noted."""
    try:
        yield
    except CorruptionError as error:
        found.damage.append(_damage(error))


def _damage(error: CorruptionError) -> Damage:
    file = str(error.file) if error.file is not None else None
    return Damage(str(error), file, error.offset, error.first_index, error.last_index)


def _look(found: StoreExamination, *, deep: bool) -> None:
    found.format = _format(found.path)
    with _noting(found):
        found.witness = _witness(found)
    backend = registry.backend_class(found.format.backend)
    engine = found.path / found.format.backend
    if not is_real_directory(engine):
        _look_at_unfinished(found, engine)
        return
    with _noting(found):
        _take(found, backend.examine(engine, deep=deep))
    if found.recovery is not None:
        _check_recovery(found, found.recovery)


def _format(path: Path) -> Format:
    try:
        return read_format(path / FORMAT)
    except FileNotFoundError:
        pass
    for name in registry.backend_names():
        if (path / name).exists():
            raise CorruptionError(f"{FORMAT} is missing, but the data of a store is here", file=path / name)
    raise CouldNotLookError(f"there is no store in {path}")


def _witness(found: StoreExamination) -> Testimony:
    file = found.path / WITNESS
    try:
        testimony = read_witness(file)
    except FileNotFoundError:
        raise CorruptionError("missing", file=file) from None
    if testimony.note is None:
        raise CorruptionError("no slot is readable", file=file)
    if not testimony.is_whole:
        found.notes.append(f"{file}: one slot is not readable, as after a power cut while it was written")
    return testimony


def _look_at_unfinished(found: StoreExamination, engine: Path) -> None:
    """FORMAT without its engine: the last step of making the store is missing, or the data is."""
    if engine.is_symlink() or not is_real_directory(engine.with_name(f"{engine.name}.new")):
        raise CorruptionError(f"{FORMAT} is here, but not the data it belongs to", file=engine)
    found.notes.append("the store was never opened: making it was cut short, opening it finishes that")
    found.acknowledged_missing = "no"


def _take(found: StoreExamination, examination: Examination) -> None:
    found.recovery = examination.recovery
    found.stats = examination.stats
    found.entries_checked = examination.entries_checked
    found.damage.extend(examination.damage)
    found.details = examination.details
    if examination.recovery is None and not examination.damage:
        found.damage.append(Damage("opening would refuse it, without saying why"))


def _check_recovery(found: StoreExamination, recovery: Recovery) -> None:
    found.notes.extend(recovery.notes)
    if found.witness is not None and found.witness.note is not None:
        with _noting(found):
            note, is_whole = found.witness.note, found.witness.is_whole
            engine = found.path / found.format.backend if found.format is not None else found.path
            found.acknowledged_missing = judge(note, recovery, is_whole=is_whole, engine=engine)
    with _noting(found):
        found.hard_state = decode_hard_state(recovery.hard_state)
    with _noting(found):
        found.meta = decode_meta(recovery.meta)
