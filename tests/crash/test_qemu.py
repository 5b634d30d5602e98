"""Power cuts of a virtual machine's disk: its files, its command and its log; all of it in a thorough run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest

from raftstore.testing.crash import qemu_guest, qemu_initramfs
from raftstore.testing.crash.block_record import BlockWrite
from raftstore.testing.crash.events import Event, Kind
from raftstore.testing.crash.methods import USUAL
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.qemu import WAYS
from raftstore.testing.crash.qemu_guest import Device, message
from raftstore.testing.crash.qemu_initramfs import NEEDED, Kernel, archive, kernels, module_files
from raftstore.testing.crash.qemu_log import (
    DISCARD,
    ENTRY,
    FLUSH,
    FUA,
    MAGIC,
    MARK,
    SUPER,
    VERSION,
    LogError,
    mark_of,
    read_log,
)
from raftstore.testing.crash.qemu_machine import Job, Machine, MachineError, command_line, lacking, start
from raftstore.testing.crash.report import Report
from raftstore.testing.tools import eventually

SECTOR: Final = 512


def entry(sector: int, flags: int, data: bytes = b"", sectors: int | None = None) -> bytes:
    """One of the log; a mark has its data in the first sector."""
    length = len(data) // SECTOR if sectors is None else sectors
    if flags & MARK:
        return (ENTRY.pack(0, 0, flags, len(data)) + data).ljust(SECTOR, b"\0")
    return ENTRY.pack(sector, length, flags, 0).ljust(SECTOR, b"\0") + data


def log(file: Path, *entries: bytes, count: int | None = None) -> Path:
    head = SUPER.pack(MAGIC, VERSION, len(entries) if count is None else count, SECTOR).ljust(SECTOR, b"\0")
    file.write_bytes(head + b"".join(entries))
    return file


def told(kind: Kind, step: int, value: int = 0) -> bytes:
    return entry(0, MARK, mark_of(kind, step, value).encode())


def test_a_log_says_what_was_durable_and_told_at_each_write(tmp_path: Path) -> None:
    first, second, third = (bytes([n]) * SECTOR * n for n in (1, 2, 3))
    events, writes = read_log(
        log(
            tmp_path / "log",
            told(Kind.STARTED, 1),
            entry(8, 0, first),
            entry(0, FLUSH),
            told(Kind.RETURNED, 1),
            told(Kind.WATERMARK, 1, 7),
            entry(16, FLUSH | FUA, second),
            entry(24, FUA, third),
            entry(0, MARK, b"dm-log-writes-end"),
        )
    )
    assert events == [Event(Kind.STARTED, 1), Event(Kind.RETURNED, 1), Event(Kind.WATERMARK, 1, 7)]
    assert writes == [
        BlockWrite(1, 8 * SECTOR, first),
        BlockWrite(1, 0, b""),
        BlockWrite(3, 0, b""),
        BlockWrite(3, 16 * SECTOR, second),
        BlockWrite(3, 0, b""),
        BlockWrite(3, 24 * SECTOR, third),
        BlockWrite(3, 0, b""),
    ]


def test_what_is_discarded_has_no_data_in_the_log(tmp_path: Path) -> None:
    data = b"x" * SECTOR
    _, writes = read_log(log(tmp_path / "log", entry(0, DISCARD, sectors=100), entry(1, 0, data)))
    assert writes == [BlockWrite(0, SECTOR, data)]


@pytest.mark.parametrize(
    ("entries", "count", "words"),
    [
        ([], 1, "ends at entry 0 of 1"),
        ([entry(1, 0, b"x" * SECTOR)], 2, "ends at entry 1 of 2"),
        ([entry(1, 0, b"x" * SECTOR, sectors=2)], 1, "ends in entry 0 of 1"),
    ],
)
def test_a_log_that_is_cut_short_is_refused(
    tmp_path: Path, entries: list[bytes], count: int, words: str
) -> None:
    with pytest.raises(LogError, match=words):
        read_log(log(tmp_path / "log", *entries, count=count))


@pytest.mark.parametrize("content", [b"", bytes(SECTOR), b"another file"])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(LogError):
        read_log(tmp_path / "log")


def test_a_mark_is_one_word_for_the_kernel_counts_them() -> None:
    assert not set(mark_of(Kind.WATERMARK, 12, 34)) & set(" \\")


def test_a_message_names_its_device_and_ends_with_a_zero_byte() -> None:
    request = message("device", "mark word")
    assert int.from_bytes(request[12:16], "little") == len(request)
    start_of_data = int.from_bytes(request[16:20], "little")
    assert start_of_data == 312
    assert request[48 : 48 + 7] == b"device\0"
    assert request[start_of_data + 8 :] == b"mark word\0"


def test_a_device_is_told_to_lose_its_writes_without_a_flush_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush would put on the disk what a power cut would not."""
    said: list[tuple[str, ...]] = []

    def say(*words: str) -> None:
        said.append(words)

    def sectors_of(_disk: str) -> int:
        return 64

    monkeypatch.setattr(qemu_guest, "command", say)
    monkeypatch.setattr(qemu_guest, "sectors_of", sectors_of)
    device = Device("device", "vda", None)
    device.lose("drop_writes")
    device.remove()
    assert said == [
        ("dmsetup", "create", "device", "--table", "0 64 linear /dev/vda 0"),
        ("dmsetup", "suspend", "--noflush", "--nolockfs", "device"),
        ("dmsetup", "load", "device", "--table", "0 64 flakey /dev/vda 0 0 1000000 1 drop_writes"),
        ("dmsetup", "resume", "device"),
        ("dmsetup", "remove", "device"),
    ]


def test_every_way_to_lose_writes_has_its_workload_in_a_session_and_bugs_are_planted_over_a_log() -> None:
    assert set(WAYS) == {"log", "drop_writes", "error_writes"}
    assert WAYS[0] == "log"


def test_modules_are_loaded_after_those_that_they_need(tmp_path: Path) -> None:
    lines = [f"kernel/{name}.ko.xz:" for name in NEEDED if name != "9p"]
    lines += ["kernel/9p.ko.xz: kernel/b.ko.xz kernel/a.ko.xz", "kernel/b.ko.xz: kernel/a.ko.xz"]
    (tmp_path / "modules.dep").write_text("\n".join([*lines, "kernel/a.ko.xz:", "kernel/unused.ko.xz:"]))
    names = [file.name.partition(".")[0] for file in module_files(tmp_path)]
    assert names.index("a") < names.index("b") < names.index("9p")
    assert sorted(names) == sorted([*NEEDED, "a", "b"])


def test_a_kernel_without_its_modules_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_initramfs, "BOOT", tmp_path)
    monkeypatch.setattr(qemu_initramfs, "MODULES", tmp_path)
    (tmp_path / "vmlinuz-1").touch()
    assert kernels() == []
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "modules.dep").write_text("".join(f"{name}.ko:\n" for name in NEEDED))
    assert kernels() == []
    for name in NEEDED:
        (tmp_path / "1" / f"{name}.ko").touch()
    assert kernels() == [Kernel(tmp_path / "vmlinuz-1", tmp_path / "1")]


def unpacked(data: bytes) -> dict[str, bytes]:
    """The entries of an archive in cpio's format `newc`."""
    at, found = 0, dict[str, bytes]()
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length].rstrip(b"\0").decode()
        body = at + 110 + length + -(110 + length) % 4
        found[name] = data[body : body + size]
        at = body + size + -size % 4
    return found


def test_an_archive_holds_its_directories_and_files() -> None:
    files = {"init": b"#!/bin/sh\n", "bin/some": bytes(range(256)) * 33, "empty": b""}
    assert unpacked(archive(["bin"], files)) == {"bin": b"", **files, "TRAILER!!!": b""}


def test_the_machine_cannot_write_to_the_files_of_the_host() -> None:
    line = command_line(Path("/k"), Path("/i"), Path("/a,b/shared"), [("job0-log", Path("/a,b/log"))])
    exports = [line[n + 1] for n, word in enumerate(line) if word == "-fsdev"]
    assert [("readonly=on" in export) for export in exports if ",path=/," in export] == [True]
    assert [export for export in exports if "readonly=on" not in export] == [
        "local,id=shared,path=/a,,b/shared,security_model=none"
    ]
    assert "if=none,id=job0-log,format=raw,cache=unsafe,file=/a,,b/log" in line


def test_the_machine_runs_this_python_with_these_packages() -> None:
    script = start()
    assert sys.executable in script
    assert all(part in script for part in sys.path if part)


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is told that first")
def test_without_the_programs_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing: list[str] = []
    for name in ("", "qemu-system-x86_64", "setpriv", "busybox", "dmsetup"):
        if name:
            (tmp_path / name).touch(mode=0o700)
        monkeypatch.setenv("PATH", str(tmp_path))
        missing.append(str(lacking()))
    installs = ("qemu-system-x86", "util-linux", "busybox-static", "dmsetup")
    assert [words.rpartition(" ")[2] for words in missing[:4]] == list(installs)


def test_a_run_that_is_no_soak_leaves_the_machine_out() -> None:
    assert "qemu" not in USUAL


def no_files(_kernel: Kernel, _busybox: Path) -> bytes:
    return b""


def test_a_machine_that_does_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "setpriv").write_text("#!/bin/sh\necho it does not boot\n")
    (tmp_path / "setpriv").chmod(0o700)
    (tmp_path / "busybox").touch(mode=0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("raftstore.testing.crash.qemu_machine.kernels", lambda: [Kernel(tmp_path, tmp_path)])
    monkeypatch.setattr("raftstore.testing.crash.qemu_machine.initramfs", no_files)
    (tmp_path / "empty").touch()
    job = Job(name="job0", plan=Plan(backend="segmented", seed=1), file_system="ext4")
    with Machine(tmp_path / "machine", tmp_path / "empty", [job]) as machine:
        with pytest.raises(MachineError, match="it does not boot"):
            machine.run()
        assert machine.log(job).exists()
    assert not (tmp_path / "machine").exists()


SESSION = """
import sys
from pathlib import Path
from raftstore.testing.crash import qemu_machine
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.qemu_initramfs import Kernel

place = Path(sys.argv[1])
qemu_machine.kernels = lambda: [Kernel(place, place)]
qemu_machine.initramfs = lambda *_: b""
qemu_machine.busybox = lambda: place
job = qemu_machine.Job(name="job0", plan=Plan(backend="segmented", seed=1), file_system="ext4")
with qemu_machine.Machine(place / "machine", place / "empty", [job]) as machine:
    machine.run()
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv: install util-linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_process_no_machine_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    stand_in, started = tmp_path / "qemu-system-x86_64", tmp_path / "started"
    stand_in.write_text(f"#!/bin/sh\necho $$ >{started}.new\nmv {started}.new {started}\nexec sleep 1000\n")
    stand_in.chmod(0o700)
    (tmp_path / "empty").touch()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", SESSION, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        eventually(started.exists, "the machine was started")
        process.send_signal(number)
        process.wait(600)
    machine = Path("/proc", started.read_text().strip())
    eventually(lambda: not machine.exists(), "it ended")
    if number != signal.SIGKILL:
        assert not (tmp_path / "machine").exists()


# --- with the programs -------------------------------------------------------------------------------------


@pytest.mark.backend("segmented")
@pytest.mark.skipif(lacking() is not None, reason=f"needs {lacking()}")
@pytest.mark.skipif(
    os.environ.get("RAFTSTORE_TEST_PROFILE") != "thorough",
    reason="takes minutes: RAFTSTORE_TEST_PROFILE=thorough",
)
def test_power_cuts_of_the_machine_lose_nothing_and_planted_bugs_are_caught() -> None:
    line = [sys.executable, "-m", "raftstore.testing.crash", "--backend", "segmented", "--method", "qemu"]
    line += ["--lanes", "1", "--seed", "3", "--seconds", "1", "--json"]
    done = subprocess.run(line, capture_output=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = msgspec.json.decode(done.stdout, type=Report).outcomes
    if missing := [note for note in outcome.tally.notes if note.startswith("qemu: needs")]:
        pytest.skip(missing[0])
    assert outcome.tally.done["sessions of a virtual machine"] > 0
    assert outcome.tally.planted
    assert outcome.unique > 0
