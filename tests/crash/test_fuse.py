"""The FUSE file system of the crash tests: its faults are as on a real disk, and it never stays mounted."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from raftstore.testing.crash import fuse, fuse_full
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_mount import is_mounted
from raftstore.testing.crash.events import ALLOCATE, OPEN, RENAME, SYNC, UNLINK, WRITE
from raftstore.testing.crash.fuse_diary import FILLER, FuseFault, Order
from raftstore.testing.crash.fuse_disk import FaultyDisk
from raftstore.testing.crash.fuse_fs import FaultFs
from raftstore.testing.crash.fuse_mount import CannotMountError, Mount, check_can_mount
from raftstore.testing.crash.image import left_by
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import PLANTS
from raftstore.testing.crash.powercut import Explorer
from raftstore.testing.crash.record import Op, Record

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("segmented", "lmdb", "rocksdb")]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
segmented = pytest.mark.backend("segmented")


# --- the file system, without a mount --------------------------------------------------------------------


class Driven:
    """A `FaultFs` in a run, called as the library does."""

    def __init__(self, events: Path, fault: FuseFault | None = None) -> None:
        events.write_bytes(b"")
        self.files = FaultFs()
        self.files.begin(Order("run", str(events), fault))
        self.handle = self.files.create("/run/file", 0o600, 0)

    def write(self, data: bytes, offset: int = 0) -> int:
        return self.files.write("", data, offset, self.handle)

    def sync(self) -> None:
        self.files.fsync("", 1, self.handle)

    def content(self) -> bytes:
        return self.files.read("", 1 << 20, 0, self.handle)

    def after_power_cut(self) -> dict[str, bytes]:
        """What is left if all is lost that was not synced. Names are synced before."""
        self.files.fsyncdir("", 0, self.files.opendir("/run"))
        return left_of(self.files.end(), False)


def left_of(records: list[Record], kept: bool) -> dict[str, bytes]:
    disk = FaultyDisk("posix")
    for record in records:
        if record.op is not Op.EVENT:
            disk.apply(record)
    image = left_by(disk, lambda change: kept)
    return {path: content.ljust(size, b"\0") for path, content, size in image.files}


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
def drive(events: Path) -> Iterator[Callable[..., Driven]]:
    """Begins runs, and ends them with the test."""
    begun: list[Driven] = []

    def begin(fault: FuseFault | None = None) -> Driven:
        begun.append(Driven(events, fault))
        return begun[-1]

    yield begin
    for driven in begun:
        driven.files.end()


def test_a_sync_that_drops_its_pages_shows_the_new_and_leaves_the_old(drive: Callable[..., Driven]) -> None:
    driven = drive(FuseFault(SYNC, 2, "drop"))
    driven.write(b"old")
    driven.sync()
    driven.write(b"new")
    with pytest.raises(OSError, match="Input/output error"):
        driven.sync()
    driven.sync()
    assert driven.content() == b"new"
    assert driven.after_power_cut() == {"file": b"old"}


def test_a_sync_that_keeps_its_pages_leaves_them_to_the_next(drive: Callable[..., Driven]) -> None:
    driven = drive(FuseFault(SYNC, 1, "fail"))
    driven.write(b"new")
    with pytest.raises(OSError, match="Input/output error"):
        driven.sync()
    driven.sync()
    assert driven.after_power_cut() == {"file": b"new"}


def test_a_short_write_does_half_and_says_so(drive: Callable[..., Driven]) -> None:
    driven = drive(FuseFault(WRITE, 1, "short"))
    assert driven.write(b"12345678") == 4
    assert driven.write(b"5678", 4) == 4
    driven.sync()
    assert driven.after_power_cut() == {"file": b"12345678"}


def test_a_sticky_fault_lasts_and_another_passes(drive: Callable[..., Driven]) -> None:
    for sticky in (True, False):
        driven = drive(FuseFault(WRITE, 2, "fail", errno.EIO, sticky))
        driven.write(b"a")
        with pytest.raises(OSError, match="Input/output error"):
            driven.write(b"b", 1)
        if sticky:
            with pytest.raises(OSError, match="Input/output error"):
                driven.write(b"c", 1)
        else:
            driven.write(b"c", 1)
        assert driven.content() == (b"a" if sticky else b"ac")


def test_a_full_disk_takes_what_fits_and_everything_once_there_is_room(drive: Callable[..., Driven]) -> None:
    driven = drive(FuseFault(0, 2, "full"))
    assert driven.write(b"x" * 10_000) == 8192
    with pytest.raises(OSError, match="No space left"):
        driven.write(b"x", 8192)
    assert driven.write(b"over", 0) == 4
    assert driven.files.statfs("/")["f_bavail"] == 0
    driven.files.unlink(f"/run/{FILLER}")
    assert driven.write(b"x" * 10_000, 8192) == 10_000


def test_what_is_removed_on_a_full_disk_makes_room(drive: Callable[..., Driven]) -> None:
    driven = drive(FuseFault(0, 1, "full"))
    driven.write(b"x")
    other = driven.files.create("/run/other", 0o600, 0)
    with pytest.raises(OSError, match="No space left"):
        driven.files.fallocate("", 0, 0, 1, other)
    driven.files.unlink("/run/file")
    driven.files.release("", driven.handle)
    driven.files.fallocate("", 0, 0, 1, other)


@pytest.mark.parametrize("kind", [OPEN, RENAME, UNLINK, ALLOCATE])
def test_a_call_that_fails_changes_nothing(drive: Callable[..., Driven], kind: int) -> None:
    driven = drive(FuseFault(kind, 2 if kind == OPEN else 1, "fail"))
    calls: dict[int, Callable[[], object]] = {
        OPEN: lambda: driven.files.create("/run/new", 0o600, 0),
        RENAME: lambda: driven.files.rename("/run/file", "/run/new"),
        UNLINK: lambda: driven.files.unlink("/run/file"),
        ALLOCATE: lambda: driven.files.fallocate("", 0, 0, 9, driven.handle),
    }
    with pytest.raises(OSError, match="Input/output error"):
        calls[kind]()
    assert left_of(driven.files.end(), True) == {"file": b""}


def test_replacing_a_file_that_is_open_is_one_step(drive: Callable[..., Driven]) -> None:
    driven = drive()
    driven.files.create("/run/new", 0o600, 0)
    driven.files.rename("/run/file", "/run/.fuse_hidden1")
    driven.files.rename("/run/new", "/run/file")
    names = [record.op for record in driven.files.end()]
    assert names[-1] is Op.RENAME
    assert Op.UNLINK not in names


def test_removing_a_file_that_is_open_is_recorded_as_that(drive: Callable[..., Driven]) -> None:
    driven = drive()
    driven.files.rename("/run/file", "/run/.fuse_hidden1")
    assert [name for name, _, _ in driven.files.readdir("", driven.files.opendir("/run"))] == [".", ".."]
    assert driven.files.end()[-1].op is Op.UNLINK


# --- mounted ---------------------------------------------------------------------------------------------


@pytest.fixture
def mount(private_tmp: Path) -> Iterator[Mount]:
    try:
        with Mount() as mount:
            yield mount
    except CannotMountError as error:
        pytest.skip(str(error))


def assert_nothing_wrong(bench: Bench) -> None:
    tally = bench.tally
    assert not tally.failures, "\n".join(f"{f.verdict}: {f.where}: {f.words}" for f in tally.failures)
    assert tally.total(Verdict.OK) > 0


@every_backend
@pytest.mark.parametrize("strategy", ["DiskFirst", "MemFirst"])
def test_a_call_that_fails_on_a_mounted_disk_loses_nothing(
    mount: Mount, plain_bench: Bench, backend: str, strategy: str
) -> None:
    plan = Plan(backend=backend, seed=3, steps=8, strategy=strategy, mix="plain")  # type: ignore[arg-type]
    faults = fuse.Faults(
        plain_bench, mount, Explorer(plain_bench.lab, plain_bench.checker, plain_bench.tally), images_max=2
    )
    assert faults.fail_at(plan, "sync EIO, pages dropped", 17, sticky=False)
    assert faults.fail_at(plan, "write short", 17, sticky=True)
    assert not faults.fail_at(plan, "write EIO", 10_000, sticky=False)
    assert_nothing_wrong(plain_bench)


@every_backend
def test_a_log_lives_on_its_reserve_and_goes_on_when_there_is_room(
    mount: Mount, plain_bench: Bench, backend: str
) -> None:
    plan = Plan(backend=backend, seed=5, strategy="DiskFirst", mix="plain")
    blocks = {"segmented": 60, "lmdb": 160, "rocksdb": 360}[backend]
    assert fuse_full.fill(plain_bench, mount, plan, blocks, looks_max=4)
    assert_nothing_wrong(plain_bench)


@segmented
def test_syncs_that_are_tried_again_are_found_out(mount: Mount, plain_bench: Bench) -> None:
    plant = next(plant for plant in PLANTS if plant.name == "fsync retried")
    explorer = Explorer(plain_bench.lab, plain_bench.checker, plain_bench.tally)
    round_ = Round(plain_bench, explorer, "segmented", 1, 0, plant)
    plan = round_.plan(plain=True)
    faults = fuse.Faults(plain_bench, mount, explorer)
    plain_bench.checker.renew()
    signs = False
    for number in [*range(15, 60, 5), *range(5, 90)]:  # Which syncs matter depends on the background's.
        if not signs:
            faults.fail_at(plan, "sync EIO, pages dropped", number, sticky=False)
            found = plain_bench.tally.failures
            signs = any(plant.is_shown_by(failure.verdict, failure.words) for failure in found)
    plain_bench.checker.renew()
    assert signs


def test_in_the_page_cache_is_what_a_failed_sync_lost(mount: Mount, events: Path) -> None:
    arena = mount.begin(events, FuseFault(SYNC, 2, "drop"))
    events.touch()
    fd = os.open(arena / "file", os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, b"old", 0)
    os.fsync(fd)
    os.pwrite(fd, b"new", 0)
    with pytest.raises(OSError, match="Input/output error"):
        os.fsync(fd)
    os.fsync(fd)
    assert os.pread(fd, 9, 0) == b"new"
    os.close(fd)
    directory = os.open(arena, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    assert left_of(mount.end(), False) == {"file": b"old"}


def test_a_file_system_that_dies_lets_nobody_hang_and_leaves_no_mount(mount: Mount, events: Path) -> None:
    arena = mount.begin(events, None)
    fd = os.open(arena / "file", os.O_RDWR | os.O_CREAT, 0o600)
    mount.abort()
    with pytest.raises(OSError, match=r"not connected|connection abort|Input/output"):
        os.pwrite(fd, b"x", 0)
    with suppress(OSError):
        os.close(fd)
    until = time.monotonic() + 120
    while is_mounted(arena.parent) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_mounted(arena.parent)


def test_a_server_that_does_not_end_in_time_is_killed_and_leaves_neither_mount_nor_directory(
    private_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had mounted is not connected until somebody unmounts it: who looks there sees no mount."""
    monkeypatch.setattr("raftstore.testing.crash.fuse_mount.END_S", 0.1)
    try:
        with Mount() as mount:
            for pid in unmounters_of(mount._place):
                os.kill(pid, signal.SIGKILL)
            mount._server.send_signal(signal.SIGSTOP)
    except CannotMountError as error:
        pytest.skip(str(error))
    left = mounts_below(private_tmp)
    subprocess.run(["fusermount3", "-u", "-z", "-q", str(mount._place)], check=False)
    assert not left
    assert not mount._place.exists()


def unmounters_of(place: Path) -> list[int]:
    """The processes of `fusermount3` that would unmount it once the server is dead."""
    found: list[int] = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if os.fsencode(place) in words and words[0].endswith(b"fusermount3"):
                found.append(int(file.parent.name))
    return found


def test_a_process_that_is_killed_leaves_neither_mount_nor_directory(mount: Mount, tmp_path: Path) -> None:
    script = (
        "import tempfile, time\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "from raftstore.testing.crash.fuse_mount import Mount\n"
        "with Mount() as mount:\n"
        "    print('mounted', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mounted\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 120
    while (mounts_below(tmp_path) or any(tmp_path.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not mounts_below(tmp_path)
    assert not any(tmp_path.iterdir())


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {path}/" in line]


def test_without_fuse_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("raftstore.testing.crash.fuse_mount.DEVICE", tmp_path / "fuse")
    with pytest.raises(CannotMountError, match=r"mfusepy|fuse3|is not there"):
        check_can_mount()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotMountError, match=r"mfusepy|apt-get install fuse3"):
        check_can_mount()


def test_every_piece_of_the_sweep_comes_up_once() -> None:
    numbers = {number * fuse.STRIDE % len(fuse.PIECES) for number in range(len(fuse.PIECES))}
    assert len(numbers) == len(fuse.PIECES)
