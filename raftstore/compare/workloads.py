"""The catalogue of workloads, and how some of them are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from raftstore.compare.appending import Append, Appending, Tasks, Threads
from raftstore.compare.growing import OpenGrown
from raftstore.compare.keeping import KEEPING, Keeping
from raftstore.errors import ConfigError

Workload = Appending | Keeping | OpenGrown

KIB: Final = 1024
GROUP_ENTRY_BYTES: Final = 256

STANDARD: Final[tuple[Workload, ...]] = (
    *(Append(batch, size) for size in (64, KIB, 64 * KIB) for batch in (1, 64)),
    Threads(8, GROUP_ENTRY_BYTES),
    Tasks(64, GROUP_ENTRY_BYTES),
    *KEEPING,
)
SWEEPS: Final[tuple[Workload, ...]] = (
    *(Append(batch, KIB) for batch in (8, 512)),
    *(Threads(callers, GROUP_ENTRY_BYTES) for callers in (1, 64)),
    *(Tasks(callers, GROUP_ENTRY_BYTES) for callers in (1, 8, 512)),
    *(OpenGrown(entries) for entries in (1_000, 10_000, 100_000)),
)
"""What the curves of a report need beside the standard workloads."""

WORKLOADS: Final = STANDARD + SWEEPS
QUICK: Final = ("append-*x1KiB", "threads-8x*", "asyncio-64x*", *(workload.name for workload in KEEPING))


def choose(patterns: Sequence[str]) -> list[Workload]:
    """The workloads whose names match one of the shell patterns, in order; the standard ones for no pattern.

    Raises `ConfigError` for a pattern that matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(workload.name, pattern) for workload in WORKLOADS):
            names = ", ".join(workload.name for workload in WORKLOADS)
            raise ConfigError(f"no workload is called {pattern!r}; there are {names}")
    if not patterns:
        return list(STANDARD)
    return [
        workload for workload in WORKLOADS if any(fnmatchcase(workload.name, pattern) for pattern in patterns)
    ]
