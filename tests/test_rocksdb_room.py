"""When RocksDB's backend asks the file system for room, and when it need not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb import room
from raftstore_rocksdb.room import SLACK_BYTES, SURE_BYTES, Room

pytestmark = pytest.mark.backend("rocksdb")

KIB = 1 << 10


class Disk:
    """As much room as is said, and a clock that stands still."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.free, self.now = 1 << 40, 5.0
        patch.setattr(room, "_free_bytes", lambda _path: self.free)
        patch.setattr(room, "time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def reserve(tmp_path: Path) -> Room:
    return Room(tmp_path, 64 * KIB)


def test_a_look_that_found_much_room_holds_for_a_moment(disk: Disk, reserve: Room) -> None:
    assert not reserve.surely_has(1)
    assert reserve.restore()
    assert reserve.has(KIB)
    assert reserve.surely_has(KIB)
    disk.now += room.SURE_S
    assert not reserve.surely_has(KIB)


def test_a_look_holds_for_no_more_bytes_than_leave_a_gibibyte(disk: Disk, reserve: Room) -> None:
    reserve.restore()
    disk.free = SURE_BYTES + SLACK_BYTES + 101 * KIB
    assert reserve.has(KIB)
    assert reserve.surely_has(60 * KIB)
    assert not reserve.surely_has(60 * KIB)
    assert reserve.surely_has(40 * KIB)
    assert not reserve.surely_has(1)


def test_on_a_disk_that_is_nearly_full_every_append_looks(disk: Disk, reserve: Room) -> None:
    reserve.restore()
    disk.free = SURE_BYTES
    assert reserve.has(KIB)
    assert not reserve.surely_has(1)


def test_without_the_ballast_every_append_looks(disk: Disk, reserve: Room) -> None:
    reserve.restore()
    assert reserve.has(KIB)
    reserve.release()
    assert not reserve.surely_has(1)
    assert reserve.has(KIB)
    assert not reserve.surely_has(1)
    assert reserve.restore()
    assert reserve.has(KIB)
    assert reserve.surely_has(1)
