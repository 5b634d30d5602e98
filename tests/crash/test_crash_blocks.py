"""Disks as blocks: what is durable on them, what a power cut may leave, and temporary directories."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest

from raftstore.testing.crash import block_mount, kernel
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_disk import SECTOR, BlockDisk, Sectors
from raftstore.testing.crash.block_record import FLUSH, HEAD, WRITE, BlockWrite, read_record
from raftstore.testing.crash.scratch import Scratch

FLUSHED = BlockWrite(0, 0, b"")
SECTORS = 64


def sector(letter: str) -> bytes:
    return letter.encode() * SECTOR


def written(first: int, letters: str) -> BlockWrite:
    """A write of a sector for each letter; a dot is a sector of zeros."""
    return BlockWrite(0, first * SECTOR, b"".join(map(sector, letters)).replace(b".", b"\0"))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The file of a disk with nothing but its first sector."""
    image = tmp_path / "empty"
    image.write_bytes(sector("a") + bytes((SECTORS - 1) * SECTOR))
    return image


def content(disk: BlockDisk, kept: Sectors, tmp_path: Path) -> str:
    """The sectors of what is left, a letter each."""
    file = tmp_path / "left"
    disk.left_by(kept).write(file)
    data = file.read_bytes()
    assert len(data) == SECTORS * SECTOR
    letters = [chr(data[at]) for at in range(0, len(data), SECTOR)]
    assert data == b"".join(map(sector, letters))
    return "".join(letters).replace("\0", ".").rstrip(".")


def test_what_was_flushed_is_always_there_and_nothing_else_must_be(empty: Path, tmp_path: Path) -> None:
    disk = BlockDisk(empty)
    for write in (written(1, "bc"), written(2, "d"), FLUSHED, written(0, "xy"), written(9, "z")):
        disk.apply(write)
    assert content(disk, {}, tmp_path) == "abd"
    assert content(disk, {1: sector("y")}, tmp_path) == "ayd"


def test_zeros_can_be_written_over_what_was_there(empty: Path, tmp_path: Path) -> None:
    disk = BlockDisk(empty)
    for write in (written(1, "bcd"), FLUSHED, written(1, ".."), FLUSHED):
        disk.apply(write)
    assert content(disk, {}, tmp_path) == "a..d"


def test_every_way_keeps_only_sectors_that_were_written(empty: Path, tmp_path: Path) -> None:
    disk = BlockDisk(empty)
    for write in (written(4, "bcde"), written(6, "fgh"), written(20, "i")):
        disk.apply(write)
    seen = {content(disk, kept, tmp_path) for n in range(60) for kept in disk.choices(Random(n), 8)}
    assert {"a", "a...bcfgh...........i"} <= seen
    assert len(seen) > 15
    allowed = {4: "b", 5: "c", 6: "df", 7: "eg", 8: "h", 20: "i"}
    for letters in seen:
        assert all(letter == "." or letter in allowed[n] for n, letter in enumerate(letters) if n)


def test_a_superblock_of_ext4_arrives_whole_or_not_at_all(empty: Path) -> None:
    old, new = (b"\0" * 56 + b"\x53\xef" + letter * (2 * SECTOR - 58) for letter in (b"o", b"n"))
    journal = bytes.fromhex("c03b399800000004") + b"j" * (2 * SECTOR - 8)
    disk = BlockDisk(empty)
    for data, first in ((old, 2), (journal, 16), (b"data" * 2 * SECTOR, 32), (new, 2)):
        disk.apply(BlockWrite(0, first * SECTOR, data))
    ways = [kept for n in range(200) for kept in disk.choices(Random(n), 8)]
    for kept in ways:
        assert kept.get(2, b"") + kept.get(3, b"") in (b"", old, new)
        assert kept.get(16, b"") + kept.get(17, b"") in (b"", journal)
    assert any(0 < sum(32 <= number < 48 for number in kept) < 16 for kept in ways)
    assert any(kept.get(2) == old[:SECTOR] for kept in ways)


def test_equal_disks_have_equal_names_whatever_led_to_them(empty: Path) -> None:
    one, other = BlockDisk(empty), BlockDisk(empty)
    for write in (written(1, "bc"), FLUSHED, written(1, "."), FLUSHED):
        one.apply(write)
    other.apply(written(2, "c"))
    assert one.left_by({}).name == other.left_by({2: sector("c")}).name
    assert one.left_by({}).name != other.left_by({}).name
    assert one.left_by({1: sector("x")}).name != one.left_by({2: sector("x")}).name


def test_a_record_that_is_cut_short_ends_with_its_last_whole_write(tmp_path: Path) -> None:
    data = HEAD.pack(WRITE, 3, 512, SECTOR) + sector("b") + HEAD.pack(FLUSH, 4, 0, 0)
    file = tmp_path / "record"
    file.write_bytes(data + HEAD.pack(WRITE, 5, 0, SECTOR) + b"half")
    assert read_record(file) == [BlockWrite(3, 512, sector("b")), BlockWrite(4, 0, b"")]


def test_what_a_dead_process_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    foreign = tmp_path / "scratch-foreign"
    foreign.mkdir()
    with Scratch("scratch-", tmp_path) as held:
        (held / "file").touch()
        abandoned = tmp_path / "scratch-abandoned"
        abandoned.mkdir()
        (abandoned / ".lock").touch()
        with Scratch("scratch-", tmp_path):
            assert (held / "file").exists()
            assert not abandoned.exists()
    assert list(tmp_path.iterdir()) == [foreign]


def remove_files(directory: Path, **_: object) -> None:
    """As `rmtree` does where each directory has something mounted."""
    for file in [file for file in directory.rglob("*") if file.is_file()]:
        file.unlink()


def test_what_could_not_be_removed_stays_locked_for_the_next_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch, Scratch("scratch-", tmp_path) as directory:
        (directory / "busy").mkdir()
        patch.setattr(shutil, "rmtree", remove_files)
    assert directory.exists()
    with Scratch("scratch-", tmp_path):
        assert not directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root can mount, but not in this process")
def test_nothing_is_mounted_by_a_process_whose_mounts_others_see(plain_bench: Bench) -> None:
    assert "mounts of its own" in (kernel.needs(plain_bench) or "")


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_of_the_look_whether_one_can_mount_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, private_tmp: Path, at: int
) -> None:
    """While the image is written, and while it is removed."""
    unlink, comes = os.unlink, [at]

    def interrupt(when: int) -> None:
        if comes == [when]:
            comes.clear()
            raise SystemExit

    def make(_kind: str, image: Path) -> None:
        image.write_bytes(b"x")
        interrupt(1)

    def remove(name: str, *, dir_fd: int | None = None) -> None:
        interrupt(2)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(block_mount, "_check_private", lambda: None)
    monkeypatch.setattr(block_mount, "make", make)
    monkeypatch.setattr(block_mount, "mounted", lambda *_: nullcontext())
    monkeypatch.setattr(os, "unlink", remove)
    with pytest.raises(SystemExit):
        block_mount.lacking.__wrapped__("ext4")
    assert not list(private_tmp.iterdir())


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(block_mount.CannotMountError, match="needs root"):
        block_mount.enter_private_mounts()
