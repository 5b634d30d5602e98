"""What the core spends, in counts: calls, wake-ups, flushes, bytes. No clock."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from interrupting import nothing_collected
from log_tools import NEVER

import raftstore
from raftstore.aio import AsyncRaftLog
from raftstore.entry import Entry
from raftstore.log import RaftLog
from raftstore.strategy import MemFirst
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import PATIENCE_S, entry, in_threads

CORE = str(Path(raftstore.__file__).parent)
TASKS, ROUNDS = 64, 20


def calls_in_core(body: Callable[[], object]) -> int:
    """How many Python functions of the core `body` calls, in this thread, those of backends not counted."""
    count = 0

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        if event == "call" and str(Path(frame.f_code.co_filename).parent) == CORE:
            count += 1

    with nothing_collected():
        sys.setprofile(profile)
        try:
            body()
        finally:
            sys.setprofile(None)
    return count


def test_a_lonely_durable_append_calls_few_functions(disk: MemoryDisk) -> None:
    with open_log(disk) as log:
        log.append([entry(1)])
        assert calls_in_core(lambda: log.append([entry(2)])) <= 47


def test_an_append_to_memory_calls_few_functions(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), NEVER) as log:
        log.append([entry(1)])
        assert calls_in_core(lambda: log.append([entry(2)])) <= 32


def test_an_entry_costs_no_call_of_its_own(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), NEVER) as log:
        log.append([entry(1)])
        few = calls_in_core(lambda: log.append([entry(index) for index in range(2, 12)]))
        many = calls_in_core(lambda: log.append([entry(index) for index in range(12, 1012)]))
        assert many == few


def test_a_further_write_of_a_group_costs_the_flush_little(disk: MemoryDisk) -> None:
    with open_log(disk, policy=NEVER) as log:

        def flushing(writes: int) -> int:
            for _ in range(writes):
                log.submit_propose(1, [b"x"])
            return calls_in_core(log.flush)

        assert flushing(201) - flushing(101) <= 200


def propose_in_tasks(log: RaftLog) -> None:
    """`TASKS` tasks, each proposing and awaiting `ROUNDS` entries of its own."""

    async def main() -> None:
        shared = AsyncRaftLog(log)

        async def proposer() -> None:
            for _ in range(ROUNDS):
                await shared.propose(1, [b"x"])

        await asyncio.gather(*[proposer() for _ in range(TASKS)])

    asyncio.run(main())


def test_many_tasks_share_flushes(disk: MemoryDisk) -> None:
    with open_log(disk) as log:
        propose_in_tasks(log)
        assert log.durable_index == TASKS * ROUNDS
        assert disk.calls <= 0.05 * TASKS * ROUNDS


def test_a_group_wakes_its_loop_with_one_call(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TASKS` tasks have proposed before the flush begins that writes all of it."""
    calls: list[object] = []

    async def main(log: RaftLog) -> None:
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def counting(callback: Callable[..., object], *args: object, **options: object) -> object:
            calls.append(callback)
            return original(callback, *args, **options)  # type: ignore[arg-type]

        shared = AsyncRaftLog(log)
        tasks = [asyncio.create_task(shared.propose(1, [b"x"])) for _ in range(TASKS)]
        while log.next_index <= 1 + TASKS:
            await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", counting)
            disk.gate.open()
            await asyncio.gather(*tasks)

    with open_log(disk) as log:
        with disk.gate.closed():
            log.submit([entry(1)])
            disk.gate.wait_for_arrival()
            asyncio.run(main(log))
        assert (len(calls), disk.calls) == (1, 2)


def test_the_flusher_is_called_once_a_group(disk: MemoryDisk) -> None:
    wishes: list[float] = []
    with open_log(disk) as log:
        pipeline = log._pipeline  # pyright: ignore[reportPrivateUsage]
        original = pipeline.wish

        def counting(delay_s: float) -> None:
            if delay_s <= 0:
                wishes.append(delay_s)
            original(delay_s)

        pipeline.wish = counting
        propose_in_tasks(log)
        assert 1 <= len(wishes) <= 2 * disk.calls


def test_many_threads_share_flushes(disk: MemoryDisk) -> None:
    with open_log(disk) as log:
        with disk.gate.closed():
            log.submit_propose(1, [b"x"])
            disk.gate.wait_for_arrival()
            receipts = in_threads(8, lambda _n: [log.submit_propose(1, [b"x"]) for _ in range(50)])
        for receipt in receipts:
            receipt[-1].wait(PATIENCE_S)
        assert disk.calls == 2


# --- memory ----------------------------------------------------------------------------------------------

COUNT, SIZE = 20_000, 100
PAYLOADS = random.Random(1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A closed store of `COUNT` entries of `SIZE` bytes."""
    url = f"segmented://{tmp_path}/log?segment_bytes=1MiB"
    with raftstore.open(url) as log:
        for start in range(1, COUNT + 1, 1000):
            log.append([Entry(1, index, PAYLOADS.randbytes(SIZE)) for index in range(start, start + 1000)])
    return url


def memory_of(log: RaftLog, read: Callable[[], object]) -> tuple[int, int]:
    """By how many bytes `read` made the process grow, and by how many the log says that it did."""
    read_before = log.status().memory_bytes
    gc.collect()
    tracemalloc.start()
    try:
        read()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return grown, log.status().memory_bytes - read_before


@pytest.mark.backend("segmented")
def test_a_cached_entry_costs_little_more_than_its_payload(url: str) -> None:
    with raftstore.open(url) as log:
        grown, counted = memory_of(log, lambda: sum(1 for _ in log.scan()))
        assert counted >= COUNT * SIZE
        assert grown <= 260 * COUNT
        assert 0.8 * grown <= counted <= 1.2 * grown


@pytest.mark.backend("segmented")
def test_entries_read_at_random_are_counted_with_what_they_cost(url: str) -> None:
    picked = random.Random(2).sample(range(1, COUNT + 1, 2), COUNT // 4)
    with raftstore.open(url) as log:
        log.entry(1)
        grown, counted = memory_of(log, lambda: [log.entry(index) for index in picked] and None)
        assert counted >= len(picked) * SIZE
        assert 0.7 * grown <= counted <= 1.3 * grown


@pytest.mark.backend("segmented")
def test_a_preloaded_entry_costs_no_more_than_a_cached_one(url: str) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        with raftstore.open(f"{url}&startup=preload") as log:
            gc.collect()
            assert len(log) == COUNT
            assert tracemalloc.get_traced_memory()[0] <= 260 * COUNT + 300_000
    finally:
        tracemalloc.stop()
