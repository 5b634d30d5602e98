"""The suite for backends has teeth: every broken backend is caught, and every test catches one."""

from __future__ import annotations

from collections import defaultdict
from inspect import getmembers
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis.stateful import RULE_MARKER, RuleBasedStateMachine

from raftstore.testing import BackendSuite, ContractViolationError, MemoryDisk
from raftstore.testing.backend_machine import KillingMachine
from raftstore.testing.broken import BrokenBackend, broken_backends
from raftstore.testing.broken.files import (
    BrokenToy,
    BuffersAnAcknowledgedWrite,
    NeverBeginsAnotherFile,
    RepairsWhatItExamines,
    ReusesStaleBytesOfARecycledFile,
    SplitsAReplacement,
)
from raftstore.testing.log_machine import LogMachine
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
    monkeypatch.setattr("raftstore.testing.tools.PATIENCE_S", 0)  # Nothing of it ever gets better.
    with pytest.raises(AssertionError) as caught:
        getattr(SuiteFor(broken), test)(tmp_path)
    assert not isinstance(caught.value, ContractViolationError), "the test itself broke the contract"


class ToySuite(BackendSuite):
    """The suite on a toy with real files. Child processes find the toy by its name."""

    toy: ClassVar[type[BrokenToy]] = BrokenToy
    steady_bytes = 2 << 20

    def make(self, path: Path) -> BrokenToy:
        return self.toy(path)


class TestToy(ToySuite):
    """It is sound as long as nobody breaks it."""


class SplitSuite(ToySuite):
    toy = SplitsAReplacement


class BufferSuite(ToySuite):
    toy = BuffersAnAcknowledgedWrite


class StaleSuite(ToySuite):
    toy = ReusesStaleBytesOfARecycledFile


class GrowingSuite(ToySuite):
    toy = NeverBeginsAnotherFile


class RepairSuite(ToySuite):
    toy = RepairsWhatItExamines


TOY_SUITES = (SplitSuite, BufferSuite, StaleSuite, GrowingSuite, RepairSuite)
KILLED = [(suite, test) for suite in TOY_SUITES for test in suite.toy.caught_by]


@pytest.mark.parametrize(("suite", "test"), KILLED)
def test_a_broken_toy_is_caught(
    suite: type[ToySuite], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raftstore.testing.tools.PATIENCE_S", 0)  # Nothing of it ever gets better.
    with pytest.raises(AssertionError):
        getattr(suite(), test)(tmp_path)


@pytest.mark.parametrize("test", TESTS)
def test_the_same_backend_without_its_fault_passes(test: str, tmp_path: Path) -> None:
    getattr(SuiteFor(BrokenBackend), test)(tmp_path)


def test_every_test_of_the_suite_catches_something() -> None:
    assert set(TESTS) == {test for _, test in CAUGHT}


@pytest.mark.parametrize("machine", [KillingMachine, LogMachine])
def test_whether_a_rule_may_run_does_not_depend_on_what_a_kill_has_left(
    machine: type[RuleBasedStateMachine],
) -> None:
    rules = [
        getattr(member, RULE_MARKER) for _, member in getmembers(machine) if hasattr(member, RULE_MARKER)
    ]
    assert len(rules) > 5
    assert not [rule.function.__name__ for rule in rules if rule.preconditions]
