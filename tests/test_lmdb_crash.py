"""What a failure or an end of the process, at any moment, leaves of an LMDB store."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("lmdb")

import lmdb
from lmdb_tools import MIB, LmdbStore, checked
from raftstore_lmdb import LmdbBackend, _datafile

from raftstore.batch import WriteBatch
from raftstore.testing.tools import span

pytestmark = pytest.mark.backend("lmdb")


@pytest.fixture
def store(path: Path) -> Iterator[LmdbStore]:
    with checked(path) as made:
        yield made


class Died(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("step", ["mkdir", "open_environment", "sync", "rename", "rmtree", "read_head"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_end_at_any_step_of_the_creation_leaves_a_directory_that_opens(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    owner = {"mkdir": Path, "rename": Path, "rmtree": shutil}.get(step, _datafile)
    done = getattr(owner, step)

    def dying(*args: object, **kwargs: object) -> None:
        if moment == "after":
            result = done(*args, **kwargs)
            if isinstance(result, lmdb.Environment):
                result.close()
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dying)
        with pytest.raises(Died):
            LmdbBackend(path)
    with closing(LmdbBackend(path)) as backend:
        assert backend.recovery.number == 0
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]


def synced_fd(path: Path) -> int:
    """The descriptor through which LMDB writes meta pages of `path`, synchronously."""
    return next(fd for fd in open_fds(path) if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC)


def open_fds(path: Path) -> list[int]:
    found = [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [fd for fd in found if os.path.lexists(f"/proc/self/fd/{fd}") and _target(fd) == path / "data.mdb"]


def _target(fd: int) -> Path:
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    except FileNotFoundError:
        return Path()


def break_fd(fd: int, replacement: str) -> None:
    """From now on the descriptor belongs to another file."""
    other = os.open(replacement, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(other, fd, inheritable=False)
    os.close(other)


def test_reading_goes_on_after_a_meta_page_could_not_be_written(store: LmdbStore, path: Path) -> None:
    """LMDB then refuses even to read, until it is opened again; and it puts back only a part of the page."""
    store.append(10)
    store.append(10)
    break_fd(synced_fd(path), "/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        store.backend.write(WriteBatch(3, entries=span(21, 25)))
    assert caught.value.errno == errno.EIO, "ENOSPC would promise that nothing appears"
    store.check()
    with pytest.raises(OSError):
        store.backend.write(WriteBatch(4, hard_state=b"vote"))
    store.reopen()
    assert not store.backend.recovery.end_is_proved
    assert store.backend.recovery.notes
    store.append(5)
    store.append(5)
    store.reopen()
    assert store.backend.recovery.end_is_proved


def test_reading_goes_on_after_a_data_page_could_not_be_written(store: LmdbStore, path: Path) -> None:
    store.append(10)
    for fd in set(open_fds(path)) - {synced_fd(path)}:
        break_fd(fd, "/dev/full")
    with pytest.raises(OSError) as caught:
        store.backend.write(WriteBatch(2, entries=span(11, 15)))
    assert caught.value.errno == errno.EIO
    store.check()
    store.reopen()
    store.append(5)
    store.reopen()


CHILD = """
import sys
from pathlib import Path
from raftstore.batch import WriteBatch
from raftstore.entry import LogId, Entry
from raftstore_lmdb import LmdbBackend
backend = LmdbBackend(Path(sys.argv[1]), map_bytes=2**20, ballast_bytes=2**16)
number, last = backend.recovery.number, backend.recovery.last.index
while True:
    number += 1
    count, anchor = 1 + number % 7, None
    if number % 10 == 0:
        anchor = LogId(number - 10, last - 20)
    if number % 15 == 0:
        last -= 5
    terms = dict(truncate_from=last + 1, entries=[
        Entry(number, last + 1 + i, b"%d" % number * 300) for i in range(count)
    ])
    backend.write(WriteBatch(number, hard_state=b"%d" % number, **terms))
    last += count
    if number % 10 == 0:
        number += 1
        keep = backend.read(last - 10, last - 9, None)[0].id if last > 20 else None
        backend.write(WriteBatch(number, anchor=keep, hard_state=b"%d" % number))
        backend.maintain()
    print(number, last, flush=True)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Every write names its number in its entries and in the hard state, beside truncations and purges."""
    random = Random(7)
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(random.randint(1, 60))]
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate()
        output = b"".join(lines) + rest[: rest.rfind(b"\n") + 1]
        number, last = map(int, output.splitlines()[-1].split())
        with closing(LmdbBackend(path, map_bytes=MIB)) as backend:
            found = backend.recovery
            assert number <= found.number <= number + 2
            assert found.hard_state == b"%d" % found.number
            assert found.end_is_proved
            assert found.number > number or found.last.index == last
            entries = backend.read(found.anchor.index + 1, found.last.index + 1, None)
            assert len(entries) == found.last.index - found.anchor.index
            assert all(entry.data == b"%d" % entry.term * 300 for entry in entries)
        assert not LmdbBackend.examine(path, deep=True).damage
