"""Looking at a rocksdb store without opening it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb import RocksdbBackend
from raftstore_rocksdb.files import all_files
from raftstore_rocksdb.layout import (
    entry_key,
)
from raftstore_rocksdb.rows import Rows
from rocksdb_tools import (
    append,
    fill,
    kill_with_a_log,
    opened,
    store_with_a_damaged_block,
    value_of,
)

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError

pytestmark = pytest.mark.backend("rocksdb")


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file): (known.st_mtime_ns, file.read_bytes()) for file, known in all_files(path)}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_examining_changes_nothing_and_finds_what_opening_reports(
    clean: bool, deep: bool, path: Path
) -> None:
    kill_with_a_log(path, 50)
    if clean:
        with closing(opened(path)) as backend:
            backend.write(append(51, 51))
    before = snapshot(path)
    found = RocksdbBackend.examine(path, deep=deep)
    assert snapshot(path) == before
    assert not found.damage
    assert found.recovery is not None
    assert found.entries_checked == (found.recovery.last.index if deep else 0)
    with closing(opened(path)) as backend:
        assert found.recovery.number == backend.recovery.number == (51 if clean else 50)
        assert found.recovery.last == backend.recovery.last
        assert found.recovery.end_is_proved == backend.recovery.end_is_proved == clean


def test_a_deep_look_names_every_place_that_is_not_as_written(path: Path) -> None:
    backend = opened(path)
    fill(backend, 40)
    backend.write(WriteBatch(40, anchor=LogId(1, 2)))
    wrong = [
        (entry_key(5), value_of(Entry(1, 6, b"misdirected"))),
        (entry_key(9), value_of(Entry(3, 9, b"another term"))),
        (entry_key(60), value_of(Entry(1, 60, b"beyond"))),
    ]
    assert backend._engine is not None
    backend._engine.apply(Rows([(entry_key(20), entry_key(25))], wrong))
    backend.close()
    shallow = RocksdbBackend.examine(path, deep=False)
    assert not shallow.damage
    found = RocksdbBackend.examine(path, deep=True)
    places = [(damage.first_index, damage.last_index) for damage in found.damage]
    assert places == [(5, 5), (9, 9), (20, 24), (60, 60)]
    assert found.entries_checked == 37 - 2 - 5


def test_a_deep_look_names_the_damaged_file_of_the_store_and_stops_there(path: Path) -> None:
    table = store_with_a_damaged_block(path)
    before = snapshot(path)
    found = RocksdbBackend.examine(path, deep=True)
    assert snapshot(path) == before
    [damage] = found.damage
    assert damage.file == os.fspath(table)
    assert damage.first_index is not None
    assert 50 < damage.first_index < 150
    assert found.recovery is None


def test_a_symbolic_link_is_not_followed_out_of_the_store(path: Path) -> None:
    backend = opened(path)
    fill(backend, 50)
    backend.close()
    [table, *_] = (path / "db").glob("*.sst")
    elsewhere = path.with_name("elsewhere")
    table.rename(elsewhere)
    table.symlink_to(elsewhere)
    assert RocksdbBackend.examine(path, deep=True).recovery is None
    with pytest.raises(CorruptionError, match="symbolic link"):
        opened(path)
