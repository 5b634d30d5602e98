"""Kills stores in memory: power fails between two steps that a backend makes on its `MemoryDisk`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from raftstore.testing.memory import MemoryBackend, MemoryDisk, PowerCut


class PowerSwitch:
    """An `AnyLauncher` for memory: `make` opens a store on the disk that `disk_of` gives for its path."""

    def __init__(self, make: Callable[[Path], MemoryBackend], disk_of: Callable[[Path], MemoryDisk]) -> None:
        self._make = make
        self._disk_of = disk_of

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def open(self, path: Path) -> MemoryBackend:
        return self._make(path)

    def kill_while_opening(self, path: Path, instant: float) -> None:
        disk = self._disk_of(path)
        disk.die_in(int(instant * 4))
        with suppress(PowerCut):
            self._make(path)
        disk.crash()
