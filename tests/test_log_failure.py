"""A disk that fails: the log latches, everybody is answered, nothing more is written."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from errno import EIO

import pytest
from log_tools import NEVER, both

from raftstore.entry import NO_ENTRY, Entry, HardState, LogId
from raftstore.errors import CorruptionError, StoreClosedError, StoreFailedError
from raftstore.flusher import Flusher
from raftstore.policy import Pending
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryBackend, MemoryDisk
from raftstore.testing.open_log import close_broken, open_log
from raftstore.testing.tools import (
    PATIENCE_S,
    assert_waits,
    background,
    entry,
    eventually,
    outcome,
    run,
    span,
)


@both
def test_flush_raises_what_the_disk_said(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy, NEVER)
    log.submit(span(1, 4))
    disk.fail_next(OSError(EIO, "bad sector"))
    with pytest.raises(StoreFailedError) as caught:
        log.flush()
    assert isinstance(caught.value.__cause__, OSError)
    assert log.durable_index == 0
    close_broken(log)


@both
def test_flush_waits_for_the_write_in_flight(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            log.submit(span(1, 4))
            disk.gate.wait_for_arrival()
            call = background(log.flush)
            assert_waits(call)
        outcome(call)
        assert log.durable_index == 3


@both
def test_every_waiter_is_answered_when_the_disk_fails(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    with disk.gate.closed():
        receipt = log.submit(span(1, 4))
        disk.gate.wait_for_arrival()
        later = log.submit(span(4, 6))
        calls: list[Future[object]] = [
            background(lambda: log.wait_durable(3, PATIENCE_S)),
            background(lambda: log.wait_durable(5, PATIENCE_S)),
            background(log.flush),
            background(lambda: log.purge(2)),
            background(lambda: log.save_hard_state(HardState(1, "a"))),
            background(lambda: receipt.wait(PATIENCE_S)),
            background(lambda: later.wait(PATIENCE_S)),
        ]
        assert_waits(*calls)
        disk.fail_next(OSError(EIO, "bad sector"))
    for call in calls:
        with pytest.raises(StoreFailedError):
            outcome(call)
    assert receipt.done()
    assert later.done()
    close_broken(log)


@both
@pytest.mark.parametrize("applied", [False, True])
def test_nothing_is_written_after_a_failure(disk: MemoryDisk, strategy: Strategy, applied: bool) -> None:
    log = open_log(disk, strategy)
    log.append(span(1, 4))
    log.flush()
    disk.fail_next(OSError(EIO, "bad sector"), applied=applied)
    with pytest.raises(StoreFailedError):
        log.save(span(4, 6))
    calls = disk.calls
    for call in (
        lambda: log.append([entry(log.next_index)]),
        lambda: log.propose(9, [b"x"]),
        lambda: log.submit([entry(log.next_index)]),
        lambda: log.splice(LogId(1, 3), run(4, [1])),
        lambda: log.truncate(2),
        lambda: log.purge(2),
        lambda: log.reset(NO_ENTRY),
        lambda: log.install_snapshot(LogId(5, 50)),
        lambda: log.save_hard_state(HardState(9, "b")),
        lambda: log.put_meta("a", b""),
        lambda: log.save(meta={"a": b""}),
        log.flush,
    ):
        with pytest.raises(StoreFailedError) as caught:
            call()
        assert caught.value.__cause__ is not None
    close_broken(log)
    assert disk.calls == calls
    disk.begun = None  # the next process does not know of it
    with open_log(disk, strategy) as log:
        assert log.entries(1) == span(1, 6 if applied else 4)
        log.append([entry(log.next_index)])


@both
def test_reads_of_what_was_durable_go_on_after_a_failure(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    log.append(run(1, [1, 2, 3]))
    log.flush()
    disk.fail_next(OSError(EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        log.put_meta("a", b"")
    assert log.entries(1) == run(1, [1, 2, 3])
    assert (log.durable_index, log.term(2), log.last) == (3, 2, LogId(3, 3))
    assert log.hard_state == HardState()
    close_broken(log)


@both
def test_any_exception_out_of_the_backend_latches(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    disk.fail_next(ZeroDivisionError("a bug in a backend"))
    with pytest.raises(StoreFailedError) as caught:
        log.save(span(1, 2))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(StoreFailedError):
        log.append(span(1, 2))
    close_broken(log)


@both
def test_a_failed_purge_is_not_a_success(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    log.append(span(1, 11))
    log.flush()
    disk.fail_next(OSError(EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        log.purge(5)
    assert log.entries(1) == span(1, 11)
    close_broken(log)


@both
def test_a_failed_conflict_is_not_a_success(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    log.append(span(1, 6))
    log.flush()
    disk.fail_next(OSError(EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        log.splice(LogId(1, 2), run(3, [2, 2]))
    close_broken(log)
    with open_log(disk, strategy) as log:
        assert log.entries(1) == span(1, 6)


@both
def test_a_failed_vote_is_not_shown(disk: MemoryDisk, strategy: Strategy) -> None:
    log = open_log(disk, strategy)
    disk.fail_next(OSError(EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        log.save_hard_state(HardState(1, "a"))
    assert log.hard_state == HardState()
    close_broken(log)


def test_a_failed_maintenance_latches(disk: MemoryDisk) -> None:
    log = open_log(disk, DiskFirst())
    disk.fail_next_maintain(OSError(EIO, "bad sector"))
    log.append(span(1, 4))
    eventually(lambda: log.status().state == "failed", "the failed upkeep is noticed")
    with pytest.raises(StoreFailedError):
        log.append([entry(4)])
    close_broken(log)


@pytest.mark.parametrize("startup", ["lazy", "preload"])
@both
def test_a_log_that_cannot_be_read_does_not_open_empty(
    disk: MemoryDisk, strategy: Strategy, startup: str
) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 11))
    disk.fail_next_read(CorruptionError("planted", first_index=3, last_index=3))
    with pytest.raises(CorruptionError), open_log(disk, strategy, startup=startup) as log:
        log.entries(1)


@pytest.mark.parametrize("startup", ["lazy", "preload"])
@both
def test_a_hole_on_disk_is_corruption(
    disk: MemoryDisk, strategy: Strategy, startup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 11))
    read = MemoryBackend.read

    def with_a_hole(backend: MemoryBackend, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        return [e for e in read(backend, start, stop, bytes_max) if e.index != 5]

    monkeypatch.setattr(MemoryBackend, "read", with_a_hole)
    with pytest.raises(CorruptionError), open_log(disk, strategy, startup=startup) as log:
        log.entries(1)


@both
def test_a_flusher_that_dies_hangs_nobody(
    disk: MemoryDisk, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(disk, strategy)

    def die(_flusher: Flusher) -> None:
        raise ZeroDivisionError("a bug in the flusher")

    monkeypatch.setattr(Flusher, "_look", die)
    with contextlib.suppress(StoreFailedError):
        log.submit(span(1, 4)).wait(PATIENCE_S)
        log.submit(span(4, 6)).wait(PATIENCE_S)
    outcome(background(lambda: close_broken(log)))


@both
@pytest.mark.parametrize("error", [RuntimeError("planted"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_callback_raises_the_others_are_called(
    disk: MemoryDisk, strategy: Strategy, error: BaseException
) -> None:
    seen: list[int] = []

    def bad(_argument: object) -> None:
        raise error

    with open_log(disk, strategy) as log:
        log.on_durable(bad)
        log.on_durable(seen.append)
        for index in range(1, 4):
            receipt = log.submit([entry(index)])
            receipt.add_done_callback(bad)
            receipt.wait(PATIENCE_S)
            eventually(lambda index=index: seen[-1:] == [index], "the other callback")  # type: ignore[misc]


class Unsound:
    """A flush policy with a bug."""

    def due_s(self, pending: Pending) -> float:
        raise ZeroDivisionError(pending)


@both
def test_a_policy_that_raises_delays_nothing(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, Unsound()) as log:
        log.append(span(1, 4))
        log.submit(span(4, 6)).wait(PATIENCE_S)
        assert log.durable_index == 5


def test_closing_says_that_what_memory_acknowledged_was_not_written(disk: MemoryDisk) -> None:
    log = open_log(disk, MemFirst(), NEVER)
    log.append(span(1, 4))
    disk.fail_next(OSError(EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        log.close()
    log.close()
    with pytest.raises(StoreClosedError):
        log.flush()
