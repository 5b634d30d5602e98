"""The state machine of the suite on a disk in memory, where it is fast, long and shrinks what it finds."""

from __future__ import annotations

from typing import Any

import pytest
from log_tools import NEVER

from raftstore.entry import NO_ENTRY, HardState, LogId
from raftstore.log import RaftLog
from raftstore.policy import Batch, FlushPolicy, Immediate
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.log_machine import LogMachine, run_log_machine
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import KillableMemory, open_log
from raftstore.testing.tools import entry, span

STRATEGIES = [DiskFirst(), MemFirst(), MemFirst(sync_on_commit=True)]
POLICIES: list[FlushPolicy] = [Immediate(), Batch(4, 2), NEVER]


@pytest.mark.parametrize("policy", POLICIES, ids=["Immediate", "Batch", "Never"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=["DiskFirst", "MemFirst", "sync_on_commit"])
def test_any_sequence_of_calls_equals_the_model(strategy: Strategy, policy: FlushPolicy) -> None:
    if isinstance(strategy, DiskFirst) and policy is NEVER:
        policy = Batch(1, 10**6)

    def opener(disk: MemoryDisk) -> RaftLog:
        return open_log(disk, strategy, policy, cache_bytes=8 * 1024)

    run_log_machine(lambda: KillableMemory(opener), examples=40, steps=40, shrink=True)


def test_an_entry_that_was_replaced_by_one_of_the_same_id_was_taken_back() -> None:
    machine = LogMachine(KillableMemory(lambda disk: open_log(disk, DiskFirst(), NEVER)))
    machine.both("submit", [entry(1, data=b"before")])
    machine.both("save", [entry(1, data=b"after")], anchor=NO_ENTRY)
    machine.flush()
    machine.teardown()


class ForgetfulMemory(KillableMemory):
    """Loses the newest write, though it was durable."""

    def kill(self, log: RaftLog) -> None:
        super().kill(log)
        self._disk.writes.pop()
        self._disk.durable -= 1
        self._disk.crash()


@pytest.mark.parametrize(
    ("strategy", "call", "arguments"),
    [
        (DiskFirst(), "append", [[entry(1)]]),
        (DiskFirst(), "propose", [1, [b"x"]]),
        (MemFirst(), "splice", [LogId(1, 1), [entry(2, 2)]]),
        (MemFirst(), "save_hard_state", [HardState(2, "a")]),
        (MemFirst(), "put_meta", ["a", b"x"]),
        (MemFirst(), "reset", [LogId(3, 3)]),
    ],
)
def test_the_machine_finds_a_disk_that_loses_what_was_acknowledged(
    strategy: Strategy, call: str, arguments: list[Any]
) -> None:
    machine = LogMachine(ForgetfulMemory(lambda disk: open_log(disk, strategy)))
    if call == "splice":
        machine.both("append", span(1, 3))
        machine.flush()
    machine.both(call, *arguments)
    with pytest.raises(AssertionError, match="no prefix"):
        machine.kill_and_open()
    machine.log.close()
