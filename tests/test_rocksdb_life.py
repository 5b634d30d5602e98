"""Upkeep of a rocksdb store, and the life of the process that has it open."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb import RocksdbBackend
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.files import all_files
from raftstore_rocksdb.upkeep import RECLAIM_BYTES_MIN
from rocksdb_tools import (
    SMALL,
    append,
    fill,
    noting,
    opened,
    stop_uncleanly,
)

from raftstore.batch import WriteBatch
from raftstore.entry import LogId
from raftstore.testing.tools import eventually

pytestmark = pytest.mark.backend("rocksdb")


def test_steady_appending_and_purging_does_not_grow_the_store(path: Path) -> None:
    with closing(opened(path)) as backend:
        for number in range(1, 1201):
            first = number * 10 - 9
            anchor = LogId(1, first - 200) if first > 200 else None
            entries = append(number, *range(first, first + 10), size=1000).entries
            backend.write(WriteBatch(number, anchor=anchor, entries=entries))
            if number % 100 == 0:
                backend.maintain()
        # 12 MB were written, of which 200 kB are live. RocksDB's own threads may lag behind.
        eventually(lambda: size_after_upkeep(backend) < 6_000_000, "RocksDB drops what was purged")


def size_after_upkeep(backend: RocksdbBackend) -> int:
    backend.maintain()
    return backend.stats().bytes_on_disk


@pytest.mark.parametrize("gone", ["purged", "truncated", "reset"])
def test_maintain_gives_back_what_was_dropped(gone: str, path: Path) -> None:
    batches = {
        "purged": WriteBatch(401, anchor=LogId(1, 395)),
        "truncated": WriteBatch(401, truncate_from=5),
        "reset": WriteBatch(401, truncate_from=1, anchor=LogId(9, 5)),
    }
    with closing(opened(path)) as backend:
        fill(backend, 401, size=20_000)
        eventually(lambda: backend.stats().bytes_on_disk > 8_000_000, "no file comes or goes")
        backend.write(batches[gone])
        eventually(lambda: size_after_upkeep(backend) < 2_000_000, "RocksDB deletes its old files")
        eventually(lambda: backend.stats().bytes_reclaimable < RECLAIM_BYTES_MIN, "RocksDB compacts")


@pytest.mark.parametrize(("buffer", "calls"), [(SMALL, ["flush"]), (4 << 20, ["compact"])])
def test_much_that_was_dropped_is_left_to_rocksdbs_own_threads_and_little_is_compacted_at_once(
    buffer: int, calls: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(path, write_buffer_bytes=buffer)) as backend:
        fill(backend, 401, size=20_000)
        backend.write(WriteBatch(401, anchor=LogId(1, 395)))
        eventually(lambda: backend.stats().bytes_reclaimable >= RECLAIM_BYTES_MIN, "RocksDB flushes")
        done: list[str] = []
        for name in ("flush", "compact"):
            monkeypatch.setattr(Engine, name, noting(done, name, getattr(Engine, name)))
        backend.maintain()
        assert done == calls
        eventually(lambda: backend.stats().bytes_reclaimable < RECLAIM_BYTES_MIN, "RocksDB compacts")


def modes(path: Path) -> set[int]:
    return {known.st_mode & 0o777 for _, known in all_files(path)}


def test_files_belong_to_their_owner_alone_whatever_the_umask(path: Path) -> None:
    """What RocksDB's own threads make meanwhile has the rights of the umask until the next upkeep; the
    directories are closed to others at all times."""

    def tightened() -> bool:
        backend.maintain()
        return modes(path) == {0o600}

    before = os.umask(0)
    try:
        with closing(opened(path)) as backend:
            fill(backend, 200, size=1000)
            eventually(tightened, "upkeep once RocksDB is idle leaves nobody else a right")
            backend.write(append(200, 200))
            stop_uncleanly(backend)
        assert modes(path) == {0o600}
        opened(path).close()
    finally:
        os.umask(before)
    folders = [path / "db", path / "kept"]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert modes(path) == {0o600}


LIFE = """
import os, sys, threading
from pathlib import Path
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore_rocksdb import RocksdbBackend

backend = RocksdbBackend(Path(sys.argv[1]), write_buffer_bytes=65536, ballast_bytes=65536)
for n in range(1, 101):
    backend.write(WriteBatch(n, entries=[Entry(1, n, b"x" * 5000)]))
"""


def live(path: Path, script: str) -> None:
    command = [sys.executable, "-W", "error", "-c", LIFE + script, os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "script",
    ["", "del backend", "keep = backend; threading.Thread(target=lambda: keep.read(1, 90, None)).start()"],
    ids=["exit", "collected", "exit with a reader"],
)
def test_a_process_that_ends_without_closing_ends_and_loses_nothing(script: str, path: Path) -> None:
    live(path, script)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 100)


@pytest.mark.parametrize("child", ["sys.exit()", "backend.close(); sys.exit()", "del backend; sys.exit()"])
def test_a_forked_child_ends_without_touching_the_parents_store(child: str, path: Path) -> None:
    script = f"""
pid = os.fork()
if pid == 0:
    {child}
assert os.waitpid(pid, 0)[1] == 0
assert not (Path(sys.argv[1]) / "CLEAN").exists()
for n in range(101, 201):
    backend.write(WriteBatch(n, entries=[Entry(1, n, b"x" * 5000)]))
assert len(backend.read(1, 201, None)) == 200
backend.close()
"""
    live(path, script)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 200)
        assert backend.recovery.end_is_proved


def test_closing_leaves_no_file_open_and_no_lock_held(path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    backend = opened(path)
    fill(backend, 100, size=5000)
    with pytest.raises(LookupError) as caught:
        backend.read(50, 300, None)
    backend.close()
    assert caught.value.args == (100,)
    assert set(Path("/proc/self/fd").iterdir()) <= before
    opened(path).close()


def test_an_error_of_the_disk_is_not_its_own_cause(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows the causes of an error must come to an end."""
    broken = OSError(errno.EIO, "broken")

    def fail(_engine: Engine, _rows: object) -> bool:
        raise broken

    with closing(opened(path)) as backend:
        monkeypatch.setattr(Engine, "apply", fail)
        with pytest.raises(OSError, match="broken") as caught:
            backend.write(append(1, 1))
        assert caught.value is broken
        assert caught.value.__cause__ is None
