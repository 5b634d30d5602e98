"""The disk of the crash tests: what it lets a power cut leave, and what not."""

from __future__ import annotations

import errno
from itertools import product
from typing import Any

import pytest

from raftstore.testing.crash.changes import Change
from raftstore.testing.crash.disk import Disk
from raftstore.testing.crash.image import Image, left_by
from raftstore.testing.crash.record import CREATED, DATA_ONLY, DIRECTORY, SYNCED, Op, Record

FILE, FOLDER = 11, 22


def done(op: Op, **parts: Any) -> Record:
    blank: dict[str, Any] = {"flags": 0, "error": 0, "inode": 0, "offset": 0, "length": 0}
    return Record(op=op, **{**blank, "path": "", "new_path": "", "data": b"", **parts})


def made(name: str = "a", inode: int = FILE) -> list[Record]:
    return [done(Op.OPEN, flags=CREATED, path=name, inode=inode)]


def write(data: bytes, offset: int = 0, inode: int = FILE, flags: int = 0) -> Record:
    return done(Op.WRITE, data=data, offset=offset, inode=inode, flags=flags)


def sync(inode: int = FILE, error: int = 0, flags: int = 0) -> Record:
    return done(Op.SYNC, inode=inode, error=error, flags=flags)


ROOT = [done(Op.OPEN, flags=DIRECTORY, inode=FOLDER, path="")]
SYNC_ROOT = sync(FOLDER)


def disk_after(model: Any, *records: Record) -> Disk:
    disk = Disk(model)
    for record in (*ROOT, *records):
        disk.apply(record)
    return disk


def images(disk: Disk) -> list[dict[str, bytes]]:
    """All images of a disk on which little is pending, each once."""
    pending = disk.pending()
    found: dict[int, Image] = {}
    for kept in product([True, False], repeat=len(pending)):
        orders = {change.order for change, keep in zip(pending, kept, strict=True) if keep}
        image = left_by(disk, lambda change, orders=orders: change.order in orders)  # type: ignore[misc]
        found[image.name] = image
    return [_contents(image) for image in found.values()]


def _contents(image: Image) -> dict[str, bytes]:
    return {path: content.ljust(size, b"\0") for path, content, size in image.files}


def everything(change: Change) -> bool:
    return True


def nothing(change: Change) -> bool:
    return False


def test_what_was_synced_with_its_name_is_in_every_image() -> None:
    disk = disk_after("posix", *made(), write(b"abc"), sync(), SYNC_ROOT)
    assert images(disk) == [{"a": b"abc"}]


def test_in_posix_a_synced_file_may_lose_its_name_until_the_directory_is_synced() -> None:
    records = (*made(), write(b"abc"), sync())
    assert {} in images(disk_after("posix", *records))
    assert images(disk_after("ext4", *records)) == [{"a": b"abc"}]


def test_each_sector_of_an_unsynced_write_is_there_or_not() -> None:
    old, new = b"o" * 1536, b"n" * 1536
    disk = disk_after("posix", *made(), write(old), sync(), SYNC_ROOT, write(new))
    expected = {b"".join(parts) for parts in product([b"o" * 512, b"n" * 512], repeat=3)}
    assert {image["a"] for image in images(disk)} == expected


def test_a_later_version_of_a_sector_is_never_there_without_the_earlier_one() -> None:
    disk = disk_after("posix", *made(), write(b"...."), sync(), SYNC_ROOT, write(b"1"), write(b"2", offset=1))
    assert {image["a"] for image in images(disk)} == {b"....", b"1...", b"12.."}


def test_in_posix_names_change_in_any_order_and_in_ext4_in_theirs() -> None:
    records = (*made("a", 1), *made("b", 2))
    assert {"b": b""} in images(disk_after("posix", *records))
    assert {"b": b""} not in images(disk_after("ext4", *records))
    assert {"a": b""} in images(disk_after("ext4", *records))


def test_a_rename_happens_or_does_not() -> None:
    rename = done(Op.RENAME, path="a", new_path="b")
    disk = disk_after("posix", *made(), write(b"x"), sync(), SYNC_ROOT, rename)
    assert sorted(images(disk), key=str) == [{"a": b"x"}, {"b": b"x"}]


def test_in_ext4_a_length_is_not_there_without_the_data_below_it() -> None:
    disk = disk_after("ext4", *made(), write(b"x" * 700))
    assert {image.get("a") for image in images(disk)} == {None, b"", b"x" * 700}
    assert b"\0" * 700 in {
        image.get("a") for image in images(disk_after("posix", *made(), write(b"x" * 700)))
    }


def test_in_ext4_a_data_sync_that_changes_no_length_commits_no_names() -> None:
    records = (*made(), write(b"abc"), sync(), *made("b", 2), write(b"xyz"), sync(flags=DATA_ONLY))
    disk = disk_after("ext4", *records)
    assert {"a": b"xyz"} in images(disk)
    assert {"a": b"xyz", "b": b""} in images(disk)


def test_a_write_through_a_synced_descriptor_is_durable_at_once() -> None:
    disk = disk_after("posix", *made(), write(b"...."), sync(), SYNC_ROOT, write(b"meta", flags=SYNCED))
    assert images(disk) == [{"a": b"meta"}]


@pytest.mark.parametrize("model", ["posix", "ext4"])
def test_what_a_failed_sync_lost_is_not_there_after_the_next_sync(model: str) -> None:
    begin = (*made(), write(b"old"), sync(), SYNC_ROOT, write(b"new"), sync(error=errno.EIO), sync())
    assert {image["a"] for image in images(disk_after(model, *begin))} == {b"old", b"new"}
    again = (*begin, write(b"3rd"), sync())
    assert images(disk_after(model, *again)) == [{"a": b"3rd"}]


def test_calls_that_failed_change_nothing() -> None:
    failed = done(Op.UNLINK, path="a", error=errno.EIO)
    disk = disk_after("posix", *made(), sync(), SYNC_ROOT, failed)
    assert not disk.changes(failed)
    assert left_by(disk, everything).files == left_by(disk, nothing).files == [("a", b"", 0)]


def test_a_directory_that_was_not_synced_into_its_parent_is_lost_with_all_it_holds() -> None:
    folder = done(Op.MKDIR, path="d", inode=33)
    disk = disk_after("posix", folder, *made("d/a"), write(b"x"), sync(), sync(33))
    assert left_by(disk, nothing).folders == []
    assert left_by(disk, nothing).files == []
    assert left_by(disk, everything).files == [("d/a", b"x", 1)]


def test_a_file_that_shrinks_and_grows_again_holds_zeros_where_it_was_cut() -> None:
    shrink, grow = done(Op.TRUNCATE, inode=FILE, length=1), done(Op.TRUNCATE, inode=FILE, length=3)
    disk = disk_after("posix", *made(), write(b"abc"), sync(), SYNC_ROOT, shrink, grow)
    assert {image["a"] for image in images(disk)} == {b"abc", b"a", b"a\0\0"}


def test_what_another_process_made_is_not_there_when_it_is_removed() -> None:
    folder = done(Op.MKDIR, path="d", inode=33)
    gone = [done(Op.UNLINK, path="d/made by another"), done(Op.RMDIR, path="d")]
    disk = disk_after("posix", *made(), write(b"x"), sync(), SYNC_ROOT, folder, *gone)
    assert {tuple(image) for image in images(disk)} == {("a",)}
