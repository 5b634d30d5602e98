"""`raftstore.aio`: the same log, awaitable, and the event loop is never blocked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from log_tools import both

import raftstore.aio
from raftstore.aio import AsyncRaftLog
from raftstore.entry import NO_ENTRY, HardState, LogId, Splice
from raftstore.errors import BackpressureError, GapError, StoreClosedError, StoreFailedError, TruncatedError
from raftstore.ledger import Ledger
from raftstore.log import RaftLog
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import close_broken, open_log
from raftstore.testing.tools import PATIENCE_S, entry, eventually, run, span
from raftstore.waiting import Waiter

Opener = Callable[[MemoryDisk, Strategy], RaftLog]
Body = Callable[[AsyncRaftLog], Coroutine[Any, Any, None]]


def little_room(disk: MemoryDisk, strategy: Strategy) -> RaftLog:
    return open_log(disk, strategy, pending_bytes_max=1000, backpressure_timeout_ms=120_000)


def little_patience(disk: MemoryDisk, strategy: Strategy) -> RaftLog:
    return open_log(disk, strategy, pending_bytes_max=1000, backpressure_timeout_ms=30)


def run_with(disk: MemoryDisk, strategy: Strategy, body: Body, opener: Opener = open_log) -> None:
    """Run `body` on a loop of its own with a log on `disk`."""

    async def main() -> None:
        async with AsyncRaftLog(opener(disk, strategy)) as log:
            await asyncio.wait_for(body(log), PATIENCE_S)

    asyncio.run(main(), debug=True)


async def arrived(disk: MemoryDisk, count: int = 1) -> None:
    """A write stands at the gate."""
    await asyncio.to_thread(disk.gate.wait_for_arrival, count)


@both
def test_every_member_answers_as_the_log_does(disk: MemoryDisk, strategy: Strategy) -> None:
    async def body(log: AsyncRaftLog) -> None:
        assert await log.append(span(1, 4)) == LogId(1, 3)
        assert await log.propose(2, [b"a", b"b"], kind=3) == range(4, 6)
        assert await log.splice(LogId(2, 5), run(6, [2])) == Splice(matched=True, match_index=6)
        await log.flush()
        assert (log.first_index, log.last_index, log.next_index, log.durable_index) == (1, 6, 7, 6)
        assert (log.anchor, log.last, log.is_empty, len(log)) == (NO_ENTRY, LogId(2, 6), False, 6)
        assert await log.entry(3) == entry(3)
        assert await log.entries(1, 4) == span(1, 4)
        assert (log.term(4), log.first_index_of_term(2), log.last_index_of_term(1)) == (2, 4, 3)
        await log.save_hard_state(HardState(2, "a"))
        await log.commit_to(5)
        assert log.hard_state == HardState(2, "a", log.commit_index)
        assert log.commit_index == 5
        assert log.majority_index([6, 6], 2) == 6
        await log.put_meta("k", b"v")
        assert log.get_meta("k") == b"v"
        await log.save(run(7, [3]), meta={"k": None})
        await log.truncate(7)
        await log.purge(2)
        await log.wait_durable(6)
        assert [e.index async for e in log.scan(3)] == [3, 4, 5, 6]
        assert await log.install_snapshot(LogId(9, 40)) is True
        await log.reset(LogId(9, 50))
        assert (await log.status()).last_index == 50
        assert log.recovery.created

    run_with(disk, strategy, body)


def test_a_voter_sees_what_is_accepted_and_not_durable_yet(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            receipt = await log.submit_propose(1, [b"a"], start=1)
            assert (log.last, log.last_accepted) == (NO_ENTRY, LogId(1, 1))
            with pytest.raises(GapError):
                await log.submit_propose(1, [b"b"], start=1)
        await receipt
        assert log.last == log.last_accepted == LogId(1, 1)

    run_with(disk, DiskFirst(), body)


def test_a_log_may_be_used_from_one_loop_after_another(disk: MemoryDisk) -> None:
    with open_log(disk) as sync:
        log = AsyncRaftLog(sync)
        for _ in range(2):
            asyncio.run(asyncio.wait_for(_propose(log), PATIENCE_S))
        assert sync.last_index == 2


async def _propose(log: AsyncRaftLog) -> None:
    await log.propose(1, [b"x"])


@both
def test_errors_arrive_at_the_await(disk: MemoryDisk, strategy: Strategy) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with pytest.raises(GapError):
            await log.append(span(2, 4))
        with pytest.raises(LookupError):
            await log.entry(0)
        await log.append(span(1, 3))

    run_with(disk, strategy, body)


@both
def test_appends_of_many_tasks_share_a_flush(disk: MemoryDisk, strategy: Strategy) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            await log.submit([entry(1)])
            await arrived(disk)
            tasks = [asyncio.ensure_future(log.propose(1, [b"x"])) for _ in range(100)]
            while log.next_index < 102:
                await asyncio.sleep(0)
        indexes = [indexes[0] for indexes in await asyncio.gather(*tasks)]
        assert indexes == list(range(2, 102))
        await log.flush()
        assert disk.calls <= 3

    run_with(disk, strategy, body)


@both
def test_the_loop_goes_on_while_the_disk_stands_still(disk: MemoryDisk, strategy: Strategy) -> None:
    async def body(log: AsyncRaftLog) -> None:
        await log.append(span(1, 3))
        with disk.gate.closed():
            vote = asyncio.ensure_future(log.save_hard_state(HardState(1, "a")))
            waiting: list[Awaitable[object]] = [
                asyncio.ensure_future(call) for call in (log.append(span(3, 4)), log.flush())
            ]
            await arrived(disk)
            for _ in range(50):
                await asyncio.sleep(0.0001)
            assert not vote.done()
        await asyncio.gather(vote, *waiting)
        assert log.durable_index == 3

    run_with(disk, strategy, body)


def test_no_write_happens_on_the_thread_of_the_loop(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: set[int] = set()
    original = disk.apply

    def noting(*args: Any) -> None:
        writers.add(threading.get_ident())
        original(*args)

    monkeypatch.setattr(disk, "apply", noting)

    async def body(log: AsyncRaftLog) -> None:
        await log.append(span(1, 3))
        await log.propose(1, [b"x"])
        await log.flush()
        await log.save_hard_state(HardState(1, "a"))
        await log.purge(1)
        assert threading.get_ident() not in writers
        assert writers

    run_with(disk, DiskFirst(), body)


def test_no_read_of_the_disk_happens_on_the_thread_of_the_loop(disk: MemoryDisk) -> None:
    with open_log(disk) as first:
        first.append(span(1, 41))

    async def body(log: AsyncRaftLog) -> None:
        with disk.read_gate.closed():
            reading = asyncio.ensure_future(log.entries(1))
            await asyncio.to_thread(disk.read_gate.wait_for_arrival)
            await asyncio.sleep(0)
        assert await reading == span(1, 41)

    run_with(disk, DiskFirst(), body)


def test_calls_are_accepted_in_the_order_they_first_run(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        tasks = [asyncio.ensure_future(log.append([entry(index)])) for index in range(1, 101)]
        await asyncio.gather(*tasks)
        assert await log.entries(1) == span(1, 101)

    run_with(disk, DiskFirst(), body)


def test_calls_are_accepted_in_order_when_there_is_no_room_either(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        tasks = [asyncio.ensure_future(log.append([entry(index)])) for index in range(1, 101)]
        await asyncio.gather(*tasks)
        assert await log.entries(1) == span(1, 101)

    run_with(disk, MemFirst(), body, little_room)


def test_cancelling_an_await_does_not_withdraw_the_write(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            task = asyncio.ensure_future(log.append(span(1, 4)))
            await arrived(disk)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await log.flush()
        assert await log.entries(1) == span(1, 4)

    run_with(disk, DiskFirst(), body)


def test_cancelling_those_who_wait_for_room_lets_the_others_in(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            first = asyncio.ensure_future(log.propose(1, [b"x" * 900]))
            await arrived(disk)
            given_up = asyncio.ensure_future(log.propose(1, [b"y" * 900]))
            patient = asyncio.ensure_future(log.propose(1, [b"z" * 900]))
            await asyncio.sleep(0.01)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        await asyncio.gather(first, patient)
        await log.flush()
        assert [e.data[:1] for e in await log.entries(1)] == [b"x", b"z"]

    run_with(disk, MemFirst(), body, little_room)


def test_a_task_whose_wake_up_was_lost_finds_its_room(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt in the thread that granted the room may lose it."""
    monkeypatch.setattr("raftstore.pipeline.LOOK_UP_S", 0.01)
    finish, lost = Ledger.finish, list[Waiter]()

    def finish_without_waking(ledger: Ledger) -> list[Waiter]:
        lost.extend(finish(ledger))
        return []

    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            first = asyncio.create_task(log.append([entry(1, data=b"x" * 900)]))
            await arrived(disk)
            second = asyncio.create_task(log.append([entry(2, data=b"x" * 900)]))
            while not log.log._session.pipeline.ledger.room.queue:
                await asyncio.sleep(0)
            monkeypatch.setattr(Ledger, "finish", finish_without_waking)
        await asyncio.gather(first, second)
        assert lost

    run_with(disk, DiskFirst(), body, little_room)


def test_backpressure_reaches_the_task(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            await log.append([entry(1, data=b"x" * 900)])
            with pytest.raises(BackpressureError):
                await log.append([entry(2, data=b"x" * 900)])
        await log.flush()
        await log.append([entry(2)])

    run_with(disk, MemFirst(), body, little_patience)


def test_a_timeout_around_an_await_works(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            receipt = await log.submit(span(1, 4))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_wait(receipt), 0.02)
            with pytest.raises(TimeoutError):
                await log.wait_durable(3, timeout=0.02)
        await log.wait_durable(3)
        await receipt

    run_with(disk, DiskFirst(), body)


async def _wait(receipt: Any) -> None:
    await receipt


def test_receipts_report_what_became_of_their_entries(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            await log.submit([entry(1)])
            await arrived(disk)
            gone = await log.submit(span(2, 5))
            cutting = asyncio.ensure_future(log.truncate(3))
            await asyncio.sleep(0)
            while log.next_index != 3:
                await asyncio.sleep(0.001)
        with pytest.raises(TruncatedError):
            await gone
        await cutting

    run_with(disk, DiskFirst(), body)


def test_callbacks_run_on_the_loop(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        threads: set[int] = set()
        seen: list[int] = []
        reached = asyncio.Event()

        def callback(index: int) -> None:
            threads.add(threading.get_ident())
            seen.append(index)
            if index == 20:
                reached.set()

        unsubscribe = log.on_durable(callback)
        for index in range(1, 21):
            await log.append([entry(index)])
        await log.flush()
        await reached.wait()
        assert threads == {threading.get_ident()}
        assert seen == sorted(set(seen))
        unsubscribe()

    run_with(disk, DiskFirst(), body)


def test_a_failure_reaches_every_task(disk: MemoryDisk) -> None:
    async def main() -> None:
        sync = open_log(disk, DiskFirst())
        log = AsyncRaftLog(sync)
        with disk.gate.closed():
            receipt = await log.submit([entry(1)])
            await arrived(disk)
            tasks = [asyncio.ensure_future(log.propose(1, [b"x"])) for _ in range(5)]
            tasks2 = [asyncio.ensure_future(log.flush()), asyncio.ensure_future(log.wait_durable(1))]
            await asyncio.sleep(0.01)
            disk.fail_next(OSError(5, "bad sector"))
        results = await asyncio.gather(*tasks, *tasks2, return_exceptions=True)
        assert all(isinstance(result, StoreFailedError) for result in results), results
        with pytest.raises(StoreFailedError):
            await receipt
        await asyncio.to_thread(close_broken, sync)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_loop_that_ends_while_a_flush_runs_harms_nobody(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as sync:

        async def main() -> None:
            log = AsyncRaftLog(sync)
            task = asyncio.ensure_future(log.append(span(1, 4)))
            await arrived(disk)
            task.cancel()

        with disk.gate.closed():
            asyncio.run(main())
        sync.flush()
        assert sync.entries(1) == span(1, 4)
        sync.append([entry(4)])


def test_two_loops_share_one_log(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as sync:

        def loop() -> None:
            async def main() -> None:
                log = AsyncRaftLog(sync)
                for _ in range(50):
                    await log.propose(1, [b"x"])

            asyncio.run(main())

        threads = [threading.Thread(target=loop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sync.last_index == 150


def test_after_close_every_call_raises(disk: MemoryDisk) -> None:
    async def main() -> None:
        log = AsyncRaftLog(open_log(disk, DiskFirst()))
        await log.append([entry(1)])
        await log.close()
        await log.close()
        with pytest.raises(StoreClosedError):
            await log.append([entry(2)])
        with pytest.raises(StoreClosedError):
            await log.entries(1)

    asyncio.run(main())


@pytest.mark.backend("segmented")
def test_a_log_is_opened_without_blocking_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with await raftstore.aio.open(f"segmented://{tmp_path}/s?segment_bytes=64KiB") as log:
            await log.append(span(1, 4))
        async with await raftstore.aio.open(f"segmented://{tmp_path}/s?segment_bytes=64KiB") as log:
            assert await log.entries(1) == span(1, 4)

    asyncio.run(main())
    eventually(
        lambda: not any(t.name.startswith("raftstore") for t in threading.enumerate()), "no thread is left"
    )
