"""Threads whose writes one flush made durable: they wake each other in turn, and share the next flush."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import pytest

from raftstore.log import RaftLog
from raftstore.strategy import DiskFirst
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import PATIENCE_S, assert_waits, background, eventually, outcome
from raftstore.waiting import ThreadWaiter


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def propose(log: RaftLog) -> range:
    return log.propose(1, [b"x"])


def asleep_in_turn(log: RaftLog, disk: MemoryDisk, *calls: Callable[[], object]) -> list[Future[object]]:
    """While the first proposal is being written, `calls` go to sleep in turn, each in its thread."""
    idents: list[int] = []

    def first() -> range:
        idents.append(threading.get_ident())
        return propose(log)

    running: list[Future[object]] = [background(first)]
    disk.gate.wait_for_arrival()
    for count, call in enumerate(calls, 1):
        running.append(background(call))
        eventually(partial(are_asleep, log, count, idents[0]), "it sleeps")
    return running


def are_asleep(log: RaftLog, count: int, first: int) -> bool:
    """The `first` thread may sleep, too: the flusher leads if it looks before that one does."""
    pipeline = log._session.pipeline
    with pipeline.lock:
        return len({waiter.thread for _, waiter in pipeline._sleepers} - {first}) == count


class Held:
    """Threads that have been woken and do not run yet: what `sleep` returns to them comes late."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go_on: dict[int, threading.Event] = {}
        self.is_late: set[int] = set()
        """Threads whose time passes while they sleep, whether woken or not."""
        sleep = ThreadWaiter.sleep

        def held(waiter: ThreadWaiter, timeout: float | None = None) -> bool:
            go_on = self.go_on.get(threading.get_ident())
            if go_on is not None and threading.get_ident() in self.is_late:
                go_on.wait(PATIENCE_S)
                return False
            woken = sleep(waiter, timeout)
            if go_on is not None:
                go_on.wait(PATIENCE_S)
            return woken

        patch.setattr(ThreadWaiter, "sleep", held)

    def hold(
        self, call: Callable[[], object], *, is_late: bool = False
    ) -> tuple[Callable[[], object], threading.Event]:
        """`call`, held whenever it has slept until the event is set."""
        go_on = threading.Event()

        def in_its_thread() -> object:
            self.go_on[threading.get_ident()] = go_on
            if is_late:
                self.is_late.add(threading.get_ident())
            return call()

        return in_its_thread, go_on


def test_the_next_flush_waits_until_all_whom_the_last_one_woke_have_had_their_turn(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    monkeypatch.setattr("raftstore.pipeline.LOOK_UP_S", PATIENCE_S)
    with open_log(disk, DiskFirst()) as log:
        last, go_on = held.hold(lambda: propose(log))
        with disk.gate.closed():
            first, again, late = asleep_in_turn(log, disk, lambda: (propose(log), propose(log)), last)
        outcome(first)
        eventually(lambda: log.next_index == 5, "the one that led proposes again")
        assert_waits(again, late)
        assert disk.calls == 2
        go_on.set()
        assert outcome(again) == (range(2, 3), range(4, 5))
        assert outcome(late) == range(3, 4)
        assert disk.calls == 3


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_wake_up_that_an_interrupt_swallowed_leaves_nobody_behind_asleep(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The first is that of the next leader, the others are of those in line, unless these looked before."""
    wake, calls = ThreadWaiter.wake, list[ThreadWaiter]()

    def wake_but_one(waiter: ThreadWaiter) -> None:
        calls.append(waiter)
        if len(calls) != lost:
            wake(waiter)

    monkeypatch.setattr("raftstore.pipeline.LOOK_UP_S", 0.05)
    with open_log(disk, DiskFirst()) as log:
        with disk.gate.closed():
            running = asleep_in_turn(log, disk, *[lambda: propose(log)] * 3)
            monkeypatch.setattr(ThreadWaiter, "wake", wake_but_one)
        assert [outcome(call) for call in running] == [range(i, i + 1) for i in range(1, 5)]
        assert outcome(background(lambda: propose(log))) == range(5, 6)


def test_a_thread_whose_time_passes_in_line_has_its_answer_and_keeps_no_lead(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    monkeypatch.setattr("raftstore.pipeline.LOOK_UP_S", PATIENCE_S)
    with open_log(disk, DiskFirst()) as log:
        before, let_before = held.hold(lambda: propose(log))
        with disk.gate.closed():
            first, leader, waiting_before = asleep_in_turn(log, disk, lambda: propose(log), before)
            receipt = log.submit_propose(1, [b"x"])
            late, let_late = held.hold(lambda: receipt.wait(0.5), is_late=True)
            timed = background(late)
            eventually(lambda: bool(log._session.pipeline.ledger.accepted.waiters), "it waits")
        outcome(first)
        outcome(leader)
        assert receipt.done()
        let_late.set()
        outcome(timed)
        assert outcome(background(lambda: propose(log))) == range(5, 6)
        let_before.set()
        outcome(waiting_before)
