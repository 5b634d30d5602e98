"""One session of a virtual machine: it boots, does its jobs, and is off. It needs no hypervisor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from raftstore.testing.crash.events import Event, decode
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.qemu_initramfs import SHARED, busybox, initramfs, kernels

PROGRAM: Final = "qemu-system-x86_64"
SESSION_S: Final = 8 * PATIENCE_S
"""A session that takes longer is ended."""
LOG_BYTES: Final = 1 << 30
"""The size of the disk for a log: more than any workload writes; what is not written takes no room."""
MEMORY_MIB: Final = 1024
_CONSOLE: Final = "console=ttyS0 quiet panic=-1 mitigations=off"
_NO_BUSYBOX: Final = "a static busybox: install busybox-static"
_DYNAMIC: Final = b"/ld-linux"


class MachineError(Exception):
    """The machine did not do its jobs; says why."""


Way = Literal["log", "drop_writes", "error_writes"]
"""What device mapper does below a file system: log what is written, or, from some instant on, drop every
write as if it were done, or fail it."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One workload on one disk of the machine."""

    name: str
    plan: Plan
    file_system: str
    way: Way = "log"
    cut_at: int = 0
    """The writes are dropped, or fail, when so many events were told."""


class Done(msgspec.Struct, frozen=True):
    """What became of a job."""

    status: int | None
    """Of the driven process, negative for a signal; None if it hung."""
    words: str
    told: int = 0
    """How many events had been told when writes began to be dropped, or to fail."""


def lacking() -> str | None:
    """Why no machine can be started here, with what to install, or None."""
    if shutil.which(PROGRAM) is None:
        return f"{PROGRAM}: install qemu-system-x86"
    if shutil.which("setpriv") is None:
        return "setpriv: install util-linux"
    if os.geteuid() != 0:
        return "to be root, to show the machine all files of this one"
    if (static := busybox()) is None or _DYNAMIC in static.read_bytes():
        return _NO_BUSYBOX
    if shutil.which("dmsetup") is None:
        return "dmsetup: install dmsetup"
    if not kernels():
        return "a kernel with device mapper in /boot and /lib/modules: install linux-image-amd64"
    return None


class Machine:
    """The files of one session, in the directory `place`. A context: after it they are gone."""

    def __init__(self, place: Path, empty: Path, jobs: Sequence[Job]) -> None:
        """Each job has a disk that is a copy of the file `empty`, and another disk for its log."""
        self._place = place
        self._shared = place / "shared"
        self._empty = empty
        self._jobs = jobs

    def __enter__(self) -> Machine:
        shutil.rmtree(self._place, ignore_errors=True)
        self._shared.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._place, ignore_errors=True)

    def disk(self, job: Job) -> Path:
        """The file that is the disk with the job's file system."""
        return self._place / f"{job.name}-disk"

    def events(self, job: Job) -> list[Event]:
        """What the driven process told, if there is no log of the job."""
        return list(decode((self._shared / f"{job.name}-events").read_bytes()))

    def log(self, job: Job) -> Path:
        """The file that is the disk with the job's log."""
        return self._place / f"{job.name}-log"

    def run(self) -> list[Done]:
        """Boot, do all jobs, and be off. Raises `MachineError` if not all were done."""
        kernel, static = kernels()[-1], busybox()
        assert static is not None
        (self._place / "initramfs").write_bytes(initramfs(kernel, static))
        (self._shared / "jobs").write_bytes(msgspec.json.encode(self._jobs))
        (self._shared / "start").write_text(start())
        for job in self._jobs:
            shutil.copyfile(self._empty, self.disk(job))
            with self.log(job).open("wb") as stream:
                stream.truncate(LOG_BYTES)
        said = self._boot(kernel.image)
        results = [self._shared / f"{job.name}-done" for job in self._jobs]
        if not all(file.exists() for file in results):
            raise MachineError(f"the machine did not do its jobs: {self._words()} {said[-800:]}")
        return [msgspec.json.decode(file.read_bytes(), type=Done) for file in results]

    def _boot(self, kernel: Path) -> str:
        disks = [
            (f"{job.name}-{kind}", self._place / f"{job.name}-{kind}")
            for job in self._jobs
            for kind in ("disk", "log")
        ]
        command = command_line(kernel, self._place / "initramfs", self._shared, disks)
        try:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SESSION_S,
                check=False,
                env={**os.environ, "TMPDIR": str(self._place)},
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            raise MachineError(f"not done within {SESSION_S} s: {self._words()} {said[-800:]}") from error
        return done.stdout.decode(errors="replace")

    def _words(self) -> str:
        file = self._shared / "words"
        return file.read_text(errors="replace")[-1500:] if file.exists() else ""


def start() -> str:
    """What the machine does when it has booted, as a script of the shell."""
    path = os.pathsep.join(part for part in sys.path if part)
    program = shlex.join([sys.executable, "-m", "raftstore.testing.crash.qemu_guest", SHARED])
    settings = {"PYTHONPATH": path, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "TMPDIR": "/run/tmp"}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*exports, "export DM_DISABLE_UDEV=1 PYTHONDONTWRITEBYTECODE=1", f"exec {program}", ""])


def command_line(kernel: Path, initrd: Path, shared: Path, disks: Sequence[tuple[str, Path]]) -> list[str]:
    """What starts the machine. `disks`: their serial names, and the files that they are.

    It interprets every instruction, so that it runs in other machines, too.
    """
    command = [PROGRAM, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB)]
    command += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", _CONSOLE]
    for tag, path, options in (("root", "/", ",readonly=on,multidevs=remap"), ("shared", str(shared), "")):
        command += ["-fsdev", f"local,id={tag},path={_escaped(path)},security_model=none{options}"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    for name, file in disks:
        command += ["-drive", f"if=none,id={name},format=raw,cache=unsafe,file={_escaped(str(file))}"]
        command += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return command


def _escaped(path: str) -> str:
    """As an option's value, in which a comma stands twice."""
    return path.replace(",", ",,")
