"""Where the numbers were taken: they mean nothing elsewhere."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

MOUNTS: Final = Path("/proc/self/mountinfo")
PROCESSORS: Final = Path("/proc/cpuinfo")
UNKNOWN: Final = "unknown"
IN_MEMORY: Final = ("tmpfs", "ramfs")
LIBRARIES: Final = ("raftstore", "lmdb", "rocksdict", "crc32c")


class Machine(msgspec.Struct, frozen=True):
    """What a number depends on beside the code."""

    system: str
    processors: int
    python: str
    versions: dict[str, str]
    filesystem: str
    """Type and mount options; "unknown" where the system does not tell."""
    processor: str = UNKNOWN
    """Its model."""

    @property
    def is_in_memory(self) -> bool:
        """Whether the "disk" is memory, where a sync costs nothing and promises nothing."""
        return self.filesystem.split(" ")[0] in IN_MEMORY


def machine_of(directory: Path) -> Machine:
    """The machine, with the file system that holds `directory`."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processors=os.cpu_count() or 0,
        python=platform.python_version(),
        versions={name: found for name in LIBRARIES if (found := _version(name))},
        filesystem=filesystem_of(directory, MOUNTS.read_text() if MOUNTS.exists() else ""),
        processor=processor_in(PROCESSORS.read_text() if PROCESSORS.exists() else ""),
    )


def processor_in(cpuinfo: str) -> str:
    """The model of the first processor in `cpuinfo` (as `/proc/cpuinfo`)."""
    lines = (line for line in cpuinfo.splitlines() if line.startswith("model name"))
    return next(lines, f":{UNKNOWN}").partition(":")[2].strip()


def filesystem_of(directory: Path, mounts: str) -> str:
    """Type and options of the mount in `mounts` (as `/proc/self/mountinfo`) that holds `directory`."""
    directory = directory.resolve()
    best, found = -1, UNKNOWN
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        point = Path(_unescaped(head.split(" ")[4]))
        if directory.is_relative_to(point) and len(point.parts) >= best:
            kind, _, options = tail.split(" ", 2)
            best, found = len(point.parts), f"{kind} {head.split(' ')[5]},{options}"
    return found


def _unescaped(text: str) -> str:
    """`\\040` is a space there."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
