"""Many threads on one log."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from interrupting import nothing_collected
from log_tools import NEVER, both, policies

import raftstore
from raftstore.entry import HardState, LogId
from raftstore.errors import (
    BackpressureError,
    CommittedError,
    EntryTooLargeError,
    GapError,
    PurgedError,
    RaftStoreError,
    StoreClosedError,
    TermError,
    TruncatedError,
    VoteError,
)
from raftstore.log import RaftLog
from raftstore.pipeline import Pipeline
from raftstore.policy import Batch, FlushPolicy
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import (
    PATIENCE_S,
    assert_waits,
    background,
    entry,
    eventually,
    in_threads,
    outcome,
    repeatedly,
    run,
    span,
)


@both
@policies
def test_everything_at_once(disk: MemoryDisk, strategy: Strategy, policy: FlushPolicy) -> None:
    """Every kind of call from many threads: no hang, no unexpected error, and a log that is whole."""
    expected = (GapError, PurgedError, CommittedError, TermError, VoteError, TruncatedError)
    end = time.monotonic() + 1.0
    with open_log(disk, strategy, policy, cache_bytes=4000) as log:

        def one(number: int) -> int:
            pick = random.Random(number)
            done = 0
            while time.monotonic() < end or not done:
                try:
                    _random_call(log, pick)
                except expected:
                    continue
                done += 1
            return done

        assert all(in_threads(8, one))
        log.flush()
        found = log.entries(log.first_index)
        assert [e.index for e in found] == list(range(log.first_index, log.next_index))
        assert all(a.term <= b.term for a, b in itertools.pairwise(found))
        assert log.durable_index == log.last_index
        assert log.anchor.index <= log.commit_index <= log.last_index
    with open_log(disk, strategy, policy) as log:
        assert log.entries(log.first_index) == found


def _random_call(log: RaftLog, pick: random.Random) -> None:
    last, term = log.last_index, max(1, log.last.term)
    at = max(log.first_index, last - 2)
    calls: list[Callable[[], object]] = [
        *[lambda: log.propose(term, [b"x" * pick.randrange(200)] * pick.randrange(1, 4))] * 4,
        lambda: log.submit_propose(term, [b"y"]).wait(PATIENCE_S),
        lambda: log.truncate(last - pick.randrange(3)),
        lambda: log.purge(last - 10 - pick.randrange(20)),
        lambda: log.splice(LogId(log.term(at) or 0, at), run(at + 1, [term + pick.randrange(2)] * 2)),
        lambda: log.save_hard_state(HardState(term, pick.choice("ab"))),
        lambda: log.commit_to(last - 5),
        lambda: list(log.scan(log.first_index)),
        lambda: log.wait_durable(last, PATIENCE_S),
        lambda: log.put_meta("k", b"%d" % last),
        lambda: log.entries(max(log.first_index, last - 20), bytes_max=500),
        log.status,
    ]
    pick.choice(calls)()


@both
def test_two_threads_voting_differently_do_not_both_succeed(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        for term in range(1, 60):

            def vote(number: int, term: int = term) -> bool:
                try:
                    log.save_hard_state(HardState(term, f"candidate {number}"))
                except VoteError:
                    return False
                return True

            granted = in_threads(3, vote)
            assert granted.count(True) == 1
            assert log.hard_state.voted_for == f"candidate {granted.index(True)}"


@both
def test_callers_share_writes(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            calls = [background(lambda: log.propose(1, [b"x"])) for _ in range(50)]
            eventually(lambda: log.next_index == 51, "all are accepted")
            disk.gate.wait_for_arrival()
        for call in calls:
            outcome(call)
        log.flush()
        assert disk.calls <= 3


def test_a_lonely_durable_append_hops_to_no_other_thread(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers, lead, may_lead = list[int](), Pipeline.lead, list[bool]()
    monkeypatch.setattr(Pipeline, "lead", lambda *parts: bool(may_lead) and lead(*parts))
    with open_log(disk, DiskFirst()) as log:
        original = disk.apply

        def noting(*args: object) -> None:
            writers.append(threading.get_ident())
            original(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(disk, "apply", noting)
        for index in range(1, 20):
            log.append([entry(index)])
        assert set(writers) == {threading.get_ident()}
        may_lead.append(True)  # The flusher: before, it might have been quicker by chance.
        log.submit([entry(20)]).wait(PATIENCE_S)
        assert writers[-1] != threading.get_ident()


def test_a_submit_never_writes_in_its_own_thread(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log, disk.gate.closed():
        receipts = [log.submit([entry(index)]) for index in range(1, 50)]
        assert not any(receipt.done() for receipt in receipts)


def test_a_batch_flushes_when_its_threshold_is_reached(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), Batch(10, 10**6)) as log:
        for index in range(1, 10):
            log.append([entry(index)])
        time.sleep(0.05)
        assert not disk.writes
        log.append([entry(10)])
        eventually(lambda: log.durable_index == 10, "the threshold is reached")
        assert disk.calls == 1


def test_a_batch_flushes_when_its_interval_has_passed(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), Batch(10**6, 30)) as log:
        begin = time.monotonic()
        log.append([entry(1)])
        log.flush()
        log.append([entry(2)])
        eventually(lambda: log.durable_index == 2, "the interval has passed")
        assert time.monotonic() - begin > 0.02


def test_a_durable_append_waits_for_the_batch_it_is_part_of(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst(), Batch(4, 10**6)) as log:
        log.flush()
        calls = [background(lambda: log.propose(1, [b"x"])) for _ in range(3)]
        eventually(lambda: log.next_index == 4, "three are accepted")
        assert_waits(*calls)
        log.propose(1, [b"x"])
        for call in calls:
            outcome(call)
        assert disk.calls == 1


# --- room ------------------------------------------------------------------------------------------------


def _append_kilobytes(log: RaftLog, count: int) -> None:
    for index in range(1, 1 + count):
        log.append([entry(index, data=b"x" * 1000)])


def test_mem_first_gives_up_when_too_much_waits_too_long(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), pending_bytes_max=4000, backpressure_timeout_ms=40) as log:
        with disk.gate.closed():
            with pytest.raises(BackpressureError):
                _append_kilobytes(log, 100)
            assert log.next_index <= 5
            assert log.status().pending_bytes <= 4000
        log.flush()
        log.append([entry(log.next_index)])


def test_mem_first_waits_for_room_and_goes_on(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), pending_bytes_max=4000, backpressure_timeout_ms=120_000) as log:
        with disk.gate.closed():
            log.append([entry(1, data=b"x" * 3500)])
            disk.gate.wait_for_arrival()
            waiting = background(lambda: log.append([entry(2, data=b"x" * 3500)]))
            assert_waits(waiting)
            assert log.next_index == 2
        assert outcome(waiting) == LogId(1, 2)


@both
def test_a_single_entry_larger_than_what_may_wait_is_admitted(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, pending_bytes_max=100, backpressure_timeout_ms=120_000) as log:
        for index in range(1, 4):
            log.append([entry(index, data=b"x" * 5000)])
        log.flush()
        assert log.durable_index == 3


def test_reaching_the_pending_limit_makes_the_flush_due(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), NEVER, pending_bytes_max=4000, backpressure_timeout_ms=120_000) as log:
        for index in range(1, 30):
            log.append([entry(index, data=b"x" * 1000)])
        assert log.durable_index > 0


def test_submitting_obeys_the_rules_of_room(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), pending_bytes_max=1000, backpressure_timeout_ms=20) as log:
        with disk.gate.closed():
            log.submit([entry(1, data=b"x" * 900)])
            with pytest.raises(BackpressureError):
                log.submit([entry(2, data=b"x" * 900)])
            assert log.next_index == 2
        log.flush()
        log.submit([entry(2)]).wait(PATIENCE_S)


@both
def test_pending_writes_never_exceed_their_limit(disk: MemoryDisk, strategy: Strategy) -> None:
    def check() -> None:
        assert log.status().pending_bytes <= 4000

    with open_log(disk, strategy, pending_bytes_max=4000, backpressure_timeout_ms=120_000) as log:
        with repeatedly(check, threads=1):
            in_threads(6, lambda n: [log.propose(1, [b"x" * (100 * n)]) for _ in range(60)])
        log.flush()
        assert log.last_index == 360


@both
def test_too_much_in_one_call_is_refused(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, write_bytes_max=1000) as log:
        with pytest.raises(EntryTooLargeError):
            log.append([entry(index, data=b"x" * 300) for index in range(1, 5)])
        with pytest.raises(EntryTooLargeError):
            log.propose(1, [b"x" * 300] * 4)
        assert log.next_index == 1
        log.propose(1, [b"x" * 300] * 3)


def test_urgent_calls_need_no_room(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), NEVER, pending_bytes_max=4000, backpressure_timeout_ms=40) as log:
        with disk.gate.closed():
            log.append([entry(1, data=b"x" * 3900)])
            vote = background(lambda: log.save_hard_state(HardState(1, "a")))
            disk.gate.wait_for_arrival()
        outcome(vote)


def test_memory_above_its_limit_refuses_appends_and_purging_helps(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), memory_bytes_max=20_000, backpressure_timeout_ms=20) as log:
        with pytest.raises(BackpressureError):
            _append_kilobytes(log, 100)
        last = log.last_index
        assert 10 <= last <= 20
        assert len(log.entries(1)) == last
        log.purge(last - 2)
        log.append([entry(last + 1, data=b"x" * 1000)])


def test_a_log_above_the_memory_limit_opens_reads_and_purges(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append([entry(index, data=b"x" * 1000) for index in range(1, 41)])
    with open_log(disk, MemFirst(), memory_bytes_max=20_000, backpressure_timeout_ms=20) as log:
        assert len(log.entries(1)) == 40
        with pytest.raises(BackpressureError):
            log.append([entry(41)])
        log.save_hard_state(HardState(3, "a"))
        log.purge(38)
        log.append([entry(41)])
        assert log.last_index == 41


def test_disk_first_callers_wait_however_long_the_disk_takes(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst(), pending_bytes_max=100, backpressure_timeout_ms=1) as log:
        with disk.gate.closed():
            calls = [background(lambda: log.propose(1, [b"x" * 90])) for _ in range(5)]
            disk.gate.wait_for_arrival()
            assert_waits(*calls)
        assert sorted(outcome(call)[0] for call in calls) == [1, 2, 3, 4, 5]


# --- callbacks and receipts ------------------------------------------------------------------------------


@both
def test_callbacks_run_one_at_a_time_in_order(disk: MemoryDisk, strategy: Strategy) -> None:
    seen: list[int] = []
    inside = threading.Lock()
    overlaps: list[int] = []

    def callback(index: int) -> None:
        if not inside.acquire(blocking=False):
            overlaps.append(index)
            return
        time.sleep(0.0002)
        seen.append(index)
        inside.release()

    with open_log(disk, strategy) as log:
        log.on_durable(callback)
        in_threads(5, lambda _: [log.propose(1, [b"x"]) for _ in range(40)])
        log.flush()
        eventually(lambda: seen[-1:] == [200], "the last callback")
    assert not overlaps
    assert seen == sorted(set(seen))


@both
def test_every_waiting_call_inside_a_callback_raises(disk: MemoryDisk, strategy: Strategy) -> None:
    results: list[object] = []
    log = open_log(disk, strategy)
    calls = {
        "flush": log.flush,
        "append": lambda: log.append([entry(log.next_index)]),
        "wait_durable": lambda: log.wait_durable(1, 1),
        "put_meta": lambda: log.put_meta("a", b""),
        "purge": lambda: log.purge(1),
        "vote": lambda: log.save_hard_state(HardState(9, "a")),
        "close": log.close,
    }
    if strategy == MemFirst():
        del calls["append"]

    def callback(_index: int) -> None:
        if not results:
            results.extend(_error_of(call) for call in calls.values())

    with log:
        log.on_durable(callback)
        log.append([entry(1)])
        log.flush()
        eventually(lambda: len(results) == len(calls), "the callback ran")
        for name, result in zip(calls, results, strict=True):
            assert isinstance(result, Exception), name
            assert not isinstance(result, TimeoutError), name


def _error_of(call: object) -> object:
    try:
        return call()  # type: ignore[operator]
    except Exception as error:
        return error


@both
def test_a_callback_may_read_and_submit(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:

        def callback(index: int) -> None:
            assert log.entry(index) is not None
            if index < 5:
                log.submit([entry(index + 1)])

        log.on_durable(callback)
        log.submit([entry(1)])
        eventually(lambda: log.durable_index == 5, "the chain of callbacks")


def _note(done: list[int], index: int, _receipt: object) -> None:
    done.append(index)


def test_receipts_of_one_log_complete_in_order(disk: MemoryDisk) -> None:
    done: list[int] = []
    with open_log(disk, DiskFirst()) as log:
        for index in range(1, 101):
            log.submit([entry(index)]).add_done_callback(partial(_note, done, index))
        log.flush()
        eventually(lambda: len(done) == 100, "all callbacks")
    assert done == list(range(1, 101))


@both
def test_who_learns_that_a_write_is_durable_finds_the_durable_index_there(
    disk: MemoryDisk, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving, go_on = threading.Event(), threading.Event()
    with open_log(disk, strategy) as log:
        ledger = log._session.pipeline.ledger
        watermark = ledger._watermark

        def moved_late() -> int:
            moving.set()
            go_on.wait(PATIENCE_S)
            return watermark()

        monkeypatch.setattr(ledger, "_watermark", moved_late)
        receipt = log.submit([entry(1)])
        assert moving.wait(PATIENCE_S)
        try:
            assert not receipt.done() or log.durable_index == 1
        finally:
            go_on.set()


def test_closing_answers_every_waiter(disk: MemoryDisk) -> None:
    log = open_log(disk, DiskFirst(), NEVER)
    receipt = log.submit(span(1, 4))
    waiting = background(lambda: log.wait_durable(3, PATIENCE_S))
    eventually(lambda: log.next_index == 4, "accepted")
    log.close()
    outcome(waiting)
    receipt.wait(0)


@both
def test_closing_beside_other_callers_gives_each_an_answer(disk: MemoryDisk, strategy: Strategy) -> None:
    for _ in range(10):
        log = open_log(disk, strategy)

        def work(number: int, log: RaftLog = log) -> bool:
            if number == 0:
                time.sleep(0.003)
                log.close()
                return True
            try:
                while True:
                    log.propose(1, [b"x"])
            except StoreClosedError:
                return True

        assert all(in_threads(4, work))
        log.close()


@both
def test_what_was_acknowledged_beside_closing_is_there(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    acknowledged: list[int] = []

    def work() -> None:
        try:
            while True:
                acknowledged.append(log.propose(1, [b"x"])[0])
        except StoreClosedError:
            pass

    call = background(work)
    eventually(lambda: len(acknowledged) > 20, "some are acknowledged")
    log.close()
    outcome(call)
    assert len(disk.state.entries) >= acknowledged[-1]


@both
def test_a_failed_log_closes_with_all_waiters_answered(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy, NEVER)
    receipt = log.submit(span(1, 4))
    disk.fail_next(OSError(5, "bad sector"))
    try:
        log.close()
    except RaftStoreError:
        log.close()
    assert receipt.done()
    with pytest.raises(RaftStoreError):
        receipt.wait(0)


# --- interrupts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
def test_an_interrupted_write_is_repeated_before_the_interrupt_goes_on(
    disk: MemoryDisk, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "lead", lambda *_: False)  # callers lead, not the flusher
    with open_log(disk, DiskFirst()) as log:
        log.append([entry(1)])
        disk.fail_next(KeyboardInterrupt(), applied=applied)
        with pytest.raises(KeyboardInterrupt):
            log.append([entry(2)])
        assert log.durable_index == 2
        assert log.entries(1) == span(1, 3)
        log.append([entry(3)])
    assert [e.index for batch in disk.writes for e in batch.entries] == [1, 2, 3]


def test_an_interrupt_that_swallows_the_wake_up_of_who_waits_for_room_leaves_nobody_asleep(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "lead", lambda *_: False)  # callers lead, not the flusher
    with open_log(disk, DiskFirst(), pending_bytes_max=100) as log:
        ledger = log._session.pipeline.ledger
        finish, interrupt = ledger.finish, [KeyboardInterrupt()]

        def interrupted() -> object:
            woken = finish()
            if woken and interrupt:  # who has room now was found, and is not woken yet
                raise interrupt.pop()
            return woken

        def append_once_the_disk_is_busy() -> None:
            disk.gate.wait_for_arrival()
            log.append([entry(2)])

        def go_on_once_somebody_waits() -> None:
            eventually(lambda: len(ledger.room.queue) == 1, "an append waits for room")
            disk.gate.open()

        monkeypatch.setattr(ledger, "finish", interrupted)
        with disk.gate.closed():
            waiting, opening = background(append_once_the_disk_is_busy), background(go_on_once_somebody_waits)
            with pytest.raises(KeyboardInterrupt):
                log.append([entry(1)])
        outcome(opening)
        outcome(waiting)
        assert log.durable_index == 2


OURS = str(Path(raftstore.__file__).parent)


class Interrupts:
    """Delivers KeyboardInterrupt to the main thread at odd moments, while it is armed.

    Only inside this library: elsewhere, as in a finalizer, it would be lost or do harm.
    """

    def __init__(self) -> None:
        self.armed = False
        self.count = 0

    def handle(self, _number: int, frame: FrameType | None) -> None:
        if self.armed and frame is not None and frame.f_code.co_filename.startswith(OURS):
            self.armed = False
            self.count += 1
            raise KeyboardInterrupt


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    interrupts, stop, pick = Interrupts(), threading.Event(), random.Random(7)
    previous = signal.signal(signal.SIGUSR1, interrupts.handle)
    target = threading.get_ident()

    def send() -> None:
        while not stop.wait(pick.uniform(2e-5, 1e-3)):
            signal.pthread_kill(target, signal.SIGUSR1)

    sender = background(send)
    with nothing_collected():  # under fire
        yield interrupts
    stop.set()
    outcome(sender)
    signal.signal(signal.SIGUSR1, previous)


@both
def test_interrupts_at_any_moment_break_nothing(
    disk: MemoryDisk, strategy: Strategy, interrupts: Interrupts
) -> None:
    with open_log(disk, strategy) as log:
        end = time.monotonic() + PATIENCE_S
        while interrupts.count < 150 and time.monotonic() < end:
            try:
                interrupts.armed = True
                for _ in range(30):
                    log.append([entry(log.next_index)])
                    log.save_hard_state(HardState(log.hard_state.term + 1))
                interrupts.armed = False
            except KeyboardInterrupt:
                pass
        log.flush()
        assert log.durable_index == log.last_index == log.next_index - 1
        found = log.entries(1)
    assert interrupts.count >= 150
    assert list(disk.state.entries.values()) == found
