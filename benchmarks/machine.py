"""On what the numbers were taken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.bench import Bench
from raftstore.compare.machine import machine_of

PROBES: Final = 5
PROBE_S: Final = 0.1


def describe(directory: Path, bench: Bench) -> dict[str, str]:
    """Name and value of everything that a number depends on beside the code."""
    found = machine_of(directory)
    micros = [1e6 / bench.limit.batch(1, 1024, bench.seconds(PROBE_S)) for _ in range(PROBES)]
    return {
        "system": found.system,
        "processor": f"{found.processor}, {found.processors} cores",
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "Python": found.python,
        "versions": ", ".join(f"{name} {version}" for name, version in found.versions.items()),
        "file system": found.filesystem,
        "limit": f"{bench.limit_kind}, {_compiler()}",
        "one bare durable write of 1 KiB": f"{median(micros):.0f} µs",
    }


def _compiler() -> str:
    try:
        return subprocess.run(
            ["cc", "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        return "no compiler"
