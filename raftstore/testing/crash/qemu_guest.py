"""What runs in the virtual machine: `python -m raftstore.testing.crash.qemu_guest DIRECTORY`.

It does the jobs of the file `jobs` in DIRECTORY, each on a file system of its own. Below that dm-log-writes
logs what is written, and every event of the driven process is a mark in the log; or from some instant on
dm-flakey drops every write, or fails it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Final, NoReturn

import msgspec

from raftstore.testing.crash.driver import drive
from raftstore.testing.crash.events import RECORD, Kind, Reporter, explanation_of
from raftstore.testing.crash.lab import STORE
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plants import plant
from raftstore.testing.crash.qemu_log import mark_of
from raftstore.testing.crash.qemu_machine import Done, Job

SCRATCH: Final = Path("/run/tmp")
MAPPER: Final = Path("/dev/mapper")
POLL_S: Final = 0.002
FOR_EVER_S: Final = 1_000_000
_MESSAGE: Final = 0xC138FD0E
"""The ioctl DM_TARGET_MSG."""
_REQUEST: Final = Struct("<3I2I2i3IQ128s129s7xQ")
"""A `struct dm_ioctl`, and the sector of a `struct dm_target_msg`; the words follow."""
_HEAD_BYTES: Final = _REQUEST.size - 8
_VERSION: Final = (4, 0, 0)
_OPTIONS: Final = {"ext4": "noatime", "xfs": "noatime,nouuid"}


class MarkingReporter(Reporter):
    """Tells events to a file, and to the log of a device."""

    def __init__(self, path: Path, device: str) -> None:
        super().__init__(path)
        self._device = device
        self._control = os.open(MAPPER / "control", os.O_RDWR | os.O_CLOEXEC)

    def tell(self, kind: Kind, step: int, value: int = 0) -> None:
        fcntl.ioctl(self._control, _MESSAGE, message(self._device, f"mark {mark_of(kind, step, value)}"))
        super().tell(kind, step, value)


def message(device: str, words: str) -> bytearray:
    """What the ioctl takes: `words` for the first target of the device `device`."""
    data = words.encode() + b"\0"
    size = _REQUEST.size + len(data)
    head = _REQUEST.pack(*_VERSION, size, _HEAD_BYTES, 0, 0, 0, 0, 0, 0, device.encode(), b"", 0)
    return bytearray(head + data)


def main() -> None:
    """Do all jobs."""
    shared = Path(sys.argv[1])
    disks = {serial.read_text().strip(): serial.parent.name for serial in Path("/sys/block").glob("*/serial")}
    for job in msgspec.json.decode((shared / "jobs").read_bytes(), type=list[Job]):
        done = _do(job, disks[f"{job.name}-disk"], disks[f"{job.name}-log"])
        shutil.copyfile(SCRATCH / f"{job.name}-events", shared / f"{job.name}-events")
        (shared / f"{job.name}-done").write_bytes(msgspec.json.encode(done))


def _do(job: Job, disk: str, log: str) -> Done:
    place, events = SCRATCH / job.name, SCRATCH / f"{job.name}-events"
    place.mkdir()
    device = Device(f"raftstore-{job.name}", disk, log if job.way == "log" else None)
    options = _OPTIONS[job.file_system]
    command("mount", "-t", job.file_system, "-o", options, str(device.path), str(place))
    status, told = _drive(job, place / "arena" / STORE, events, device)
    command("umount", str(place))
    device.remove()
    words = explanation_of(events)
    return Done(status, words.read_text(errors="replace") if words.exists() else "", told)


class Device:
    """A device over the disk `disk`, which logs what is written if there is a disk `log` for that."""

    def __init__(self, name: str, disk: str, log: str | None) -> None:
        self.name = name
        self.path = MAPPER / name
        self._disk = disk
        self._sectors = sectors_of(disk)
        target = f"linear /dev/{disk} 0" if log is None else f"log-writes /dev/{disk} /dev/{log}"
        command("dmsetup", "create", name, "--table", f"0 {self._sectors} {target}")

    def lose(self, way: str) -> None:
        """From here on drop writes, or fail them."""
        table = f"0 {self._sectors} flakey /dev/{self._disk} 0 0 {FOR_EVER_S} 1 {way}"
        command("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        command("dmsetup", "load", self.name, "--table", table)
        command("dmsetup", "resume", self.name)

    def remove(self) -> None:
        """Nothing may be mounted from it."""
        command("dmsetup", "remove", self.name)


def _drive(job: Job, store: Path, events: Path, device: Device) -> tuple[int | None, int]:
    """How the driven process ended, and how many events it had told when writes began to be lost."""
    pid = os.fork()
    if pid == 0:
        _live(job, store, events, device)
    end, told = time.monotonic() + PATIENCE_S, None if job.way != "log" else 0
    ended = status = 0
    while not ended and time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        count = _told(events)
        if told is None and (ended or count >= job.cut_at):
            told = count
            device.lose(job.way)
        time.sleep(POLL_S)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None, told or 0


def _told(events: Path) -> int:
    return events.stat().st_size // RECORD.size if events.exists() else 0


def _live(job: Job, store: Path, events: Path, device: Device) -> NoReturn:
    """The whole life of a driven process."""
    try:
        if job.plan.plant is not None:
            plant(job.plan.plant)
        reporter = MarkingReporter(events, device.name) if job.way == "log" else Reporter(events)
        drive(job.plan, store, reporter)
    except BaseException as error:  # noqa: BLE001
        explanation_of(events).write_text(repr(error))
        os._exit(1)
    os._exit(0)


def sectors_of(disk: str) -> int:
    """How many the disk has, of 512 bytes."""
    return int(Path(f"/sys/block/{disk}/size").read_text())


def command(*arguments: str) -> None:
    """Run it. Raises `CalledProcessError`."""
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
