"""Mends what a power cut can leave of RocksDB's manifest and RocksDB refuses, where it can lose nothing.

**A torn end.** RocksDB appends to its manifest what it did and then syncs that. Of this un-synced write a
disk may keep some sectors and not others. The torn record is cut off.

**Lost names.** At an opening RocksDB writes what its logs held to sorted files, names these in a new
manifest, lets `CURRENT` name that by a rename, and then syncs the directory, once. A file system that keeps
changes of names out of their order may lose the new manifest or a sorted file, and keep the rename.
`CURRENT` is set to the older manifest.

All go back to an older state of the manifest, to which logs have to be added that RocksDB removes once a
newer state is durable. So they are done only if these are there, which the numbers of all changes prove:
they follow each other without a hole from the last one that the older state has in sorted files. All this
needs the library `crc32c`; without it nothing is mended.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final

from raftstore_rocksdb.current import let_name, manifests, named, replace
from raftstore_rocksdb.files import sync_directory
from raftstore_rocksdb.manifest import Manifest, UnreadableError, read_manifest
from raftstore_rocksdb.records import are_readable, whole_records

OLDER_MAX: Final = 8
"""So many older manifests are looked at. RocksDB leaves one, and one more for each opening cut short."""

_BATCH: Final = Struct("<QI")
"""A record of a log begins with the number of its first change, and how many it has."""
_LOG: Final = re.compile(r"(\d{6,19})\.log")
_ANY: Final = re.compile(r"(?:MANIFEST-|OPTIONS-)?(\d{6,19})(?:\.log|\.sst)?")
_OPTIONS: Final = re.compile(r"OPTIONS-(\d{6,19})")
_SORTED: Final = re.compile(r"(\d{6,19})\.sst")


def mend_manifest(db: Path, keep: Path | None = None) -> str | None:
    """If RocksDB refuses its manifest for one of the two reasons above, set it right, durably.

    Says what was done; None if nothing was: there is no need, or something could be lost by it.
    A manifest that is cut is kept whole in the directory `keep`. Raises `OSError`.
    """
    current = named(db)
    if not are_readable() or current is None or not (db / current[0]).is_file():
        return None
    with suppress(UnreadableError):
        manifest = read_manifest(db / current[0])
        if manifest.is_torn:
            return _cut(db, current[0], manifest, keep)
        return _go_back(db, current, manifest)
    return None


def manifest_is_whole(db: Path) -> bool:
    """Whether the manifest that counts is known to be readable to its end. RocksDB may not come back from one
    that is damaged. Raises nothing."""
    current = named(db)
    if are_readable() and current is not None:
        with suppress(UnreadableError, OSError):
            return not read_manifest(db / current[0]).is_torn
    return False


def mend_current(db: Path) -> str | None:
    """If `CURRENT` names a manifest that is not there, let it name the newest older one that is whole.

    Says what was done, durably; None if there was no need, or nothing that can be done. Raises `OSError`.
    """
    wanted = named(db)
    if not are_readable() or wanted is None or (db / wanted[0]).exists():
        return None
    older = _older(db, wanted[1])
    if older is None:
        return None
    let_name(db, older[0])
    return f"A power cut had left CURRENT naming {wanted[0]}, which is not there: it names {older[0]} again."


def _cut(db: Path, name: str, manifest: Manifest, keep: Path | None) -> str | None:
    there, reached = _numbers(db, _SORTED), reach(db, manifest)
    if reached is None or not manifest.files <= there:
        return None
    if there != manifest.files and not manifest.torn_moves_only and _log_may_be_gone(db, manifest, reached):
        return None  # a sorted file that is not named may hold what no log holds any more
    if keep is not None:
        _keep(db / name, keep)
    replace(db / name, (db / name).read_bytes()[: manifest.stop])
    torn = manifest.size - manifest.stop
    return f"A power cut had torn the last, un-synced record of {name}: its {torn} bytes were cut off."


def _go_back(db: Path, current: tuple[str, int], manifest: Manifest) -> str | None:
    lost, older = manifest.files - _numbers(db, _SORTED), _older(db, current[1])
    if not lost or older is None or older[1] < manifest.last_sequence:
        return None
    let_name(db, older[0])
    names = ", ".join(f"{number:06}.sst" for number in sorted(lost))
    return (
        f"A power cut had lost the name of {names}: CURRENT names {older[0]} again, and the log has the rest."
    )


def _older(db: Path, number: int) -> tuple[str, int] | None:
    """The newest manifest with a lower number that is whole and has all its files, and what it reaches."""
    there = _numbers(db, _SORTED)
    older = sorted(((other, name) for name, other in manifests(db) if other < number), reverse=True)
    for _, name in older[:OLDER_MAX]:
        with suppress(UnreadableError):
            manifest = read_manifest(db / name)
            reached = reach(db, manifest)
            whole = not manifest.is_torn and not manifest.is_begun_only
            if whole and manifest.files <= there and reached is not None:
                return name, reached
    return None


def reach(db: Path, manifest: Manifest) -> int | None:
    """The number of the last change that the manifest's sorted files and the logs hold, if none before it is
    missing; else None."""
    reached = manifest.last_sequence
    for number in sorted(_numbers(db, _LOG)):
        if number < manifest.log_number:
            continue
        for first, count in _batches(db / f"{number:06}.log", number):
            if first > reached + 1:
                return None
            reached = max(reached, first + count - 1)
    return reached


def _log_may_be_gone(db: Path, manifest: Manifest, reached: int) -> bool:
    """Whether RocksDB may have removed a log, though no number of a change is missing in what `reach` saw.

    If the newest log holds changes, all before these are there. If it is empty, one between it and the log
    before it may be gone: then there is a number, of which RocksDB takes the next for every file that it
    makes, that no file has or had.
    """
    logs = [number for number in sorted(_numbers(db, _LOG)) if number >= manifest.log_number]
    if not logs or reached == manifest.last_sequence:
        return True
    if next(_batches(db / f"{logs[-1]:06}.log", logs[-1]), None) is not None:
        return False
    temporary = {number - 1 for number in _numbers(db, _OPTIONS)}
    taken = _numbers(db, _ANY) | temporary | manifest.ever
    return sum(logs[0] <= number <= logs[-1] for number in taken) <= logs[-1] - logs[0]


def _batches(log: Path, number: int) -> Iterator[tuple[int, int]]:
    with log.open("rb") as stream:
        for _, record in whole_records(stream, number):
            if len(record) < _BATCH.size:
                return
            yield _BATCH.unpack_from(record)


def _numbers(db: Path, pattern: re.Pattern[str]) -> set[int]:
    found = (pattern.fullmatch(file.name) for file in db.iterdir() if file.is_file())
    return {int(match[1]) for match in found if match is not None}


def _keep(file: Path, keep: Path) -> None:
    keep.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.link(file, keep / file.name, follow_symlinks=False)
    sync_directory(keep)
    sync_directory(keep.parent)
