"""What the tests of the rocksdb backend share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from raftstore_rocksdb import RocksdbBackend
from raftstore_rocksdb.layout import entry_rows

from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.testing.model import Model

KIB = 1 << 10
SMALL = 64 * KIB
"""A memtable that a few writes fill, so that logs are switched and memtables flushed all the time."""


def opened(path: Path, **options: Any) -> RocksdbBackend:
    return RocksdbBackend(path, **{"ballast_bytes": 64 * KIB, "write_buffer_bytes": SMALL, **options})


def append(number: int, *indexes: int, term: int = 1, size: int = 20) -> WriteBatch:
    return WriteBatch(number, entries=[Entry(term, i, Random(i).randbytes(size)) for i in indexes])


def value_of(entry: Entry) -> bytes:
    """What is stored of `entry` under its key."""
    return entry_rows([entry])[0][1]


def fill(backend: RocksdbBackend, stop: int, size: int = 20) -> None:
    """Writes 1 to stop - 1, each of the entry with its number."""
    for number in range(1, stop):
        backend.write(append(number, number, size=size))


def assert_holds(backend: RocksdbBackend, model: Model) -> None:
    first, stop = model.first_index, model.last.index + 1
    if first < stop:
        assert backend.read(first, stop, None) == list(model.entries.values())


def assert_recovered(backend: RocksdbBackend, model: Model) -> None:
    found = backend.recovery
    assert (found.anchor, found.last, found.number) == (model.anchor, model.last, model.number)
    assert list(found.term_runs) == model.term_runs()
    assert (found.hard_state, found.meta) == (model.hard_state, model.meta)
    assert_holds(backend, model)


def stop_uncleanly(backend: RocksdbBackend) -> None:
    """Leave the files as a SIGKILL does, though RocksDB empties its log: the clean mark is not written."""
    backend._mark_clean = lambda: None  # type: ignore[method-assign]
    backend.close()


@contextmanager
def failing_engine(
    backend: RocksdbBackend, call: str, error: BaseException, *, after: bool = False
) -> Iterator[None]:
    """While inside, the engine's `call` raises `error`: instead of doing its work, or after it."""
    engine: Any = backend._engine
    honest = getattr(engine, call)

    def fail(*arguments: Any) -> None:
        if after:
            honest(*arguments)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, call, fail)
        yield


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def noting(calls: list[str], name: str, honest: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        calls.append(name)
        honest(*arguments)

    return call


def store_with_a_damaged_block(path: Path) -> Path:
    """300 entries in one sorted file with one damaged block; that file."""
    backend = opened(path, write_buffer_bytes=1 << 20)
    fill(backend, 300, size=500)
    backend.close()
    [table] = [file for file in (path / "db").glob("*.sst") if file.stat().st_size > 100_000]
    flip(table, 50_000)
    return table


def kill_with_a_log(path: Path, writes: int) -> None:
    """Leave a store whose last writes are only in RocksDB's log."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom raftstore.batch import WriteBatch\n"
        "from raftstore.entry import Entry\nfrom raftstore_rocksdb import RocksdbBackend\n"
        "backend = RocksdbBackend(Path(sys.argv[1]), ballast_bytes=65536)\n"
        "for n in range(1, int(sys.argv[2]) + 1):\n"
        "    backend.write(WriteBatch(n, entries=[Entry(1, n, b'x' * 100)]))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, os.fspath(path), str(writes)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
