"""Every backend keeps the contract. A third party's test file looks like one of these classes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raftstore.backend import DiskBackend
from raftstore.registry import backend_class
from raftstore.testing import BackendSuite, MemoryBackend, MemoryDisk
from raftstore.testing.power import PowerSwitch

KIB = 1 << 10


def registered(name: str, path: Path, **options: int) -> DiskBackend:
    backend: Any = backend_class(name)
    opened: DiskBackend = backend(path, **options)
    return opened


class TestMemory(BackendSuite):
    disks: ClassVar[defaultdict[Path, MemoryDisk]] = defaultdict(MemoryDisk)

    def make(self, path: Path) -> MemoryBackend:
        return MemoryBackend(path, disk=self.disks[path])

    def launcher(self) -> PowerSwitch:
        return PowerSwitch(self.make, self.disks.__getitem__)


@pytest.mark.backend("segmented")
class TestSegmented(BackendSuite):
    tail_bytes = 256 * KIB
    steady_bytes = 2048 * KIB

    def make(self, path: Path) -> DiskBackend:
        return registered("segmented", path, segment_bytes=64 * KIB)


@pytest.mark.backend("lmdb")
class TestLmdb(BackendSuite):
    def make(self, path: Path) -> DiskBackend:
        return registered("lmdb", path, map_bytes=1024 * KIB, ballast_bytes=64 * KIB)


@pytest.mark.backend("rocksdb")
class TestRocksdb(BackendSuite):
    def make(self, path: Path) -> DiskBackend:
        return registered("rocksdb", path, write_buffer_bytes=64 * KIB, ballast_bytes=1024 * KIB)
