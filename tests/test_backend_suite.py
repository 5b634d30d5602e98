"""The suite for backends has teeth: every broken backend is caught, and every test catches one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from raftstore.testing import BackendSuite, ContractViolationError, MemoryDisk
from raftstore.testing.broken import BrokenBackend, broken_backends
from raftstore.testing.power import PowerSwitch

TESTS = [name for name in dir(BackendSuite) if name.startswith("test_")]
CAUGHT = [(broken, test) for broken in broken_backends() for test in broken.caught_by]


class SuiteFor(BackendSuite):
    """The suite on a backend in memory."""

    def __init__(self, broken: type[BrokenBackend]) -> None:
        self._broken = broken
        self._disks: defaultdict[Path, MemoryDisk] = defaultdict(broken.disk_class)

    def make(self, path: Path) -> BrokenBackend:
        return self._broken(path, disk=self._disks[path])

    def launcher(self) -> PowerSwitch:
        return PowerSwitch(self.make, self._disks.__getitem__)


@pytest.mark.parametrize(("broken", "test"), CAUGHT, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_backend_is_caught(
    broken: type[BrokenBackend], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError) as caught:
        getattr(SuiteFor(broken), test)(tmp_path)
    assert not isinstance(caught.value, ContractViolationError), "the test itself broke the contract"


@pytest.mark.parametrize("test", TESTS)
def test_the_same_backend_without_its_fault_passes(test: str, tmp_path: Path) -> None:
    getattr(SuiteFor(BrokenBackend), test)(tmp_path)


def test_every_test_of_the_suite_catches_something() -> None:
    assert set(TESTS) == {test for _, test in CAUGHT}
