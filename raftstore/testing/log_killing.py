"""Promises about what a kill leaves: of this process's store, of a simulated one, of a real one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from raftstore.log import RaftLog
from raftstore.strategy import DiskFirst
from raftstore.testing.log_base import LogPromises
from raftstore.testing.log_child import kill_a_writer, payload
from raftstore.testing.log_machine import run_log_machine
from raftstore.testing.open_log import Killable
from raftstore.testing.tools import entry


class KillPromises(LogPromises):
    def test_what_was_acknowledged_is_there_after_sigkill(self, path: Path, tmp_path: Path) -> None:
        with self.open(path) as log:
            config = log.config
        for appends in (25, 80):
            told = kill_a_writer(config, tmp_path, appends=appends)
            with self.open(path) as log:
                promised = told.last_index if config.strategy == DiskFirst() else told.durable_index
                assert log.last_index >= promised
                assert log.hard_state.term >= told.vote
                found = log.entries(1)
                assert [e.index for e in found] == list(range(1, log.last_index + 1))
                assert all(e.data == payload(e.index) for e in found)
                log.append([entry(log.next_index, data=payload(log.next_index))])


class MachinePromises(LogPromises):
    machine_examples = 12
    machine_steps = 25

    def test_any_sequence_of_calls_openings_and_kills_equals_the_model(self, tmp_path: Path) -> None:
        numbers = count()
        run_log_machine(
            lambda: _FreshStore(self.open, tmp_path / str(next(numbers))),
            examples=self.machine_examples,
            steps=self.machine_steps,
        )


class _FreshStore(Killable):
    """A store of its own for one run of the machine, configured as `opener` does it."""

    def __init__(self, opener: Callable[[Path], RaftLog], path: Path) -> None:
        with opener(path) as log:
            super().__init__(log.config)
        self._path = path

    def clean(self) -> None:
        shutil.rmtree(self._path)
