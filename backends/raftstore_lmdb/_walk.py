"""Looks through a store. `raftstore_lmdb._examine` runs this in a process of its own.

LMDB believes what is in its file, so a damaged page can kill the process that looks at it. What was found
goes to standard output line by line, as JSON, so that it is known how far this came.
"""

from __future__ import annotations

import resource
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, cast

import lmdb
import msgspec

from raftstore.backend import Damage, Recovery
from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError
from raftstore_lmdb._checksums import NAMES
from raftstore_lmdb._datafile import DATA, open_environment
from raftstore_lmdb._failures import translated
from raftstore_lmdb._head import read_head
from raftstore_lmdb._records import FORMAT_VERSION, encode_key
from raftstore_lmdb._tables import Tables

_MAP_BYTES: Final = 2**20
"""LMDB takes as much as it needs if that is more."""
_ENTRIES_AT_A_TIME: Final = 256
_BYTES_AT_A_TIME: Final = 2**23
_verifier: Final = import_module("lmdb.verify")  # it has no type hints
_DAMAGE_MAX: Final = 1000
"""Nothing more is looked for after that."""


class Opened(msgspec.Struct, frozen=True):
    """What opening would find."""

    recovery: Recovery
    live_bytes: int
    details: dict[str, object]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of output: one of the three, or how far the entries were looked at."""

    opened: Opened | None = None
    checked: int | None = None
    """Entries up to this index were looked at."""
    damage: Damage | None = None


def walk(path: Path, *, deep: bool) -> Iterator[Line]:
    """What there is to say about the store in `path`, whose head was found to be sound.

    What cannot kill the process comes before what can.
    """
    first = _opened(path)
    yield first
    if deep:
        yield from _structure(path / DATA)
    if deep and first.opened is not None:
        with open_environment(path, _MAP_BYTES, readonly=True) as environment:
            walker = _Walker(environment, path / DATA)
            yield from walker.entries()
            yield from walker.beyond()


def _opened(path: Path) -> Line:
    """What opening would find, or why it would refuse."""
    try:
        with translated(path / DATA), open_environment(path, _MAP_BYTES, readonly=True) as environment:
            return Line(opened=_Walker(environment, path / DATA).opened())
    except CorruptionError as error:
        return Line(damage=as_damage(error))


def as_damage(error: CorruptionError) -> Damage:
    """The same, as a value."""
    file = None if error.file is None else error.file.name
    return Damage(str(error), file, error.offset, error.first_index, error.last_index)


class _Walker:
    def __init__(self, environment: lmdb.Environment, file: Path) -> None:
        self._environment, self._file = environment, file
        self._head = read_head(file)
        self._tables = Tables(environment, self._head.bounds, file)
        with environment.begin(buffers=True) as txn:
            self._state = self._tables.state(txn)

    def opened(self) -> Opened:
        with self._environment.begin(buffers=True) as txn:
            recovery = self._tables.recovery(txn, self._state, self._head)
            live_bytes, keys = self._tables.live_bytes(txn), txn.stat(self._tables.entries)["entries"]
        details: dict[str, object] = {
            "lmdb": ".".join(map(str, self._environment.lib_version())),
            "format_version": FORMAT_VERSION,
            "checksum": NAMES[self._state.bounds.checksum],
            "transaction": self._head.transaction,
            "page_bytes": self._head.page_size,
            "pages_used": self._head.pages_used,
            "garbage_keys": keys - (recovery.last.index - recovery.anchor.index),
        }
        return Opened(recovery, live_bytes, details)

    def entries(self) -> Iterator[Line]:
        """Every live entry: its checksum, and that its term is that of its run."""
        bounds = self._state.bounds
        start, stop = bounds.anchor.index + 1, bounds.last.index + 1
        damaged = 0
        yield Line(checked=start - 1)
        while start < stop and damaged < _DAMAGE_MAX:
            try:
                found = self._read(start, min(stop, start + _ENTRIES_AT_A_TIME))
                lines = [self._misplaced(entry) for entry in found if not self._fits(entry)]
                start += len(found)
            except CorruptionError:
                lines = [Line(damage=damage) for damage in self._one_by_one(start, stop)]
                start = min(stop, start + _ENTRIES_AT_A_TIME)
            damaged += len(lines)
            yield from lines
            yield Line(checked=start - 1)

    def beyond(self) -> Iterator[Line]:
        """No key may lie above the last entry: it would come back."""
        last = self._state.bounds.last.index
        try:
            with translated(self._file), self._environment.begin() as txn:
                found = txn.cursor(self._tables.entries).set_range(encode_key(last + 1))
        except CorruptionError as error:
            yield Line(damage=as_damage(error))
            return
        if found:
            yield Line(damage=Damage(f"there are entries above the last one, {last}", self._file.name))

    def _read(self, start: int, stop: int) -> Sequence[Entry]:
        with translated(self._file), self._environment.begin(buffers=True) as txn:
            return self._tables.read(txn, start, stop, _BYTES_AT_A_TIME)

    def _one_by_one(self, start: int, stop: int) -> Iterator[Damage]:
        for index in range(start, min(stop, start + _ENTRIES_AT_A_TIME)):
            try:
                self._read(index, index + 1)
            except CorruptionError as error:
                yield msgspec.structs.replace(as_damage(error), first_index=index, last_index=index)

    def _fits(self, entry: Entry) -> bool:
        runs = self._state.runs
        position = bisect_right(runs, entry.index, key=_index) - 1
        return position >= 0 and runs[position].term == entry.term

    def _misplaced(self, entry: Entry) -> Line:
        message = f"entry {entry.index} has term {entry.term}, which is not that of its place"
        return Line(damage=Damage(message, self._file.name, None, entry.index, entry.index))


def _structure(file: Path) -> Iterator[Line]:
    """What LMDB's own verifier, which reads the file byte by byte, finds wrong with its pages."""
    try:
        problems = cast("list[str]", _verifier.verify(str(file), subdir=False))
    except _verifier.VerifyError as error:
        problems = [str(error)]
    for problem in problems[:_DAMAGE_MAX]:
        yield Line(damage=Damage(problem, file.name))


def _index(run: LogId) -> int:
    return run.index


def main(arguments: Sequence[str]) -> None:
    """Write to standard output what `walk` says of a directory, deep if `--deep` follows it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in walk(Path(arguments[0]), deep="--deep" in arguments[1:]):
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()
