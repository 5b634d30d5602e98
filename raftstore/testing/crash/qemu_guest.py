"""What runs in the virtual machine: `python -m raftstore.testing.crash.qemu_guest DIRECTORY`.

It does the jobs of the file `jobs` in DIRECTORY, each on a file system of its own, below which the kernel's
dm-log-writes logs what is written. Every event of the driven process is a mark in that log.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Final, NoReturn

import msgspec

from raftstore.testing.crash.driver import drive
from raftstore.testing.crash.events import Kind, Reporter, explanation_of
from raftstore.testing.crash.lab import STORE
from raftstore.testing.crash.plants import plant
from raftstore.testing.crash.qemu_log import mark_of
from raftstore.testing.crash.qemu_machine import Done, Job

SCRATCH: Final = Path("/run/tmp")
MAPPER: Final = Path("/dev/mapper")
TIMEOUT_S: Final = 150.0
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
        (shared / f"{job.name}-done").write_bytes(msgspec.json.encode(done))


def _do(job: Job, disk: str, log: str) -> Done:
    place, name = SCRATCH / job.name, f"raftstore-{job.name}"
    place.mkdir()
    sectors = int(Path(f"/sys/block/{disk}/size").read_text())
    _command("dmsetup", "create", name, "--table", f"0 {sectors} log-writes /dev/{disk} /dev/{log}")
    options = _OPTIONS[job.file_system]
    _command("mount", "-t", job.file_system, "-o", options, str(MAPPER / name), str(place))
    events = SCRATCH / f"{job.name}-events"
    status = _drive(job, place / "arena" / STORE, events, name)
    _command("umount", str(place))
    _command("dmsetup", "remove", name)
    words = explanation_of(events)
    return Done(status, words.read_text(errors="replace") if words.exists() else "")


def _drive(job: Job, store: Path, events: Path, device: str) -> int | None:
    pid = os.fork()
    if pid == 0:
        _live(job, store, events, device)
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def _live(job: Job, store: Path, events: Path, device: str) -> NoReturn:
    """The whole life of a driven process."""
    try:
        if job.plan.plant is not None:
            plant(job.plan.plant)
        drive(job.plan, store, MarkingReporter(events, device))
    except BaseException as error:  # noqa: BLE001
        explanation_of(events).write_text(repr(error))
        os._exit(1)
    os._exit(0)


def _command(*arguments: str) -> None:
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
