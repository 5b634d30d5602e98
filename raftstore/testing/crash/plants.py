"""Bugs to plant: a method that does not find those it can see is not worth its time.

Each is put into a process of the harness by replacing a function there; nothing in the product knows of them.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, cast

import msgspec

from raftstore import registry
from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.workload import Mix

ANY: Final = ("segmented", "lmdb", "rocksdb")
TOO_SHORT: Final = "the log ends at write"
"""A loss that the store itself noticed, by its witness, is refused in these words."""


class Plant(msgspec.Struct, frozen=True):
    """A bug: how to put it in, what it shows as, and in which workload. Methods name those they must find.

    Whatever else a method finds does not count: it may have nothing to do with the bug.
    """

    name: str
    backends: Sequence[str]
    put_in: Callable[[], None]
    shows: tuple[Verdict, ...] = (Verdict.LOST,)
    refused: str = ""
    """It shows as REFUSED, too, in these words of the error."""
    strategy: Literal["DiskFirst", "MemFirst"] = "DiskFirst"
    mix: Mix = "all"

    def is_shown_by(self, verdict: Verdict, words: str) -> bool:
        """Whether that failure is one that the bug must produce."""
        if verdict is not Verdict.REFUSED:
            return verdict in self.shows
        is_noticed = Verdict.LOST in self.shows and TOO_SHORT in words
        return is_noticed or (self.refused != "" and self.refused in words)


def plants_for(backend: str) -> list[Plant]:
    """The bugs that can be put into `backend`; into a third party's, those that every backend can have."""
    own = [plant for plant in PLANTS if backend in plant.backends]
    return own or [plant for plant in PLANTS if plant.backends == ANY]


def plant(name: str) -> None:
    """Put the bug `name` into this process, for good."""
    next(plant for plant in PLANTS if plant.name == name).put_in()


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _nothing(*_: object, **__: object) -> None:
    pass


# --- in any backend ------------------------------------------------------------------------------------


def _no_fsync() -> None:
    os.fsync = os.fdatasync = _nothing


def _no_directory_fsync() -> None:
    real = os.fsync

    def fsync(fd: Any) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            real(fd)

    os.fsync = fsync


def _fsync_retried() -> None:
    for name in ("fsync", "fdatasync"):
        setattr(os, name, _retrying(getattr(os, name)))


def _retrying(real: Callable[[Any], None]) -> Callable[[Any], None]:
    def sync(fd: Any) -> None:
        try:
            real(fd)
        except OSError:
            real(fd)

    return sync


def _short_write_ignored() -> None:
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int, /) -> int:
        real(fd, data, offset)
        return len(data)

    os.pwrite = pwrite
    files = _module("raftstore_segmented.files").OsFiles
    files.pwrite = staticmethod(pwrite)


def _acknowledged_before_written() -> None:
    pipeline = _module("raftstore.pipeline").Pipeline
    real = pipeline.acknowledgement

    def acknowledgement(self: Any, operation: Any, write: Any) -> Any:
        target = real(self, operation, write)
        if target is not None:
            self.schedule()
        return target if operation.durable else None

    pipeline.acknowledgement = acknowledgement


def _durable_index_early() -> None:
    ledger = _module("raftstore.ledger").Ledger
    ledger.durable_index = property(lambda self: self.accepted.shape.last.index, _nothing)


def _failure_forgotten() -> None:
    """A write that failed is taken for one that succeeded."""
    _wrap_writes(_ignoring_errors)


def _ignoring_errors(write: Callable[[WriteBatch], None], batch: WriteBatch) -> None:
    with suppress(OSError):
        write(batch)


def _truncate_and_append_in_two_writes() -> None:
    _wrap_writes(_in_two_parts)


def _in_two_parts(write: Callable[[WriteBatch], None], batch: WriteBatch) -> None:
    number = 2 * batch.number
    if batch.truncate_from is not None and batch.entries and batch.anchor is None:
        write(WriteBatch(number - 1, batch.truncate_from))
        batch = msgspec.structs.replace(batch, truncate_from=None)
    write(msgspec.structs.replace(batch, number=number))


def _wrap_writes(wrapper: Callable[[Callable[[WriteBatch], None], WriteBatch], None]) -> None:
    """Let every backend write through `wrapper`, which may use twice the number, and one below that."""
    doubled = wrapper is _in_two_parts
    real_class: Callable[[str], Any] = registry.backend_class

    def backend_class(name: str) -> Any:
        inner = cast("Any", real_class(name))

        def write(self: Any, batch: WriteBatch) -> None:
            wrapper(lambda part: inner.write(self, part), batch)

        def recovery(self: Any) -> Recovery:
            found: Recovery = inner.recovery.__get__(self)
            number = (found.number + 1) // 2 if doubled else found.number
            return msgspec.structs.replace(found, number=number)

        return type("Wrapped", (inner,), {"write": write, "recovery": property(recovery)})

    registry.backend_class = backend_class


# --- in `segmented` ------------------------------------------------------------------------------------


def _vote_not_synced() -> None:
    backend = _module("raftstore_segmented.backend").SegmentedBackend
    real = backend.write

    def write(self: Any, batch: WriteBatch) -> None:
        files = self._files
        if batch.hard_state is not None and not batch.entries:
            files.fdatasync = _nothing
        try:
            real(self, batch)
        finally:
            files.__dict__.pop("fdatasync", None)

    backend.write = write


def _no_sync_before_next_segment() -> None:
    """The last frames of a segment are left to the sync of what follows."""
    backend = _module("raftstore_segmented.backend").SegmentedBackend
    real = backend._put

    def put(self: Any, segment: Any, data: Any) -> None:
        files = self._files
        if segment.size - segment.end - len(data) < segment.size // 3:
            files.fdatasync = _nothing
        try:
            real(self, segment, data)
        finally:
            files.__dict__.pop("fdatasync", None)

    backend._put = put


def _torn_tail_not_cut() -> None:
    """The next frame is appended after it."""
    backend = _module("raftstore_segmented.backend")
    real = backend.mend

    def mend(files: Any, directory: Any, found: Any) -> Recovery:
        result: Recovery = real(files, directory, found)
        if found.torn is not None and found.torn.segment is found.current:
            found.current.end = found.torn.stop + 7 & ~7
        return result

    _module("raftstore_segmented.recovery").write_zeros = _nothing
    backend.mend = mend


def _no_checksum() -> None:
    def checksum(_algorithm: int) -> Callable[[Any], int]:
        return lambda _data: 0

    for name in ("checksums", "segment", "header"):
        module = _module(f"raftstore_segmented.{name}")
        if hasattr(module, "checksum"):
            module.checksum = checksum


def _recycled_bytes_accepted() -> None:
    """A retired segment is not zeroed before it is used again, and old frames count there as new ones."""
    zeroing, frame = _module("raftstore_segmented.zeroing"), _module("raftstore_segmented.frame")
    real_zeros = zeroing.write_zeros

    def write_zeros(files: Any, fd: int, start: int, stop: int) -> None:
        if not any(files.pread(fd, stop - start, start)):
            real_zeros(files, fd, start, stop)

    def decode_header(place: Any, data: bytes, position: int, offset: int) -> Any:
        if len(data) - position < frame.FRAME_HEADER_BYTES:
            return None
        magic, _, _, at, number, payload, table, check, kind, flags, crc = frame.HEADER.unpack_from(
            data, position
        )
        if magic != frame.MAGIC or at != offset or place.checksum(data[position : position + 52]) != crc:
            return None
        return frame.FrameHeader(kind, flags, offset, number, table, payload, check)

    zeroing.write_zeros = write_zeros
    for name in ("frame", "scan", "recovery", "lookup", "table", "verify"):
        module = _module(f"raftstore_segmented.{name}")
        if hasattr(module, "decode_header"):
            module.decode_header = decode_header


def _purged_before_anchor() -> None:
    module = _module("raftstore_segmented.backend")
    backend, name_of = module.SegmentedBackend, _module("raftstore_segmented.segment").segment_name
    real = backend.write

    def write(self: Any, batch: WriteBatch) -> None:
        if batch.anchor is not None:
            state = self._state
            for number, following in enumerate(state.firsts[1:], state.oldest):
                if following <= batch.anchor.index + 1:
                    self._files.unlink(name_of(number))
            self._files.sync_directory()
        real(self, batch)

    backend.write = write


# --- in `lmdb` and `rocksdb` ---------------------------------------------------------------------------


def _lmdb_with(**settings: object) -> None:
    datafile = _module("raftstore_lmdb._datafile")
    real = datafile.lmdb

    class Engine:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def Environment(self, path: str, **given: Any) -> Any:  # noqa: N802  (LMDB's name)
            return real.Environment(path, **{**given, **settings})

    datafile.lmdb = Engine()


def _rocksdb_unsynced() -> None:
    engine = _module("raftstore_rocksdb.engine").Engine
    real, calls = engine.sync, [0]

    def sync(self: Any) -> None:
        calls[0] += 1
        if calls[0] % 2 == 0:
            real(self)

    engine.sync = sync


def _rocksdb_vote_not_synced() -> None:
    backend = _module("raftstore_rocksdb.backend").RocksdbBackend
    engine = _module("raftstore_rocksdb.engine").Engine
    real_write, real_sync, votes = backend.write, engine.sync, [False]

    def write(self: Any, batch: WriteBatch) -> None:
        votes[0] = batch.hard_state is not None and not batch.entries
        real_write(self, batch)

    def sync(self: Any) -> None:
        if not votes[0]:
            real_sync(self)

    backend.write, engine.sync = write, sync


SEGMENTED: Final = ("segmented",)
LMDB: Final = ("lmdb",)
ROCKSDB: Final = ("rocksdb",)
MIXED: Final = (Verdict.MIXED,)
EITHER: Final = (Verdict.LOST, Verdict.MIXED)

PLANTS: Final = (
    Plant("acknowledged before written", ANY, _acknowledged_before_written),
    Plant("durable index published early", ANY, _durable_index_early, strategy="MemFirst"),
    Plant(
        "truncate and append in two writes",
        ANY,
        _truncate_and_append_in_two_writes,
        EITHER,
        mix="conflicts",
    ),
    Plant("failed write forgotten", ANY, _failure_forgotten, EITHER),
    Plant("no directory fsync", ANY, _no_directory_fsync),
    Plant("no fsync", SEGMENTED, _no_fsync, refused="not a store's FORMAT"),
    Plant("vote not synced", SEGMENTED, _vote_not_synced, mix="votes"),
    Plant("no sync before the next segment", SEGMENTED, _no_sync_before_next_segment),
    Plant("torn tail not cut", SEGMENTED, _torn_tail_not_cut, MIXED),
    Plant("no checksum", SEGMENTED, _no_checksum, MIXED),
    Plant("short write ignored", SEGMENTED, _short_write_ignored, EITHER),
    Plant("fsync retried", SEGMENTED, _fsync_retried, EITHER),
    Plant("recycled bytes accepted", SEGMENTED, _recycled_bytes_accepted, MIXED, mix="purges"),
    Plant(
        "purged before its anchor is durable",
        SEGMENTED,
        _purged_before_anchor,
        (),
        refused="a segment of the log is missing",
        mix="purges",
    ),
    Plant("lmdb sync=False", LMDB, lambda: _lmdb_with(sync=False)),
    Plant("lmdb metasync=False", LMDB, lambda: _lmdb_with(metasync=False)),
    Plant("rocksdb every other write unsynced", ROCKSDB, _rocksdb_unsynced),
    Plant("vote not synced in rocksdb", ROCKSDB, _rocksdb_vote_not_synced, mix="votes"),
)
