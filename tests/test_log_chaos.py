"""Threads, a disk that fills up, and power cuts, all together; judged by what each caller was told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from log_tools import both, in_the_end, policies

from raftstore.batch import WriteBatch
from raftstore.entry import HardState, LogId
from raftstore.errors import (
    BackpressureError,
    StoreFailedError,
    StoreFullError,
    TruncatedError,
)
from raftstore.hardstate import decode_hard_state
from raftstore.log import RaftLog
from raftstore.policy import FlushPolicy
from raftstore.strategy import DiskFirst, Strategy
from raftstore.testing.memory import MemoryBackend, MemoryDisk
from raftstore.testing.open_log import close_broken, open_log
from raftstore.testing.tools import PATIENCE_S, background, entry, in_threads, outcome

TERM = 10**6
"""Of all entries: above every term that is voted in."""
seeds = pytest.mark.parametrize("seed", range(4))


class Told:
    """What the callers of a log were told, by index."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.refused: set[bytes] = set()
        self.durable: dict[int, bytes] = {}
        self.term = 0

    def check(self, found: dict[int, bytes], *, durable_only: bool) -> None:
        """Everything promised is in `found`, and nothing refused."""
        for index, data in (self.durable if durable_only else self.acknowledged).items():
            assert found.get(index) == data, index
        assert not self.refused & set(found.values())


def propose_until(log: RaftLog, told: Told, number: int, stop: Callable[[], bool]) -> None:
    """Propose payloads that occur only once, and note what becomes of each."""
    for count in range(10**9):
        if stop():
            return
        data = b"%d:%d" % (number, count)
        try:
            index = log.propose(TERM, [data])[0]
        except (StoreFullError, BackpressureError):
            told.refused.add(data)
            continue
        except StoreFailedError:
            return
        told.acknowledged[index] = data
        durable = log.durable_index
        if index <= durable:
            told.durable[index] = data


def contents(disk: MemoryDisk) -> dict[int, bytes]:
    return {index: e.data for index, e in disk.state.entries.items()}


@seeds
@policies
@both
def test_a_power_cut_beside_threads_takes_nothing_that_was_promised(
    disk: MemoryDisk, strategy: Strategy, policy: FlushPolicy, seed: int
) -> None:
    told, cut = Told(), threading.Event()
    log = open_log(disk, strategy, policy)
    threads = [background(lambda n=n: propose_until(log, told, n, cut.is_set)) for n in range(4)]  # type: ignore[misc]
    voter = background(lambda: _vote_until(log, told, cut))
    time.sleep(random.Random(seed).uniform(0.01, 0.08))
    disk.crash()
    cut.set()
    for thread in [*threads, voter]:
        outcome(thread)
    close_broken(log)
    found = contents(disk)
    assert sorted(found) == list(range(1, len(found) + 1))
    told.check(found, durable_only=strategy != DiskFirst())
    assert decode_hard_state(disk.state.hard_state).term >= told.term
    with open_log(disk, strategy, policy) as log:
        assert {e.index: e.data for e in log.scan()} == found
        log.append([entry(log.next_index, TERM)])


def _vote_until(log: RaftLog, told: Told, cut: threading.Event) -> None:
    while not cut.is_set():
        try:
            log.save_hard_state(HardState(told.term + 1, "me"))
        except StoreFailedError:
            return
        told.term += 1


@seeds
@policies
@both
def test_a_disk_that_fills_up_beside_threads_keeps_what_was_acknowledged_and_nothing_refused(
    disk: MemoryDisk, strategy: Strategy, policy: FlushPolicy, seed: int
) -> None:
    told, end, pick = Told(), time.monotonic() + 0.3, random.Random(seed)
    with open_log(disk, strategy, policy, backpressure_timeout_ms=20, pending_bytes_max=4000) as log:
        done = threading.Event()
        threads = [background(lambda n=n: propose_until(log, told, n, done.is_set)) for n in range(4)]  # type: ignore[misc]
        try:
            while time.monotonic() < end or not (told.acknowledged and told.term):
                disk.full = not disk.full
                time.sleep(pick.uniform(0, 0.02))
                told.term += 1
                log.save_hard_state(HardState(1, "me"))
                log.put_meta("round", b"%d" % told.term)
        finally:
            disk.full = False
            done.set()
            for thread in threads:
                outcome(thread)
        in_the_end(log.flush)
        assert log.durable_index == log.last_index == log.next_index - 1
        found = {e.index: e.data for e in log.scan()}
        told.check(found, durable_only=False)
        assert log.get_meta("round") == b"%d" % told.term
    assert contents(disk) == found
    assert sorted(found) == list(range(1, len(found) + 1))
    assert len(told.acknowledged) == len(found) > 0


@seeds
@both
def test_receipts_tell_the_truth_beside_truncations_and_a_full_disk(
    disk: MemoryDisk, strategy: Strategy, seed: int
) -> None:
    """A receipt that completes well names entries that are there, unless a later truncation took them."""
    pick, end = random.Random(seed), time.monotonic() + 0.3
    durable_then: list[tuple[int, bytes]] = []
    cuts: list[int] = []

    def submitter(number: int) -> None:
        for count in range(10**9):
            if time.monotonic() > end:
                return
            data = b"%d:%d" % (number, count)
            try:
                receipt = log.submit_propose(TERM, [data])
                receipt.wait(PATIENCE_S)
            except (TruncatedError, StoreFullError, BackpressureError):
                refused.add(data)
                continue
            durable_then.append((receipt.first, data))

    def cutter(_number: int) -> None:
        while time.monotonic() < end:
            start = max(1, log.next_index - pick.randrange(4))
            disk.full = pick.random() < 0.3
            try:
                log.truncate(start)
                cuts.append(start)
            except StoreFullError:
                pass
            time.sleep(0.001)
        disk.full = False

    refused: set[bytes] = set()
    with open_log(disk, strategy, backpressure_timeout_ms=20) as log:
        in_threads(4, lambda n: cutter(n) if n == 0 else submitter(n))
        in_the_end(log.flush)
        found = {e.index: e.data for e in log.scan()}
        assert not refused & set(found.values())
        assert set(found.items()) <= set(durable_then)
        assert log.last == LogId(TERM if found else 0, len(found))
    assert contents(disk) == found


def test_a_write_that_begins_beside_a_power_cut_is_nobodys(disk: MemoryDisk) -> None:
    class CutShort(MemoryBackend):
        def _check_batch(self, batch: WriteBatch) -> None:
            self.disk.crash()

    with pytest.raises(OSError, match="the power failed"):
        CutShort(disk=disk).write(WriteBatch(1, entries=[entry(1)]))
    with open_log(disk) as log:
        log.append([entry(1, data=b"another")])
        assert log.entries(1) == [entry(1, data=b"another")]
