"""Ctrl-C at every step of a call: it is finished or it never was, and nobody waits for ever."""

from __future__ import annotations

import contextlib
import linecache
from collections.abc import Callable
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import FrameType

import pytest
from interrupting import interrupt
from log_tools import NEVER, both, in_the_end

import raftstore
from raftstore.entry import HardState, LogId
from raftstore.errors import StoreClosedError, StoreFailedError, StoreFullError, TruncatedError
from raftstore.ledger import Group
from raftstore.log import RaftLog
from raftstore.pipeline import Pipeline
from raftstore.policy import Batch
from raftstore.receipt import Receipt
from raftstore.room import Room, RoomWaiter
from raftstore.shape import Shape
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import PATIENCE_S, background, entry, eventually, outcome, run, span
from raftstore.view import View
from raftstore.waiting import ThreadWaiter
from raftstore.window import Window, size_of
from raftstore.write import appending, changing, first_write

CORE = Path(raftstore.__file__).parent

CALLS: dict[str, Callable[[RaftLog], object]] = {
    "append": lambda log: log.append(span(5, 7)),
    "submit": lambda log: log.submit(span(5, 7)),
    "truncate": lambda log: log.truncate(3),
    "splice": lambda log: log.splice(LogId(1, 2), run(3, [2, 2])),
    "purge": lambda log: log.purge(2),
    "vote": lambda log: log.save_hard_state(HardState(3, "a")),
    "save": lambda log: log.save([entry(5)], hard_state=HardState(3, "a", 5), meta={"k": b"v"}),
    "flush": lambda log: log.flush(),
    "commit": lambda log: log.commit_to(3),
}
STRIDE = 2
"""Every second step, the odd ones with one strategy and the even ones with the other."""
POLICIES = {"append": Batch(4, 10**6)}


def interrupted(step: int, call: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt at the `step`-th line of the core that `call` runs; False if it has fewer."""
    with interrupt(step, is_core, lambda frame: not _is_with(frame)) as where:
        call()
    return bool(where)


@cache
def is_core(filename: str) -> bool:
    return Path(filename).parent == CORE


def _is_with(frame: FrameType) -> bool:
    """Tracing also stops before the block's `__exit__`, where Python itself delivers no signal."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


def check_whole(log: RaftLog, receipt: Receipt, disk: MemoryDisk) -> None:
    """The log goes on as if nothing had happened, and all of it hangs together."""
    outcome(background(log.flush))
    assert log.durable_index == log.last_index == log.next_index - 1
    outcome(background(lambda: log.wait_durable(log.last_index)))
    held = log.first_index > 4 or (log.last_index >= 4 and log.term(4) == 1)
    with contextlib.nullcontext() if held else pytest.raises(TruncatedError):
        receipt.wait(PATIENCE_S)
    check_goes_on(log, disk)


def check_goes_on(log: RaftLog, disk: MemoryDisk) -> None:
    """It takes another entry, and readers see what is on disk."""
    outcome(background(lambda: log.save([entry(log.next_index, 9)])))
    assert list(disk.state.entries.values()) == log.entries(log.first_index)
    assert log.status().pending_bytes == 0


@both
@pytest.mark.parametrize("name", list(CALLS))
def test_an_interrupt_at_any_step_of_a_call_leaves_a_whole_log(strategy: Strategy, name: str) -> None:
    for step in count(1 if strategy == DiskFirst() else 2, STRIDE):
        disk = MemoryDisk()
        with open_log(disk, strategy, POLICIES.get(name, NEVER)) as log:
            receipt = log.submit(span(1, 5))
            raised = interrupted(step, lambda log=log: CALLS[name](log))  # type: ignore[misc]
            check_whole(log, receipt, disk)
        if not raised:
            assert step > 10
            return


ON_A_FULL_DISK: dict[str, Callable[[RaftLog], object]] = {
    "nothing": lambda log: log.flush(),
    "append": lambda log: log.append(span(7, 9)),
    "splice": lambda log: log.splice(LogId(1, 2), run(3, [2, 2])),
    "purge": lambda log: log.purge(2),
    "vote": lambda log: log.save_hard_state(HardState(3, "a")),
    "save": lambda log: log.save([entry(7)], hard_state=HardState(3, "a", 4)),
}


@both
@pytest.mark.parametrize("name", list(ON_A_FULL_DISK))
def test_an_interrupt_at_any_step_on_a_full_disk_leaves_a_whole_log(strategy: Strategy, name: str) -> None:
    """Entries 5 and 6 wait, and nothing has been asked of the disk since it is full."""
    for step in count(1 if strategy == DiskFirst() else 2, STRIDE):
        disk = MemoryDisk()
        with open_log(disk, strategy, POLICIES.get(name, NEVER)) as log:
            log.save(span(1, 5))
            disk.full = True
            receipt = log.submit(span(5, 7))
            with contextlib.suppress(StoreFullError):
                raised = False
                raised = interrupted(step, lambda log=log: ON_A_FULL_DISK[name](log))  # type: ignore[misc]
            disk.full = False
            in_the_end(lambda log=log: outcome(background(log.flush)))  # type: ignore[misc]
            with contextlib.suppress(StoreFullError, TruncatedError):
                receipt.wait(PATIENCE_S)
            check_goes_on(log, disk)
            assert log.commit_index in (0, 2, 4)
        if not raised:
            assert step > 100
            return


def test_a_read_that_an_interrupt_cut_short_does_not_keep_the_log_from_closing() -> None:
    disk = MemoryDisk()
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 5))
    for step in count(1):
        log = open_log(disk, DiskFirst(), cache_bytes=0)
        raised = interrupted(step, lambda log=log: log.entry(2))  # type: ignore[misc]
        log.close()
        if not raised:
            assert step > 10
            return


@both
def test_an_interrupt_at_any_step_of_a_call_keeps_nobody_from_being_told_what_is_durable(
    strategy: Strategy,
) -> None:
    for step in count(1 if strategy == DiskFirst() else 2, STRIDE):
        told = [0]
        with open_log(MemoryDisk(), strategy) as log:
            log.on_durable(told.append)
            raised = interrupted(step, lambda log=log: log.save([entry(1)]))  # type: ignore[misc]
            in_time = partial(lambda log, told: told[-1] == log.durable_index, log, told)
            eventually(in_time, "the callback is told, and no write comes after")
        if not raised:
            assert step > 100
            return


@both
def test_an_interrupt_at_any_step_of_closing_leaves_a_log_that_can_be_closed(strategy: Strategy) -> None:
    for step in count(1):
        disk = MemoryDisk()
        log = open_log(disk, strategy, NEVER)
        receipt = log.submit(span(1, 5))
        raised = interrupted(step, log.close)
        outcome(background(log.close))
        assert disk.owner is None
        assert list(disk.state.entries.values()) == span(1, 5)
        receipt.wait(PATIENCE_S)
        if not raised:
            assert step > 100
            return


@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["may lead", "does not lead"])
def test_an_interrupt_at_any_step_of_a_wait_leaves_the_lead_to_those_who_still_wait(
    monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    """While another thread leads. After the second look whether a wake-up was lost nothing new happens."""
    monkeypatch.setattr("raftstore.pipeline.LOOK_UP_S", 0.001)
    asleep = 0
    for step in count(1):
        disk = MemoryDisk()
        with open_log(disk, DiskFirst()) as log, disk.gate.closed():
            leading = background(lambda log=log: log.append([entry(1)]))  # type: ignore[misc]
            disk.gate.wait_for_arrival()
            receipt = log.submit([entry(2)])
            with interrupt(step, is_core, lambda frame: not _is_with(frame)) as where:
                receipt.wait(timeout)
            disk.gate.open()
            outcome(leading)
            outcome(background(lambda log=log: log.append([entry(3)])))  # type: ignore[misc]
        asleep += where[0].startswith("ThreadWaiter.sleep")
        if asleep == 3:
            return


def test_an_interrupt_at_any_step_of_a_wait_for_room_leaves_all_the_room_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raftstore.pipeline.LOOK_UP_S", 0.001)
    asleep = 0
    for step in count(1):
        disk = MemoryDisk()
        with open_log(disk, DiskFirst(), pending_bytes_max=600) as log, disk.gate.closed():
            leading = background(lambda log=log: log.append(span(1, 4)))  # type: ignore[misc]
            disk.gate.wait_for_arrival()
            with interrupt(step, is_core, lambda frame: not _is_with(frame)) as where:
                log.append(span(4, 7))
            disk.gate.open()
            outcome(leading)
            assert not log._session.pipeline.ledger.room.is_queued
            outcome(background(lambda log=log: log.append(span(4, 7))))  # type: ignore[misc]
        asleep += where[0].startswith("ThreadWaiter.sleep")
        if asleep == 3:
            return


CHANGES: dict[str, Callable[[Window], object]] = {
    "extend": lambda window: window.extend_counted(span(11, 14)),
    "truncate": lambda window: window.truncate(8),
    "truncate all": lambda window: window.truncate(3),
    "drop_before": lambda window: window.drop_before(5),
    "drop_before all": lambda window: window.drop_before(20),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_of_the_window_that_an_interrupt_cut_short_can_be_repeated(name: str) -> None:
    expected = Window(3)
    expected.extend_counted(span(3, 11))
    CHANGES[name](expected)
    for step in count(1):
        window = Window(3)
        window.extend_counted(span(3, 11))
        raised = interrupted(step, lambda window=window: CHANGES[name](window))  # type: ignore[misc]
        CHANGES[name](window)
        assert (window.first, len(window), window.bytes) == (expected.first, len(expected), expected.bytes)
        assert window.slice(window.first, window.next_index) == expected.slice(
            expected.first, expected.next_index
        )
        if not raised:
            return


def shown(step: int) -> tuple[View, bool]:
    """Entries 3 to 6, then more, cut twice, and others; and whether showing that has so many steps.

    It is interrupted at this one, and again when that is repeated.
    """
    durable = first_write(7, Shape(LogId(1, 2), LogId(1, 2)).appended(span(3, 7)), HardState(1), {}, 2)
    more = appending(durable, span(7, 9), size_of(span(7, 9)))
    cut = changing(more, truncate_from=5)
    others = changing(cut, truncate_from=4, entries=run(4, [2, 2]), size=size_of(run(4, [2, 2])))
    view = View(durable, cache_bytes=10**6)
    view.window.restart(6)
    view.window.extend_counted(span(6, 7))
    view.remember(span(3, 6), view.generation)
    with interrupt(step, is_core) as where:
        view.apply([more, cut, others])
    with interrupt(1 + step % 9, is_core):
        view.apply([more, cut, others])
    view.apply([more, cut, others])
    return view, bool(where)


def test_what_readers_see_is_whole_when_showing_it_was_interrupted_and_is_repeated() -> None:
    expected, _ = shown(10**6)
    for step in count(1):
        view, raised = shown(step)
        window = view.window
        assert (view.shape, view.number, window.bytes) == (
            expected.shape,
            expected.number,
            expected.window.bytes,
        )
        assert (window.first, window.slice(4, 6)) == (4, run(4, [2, 2]))
        assert (len(window), len(view.cache)) == (2, 0)
        if not raised:
            assert step > 20
            return


WHILE_MORE_WAITS: dict[str, Callable[[RaftLog], object]] = {
    "truncate": lambda log: log.truncate(3),
    "reset": lambda log: log.reset(LogId(1, 2)),
}


@pytest.mark.parametrize("name", list(WHILE_MORE_WAITS))
def test_an_interrupt_while_a_cut_is_written_with_what_waited_leaves_a_whole_log(name: str) -> None:
    """The cut goes below entries that are on disk."""
    for step in count(150, 3):
        disk = MemoryDisk()
        with open_log(disk, DiskFirst(), NEVER) as log:
            log.save(span(1, 5))
            receipt = log.submit(span(5, 7))
            raised = interrupted(step, lambda log=log: WHILE_MORE_WAITS[name](log))  # type: ignore[misc]
            outcome(background(log.flush))
            with pytest.raises(TruncatedError) if log.last_index == 2 else contextlib.nullcontext():
                receipt.wait(PATIENCE_S)
            check_goes_on(log, disk)
        if not raised:
            assert step > 250
            return


def test_whatever_ends_a_flush_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_log(MemoryDisk(), DiskFirst(), NEVER) as log:
        log.save(span(1, 3))
        ledger = log._pipeline.ledger

        def out_of_memory(_group: Group) -> None:
            raise MemoryError

        receipt = log.submit([entry(3)])
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "settle", out_of_memory)
            with pytest.raises(MemoryError):
                log.flush()
        for call in (lambda: receipt.wait(PATIENCE_S), log.flush):
            with pytest.raises(StoreFailedError):
                outcome(background(call))
        assert log.entries(1) == span(1, 3)


@pytest.mark.parametrize("gives_up", [False, True])
def test_room_granted_when_an_interrupt_came_is_granted_once_and_given_back(gives_up: bool) -> None:
    """What an interrupt cuts short is repeated, before or after somebody has given up."""
    for step in count(1):
        room = Room(100, None)
        callers = [RoomWaiter(60, ThreadWaiter()), RoomWaiter(40, ThreadWaiter())]
        room.queue.extend(callers)
        with interrupt(step, is_core) as where:
            room.grant(0, 0)
        if gives_up:
            room.give_back(callers[0])
        room.grant(0, 0)
        assert [one.granted for one in callers] == [not gives_up, True]
        for one in callers:
            with interrupt(step, is_core):
                room.give_back(one)
            room.give_back(one)
        assert not room.is_queued
        assert room.is_free(99, 1, 0)
        if not where:
            return


# --- another interrupt in the cleanup of the first -------------------------------------------------------


def struck(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, times: int) -> None:
    """The next `times` that the pipeline is about to finish what must be finished, it is interrupted."""
    finish, strikes = pipeline._shielded, [KeyboardInterrupt() for _ in range(times)]

    def interrupted(step: Callable[[], None]) -> None:
        if strikes:
            raise strikes.pop()
        finish(step)

    monkeypatch.setattr(pipeline, "_shielded", interrupted)


@both
def test_a_second_interrupt_does_not_leave_the_lead_with_who_is_gone(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryDisk()
    with open_log(disk, strategy) as log:
        log.save([entry(1)])
        struck(monkeypatch, log._pipeline, 2)
        with pytest.raises(KeyboardInterrupt):
            log.save([entry(2)])
        check_goes_on_from_another_thread(log)


def check_goes_on_from_another_thread(log: RaftLog) -> None:
    outcome(background(lambda: log.save([entry(log.next_index)])))
    assert log.durable_index == log.last_index == log.next_index - 1


def test_what_must_be_finished_is_finished_wherever_a_second_interrupt_comes() -> None:
    with open_log(MemoryDisk(), DiskFirst()) as log:
        for step in count(1):
            attempts: list[str] = []

            def work(attempts: list[str] = attempts) -> None:
                attempts.append("begun")
                if len(attempts) == 1:
                    raise KeyboardInterrupt
                attempts.append("done")

            with interrupt(step, is_core) as where, contextlib.suppress(KeyboardInterrupt):
                log._pipeline._shielded(work)
            assert not attempts or attempts[-1] == "done", where
            if not where:
                assert step > 5
                return


def test_a_second_interrupt_leaves_all_the_room_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    with open_log(disk, DiskFirst(), pending_bytes_max=600) as log, disk.gate.closed():
        leading = background(lambda: log.append(span(1, 4)))
        disk.gate.wait_for_arrival()
        pipeline = log._pipeline
        with monkeypatch.context() as patch:
            struck(patch, pipeline, 1)
            patch.setattr(pipeline, "_sleep_for_room", interrupted_sleep)
            with pytest.raises(KeyboardInterrupt):
                log.append(span(4, 7))
        disk.gate.open()
        outcome(leading)
        assert not pipeline.ledger.room.is_queued
        outcome(background(lambda: log.append(span(4, 7))))


def interrupted_sleep(_waiting: RoomWaiter) -> None:
    raise KeyboardInterrupt


def test_closing_again_after_two_interrupts_still_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second came before what the first attempt had announced was taken back."""
    disk = MemoryDisk()
    log = open_log(disk, MemFirst(), NEVER)
    log.append(span(1, 4))
    with monkeypatch.context() as patch:
        patch.setattr(log._pipeline, "wait", interrupted_sleep)
        with pytest.raises(KeyboardInterrupt):
            log.close()
    log._pipeline.ledger.closing = StoreClosedError("closed")
    log.close()
    assert sorted(disk.state.entries) == [1, 2, 3]
