"""Proposals of one tick of the event loop: accepted together, and nobody can tell but by the clock."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from raftstore.aio import AsyncRaftLog
from raftstore.entry import INDEX_MAX, Entry, HardState, LogId
from raftstore.errors import (
    EntryTooLargeError,
    GapError,
    StoreClosedError,
    StoreFailedError,
    StoreFullError,
    TermError,
    TruncatedError,
)
from raftstore.gathering import Gathering
from raftstore.log import RaftLog
from raftstore.strategy import MemFirst
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import close_broken, open_log
from raftstore.testing.tools import PATIENCE_S, entry, eventually, span

Body = Callable[[AsyncRaftLog], Coroutine[Any, Any, None]]


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def run_with(log: RaftLog, body: Body) -> None:
    """Run `body` on a loop of its own, and close the log."""

    async def main() -> None:
        async with AsyncRaftLog(log) as shared:
            await asyncio.wait_for(body(shared), PATIENCE_S)

    asyncio.run(main(), debug=True)


@contextmanager
def crowd(log: AsyncRaftLog) -> Iterator[None]:
    """As if another task were proposing: what is proposed now is gathered."""
    log._gatherer.under_way += 1
    try:
        yield
    finally:
        log._gatherer.under_way -= 1


async def started(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Future[Any]]:
    """Each as a task that has run its first step; the tick in which they did is not over yet."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: list[asyncio.Future[Any]]) -> list[Any]:
    """The result of each, or the type of its error."""
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one for one in found]


def accepted_writes(log: RaftLog) -> int:
    return log._session.pipeline.ledger.accepted.number


async def data_of(log: AsyncRaftLog) -> list[bytes]:
    return [one.data for one in await log.entries(1)]


def test_proposals_of_one_tick_are_one_write_and_each_gets_its_own_indexes(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        before = accepted_writes(log.log)
        with crowd(log):
            tasks = await started(
                log.propose(1, [b"a"]), log.propose(1, [b"b", b"c"]), log.propose(1, [b"d"])
            )
            assert await outcomes(tasks) == [range(1, 2), range(2, 4), range(4, 5)]
        assert accepted_writes(log.log) == before + 1
        assert await data_of(log) == [b"a", b"b", b"c", b"d"]

    run_with(open_log(disk), body)


def test_they_are_accepted_when_the_tick_ends_whatever_else_happens(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            assert log.log.next_index == 1
            await asyncio.sleep(0)
            assert log.log.next_index == 3
        assert await outcomes(tasks) == [range(1, 2), range(2, 3)]

    run_with(open_log(disk), body)


def test_a_task_that_proposes_alone_waits_for_no_tick(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        for index in range(1, 4):
            (task,) = await started(log.propose(1, [b"a"]))
            assert log.log.next_index == index + 1
            await task

    run_with(open_log(disk), body)


def test_a_proposal_that_the_next_flush_can_still_take_waits_for_no_tick(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with disk.gate.closed():
            await log.submit([entry(1)])
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            await log.submit([entry(2)])
            with crowd(log):
                tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
                assert log.log.next_index == 5
        assert await outcomes(tasks) == [range(3, 4), range(4, 5)]

    run_with(open_log(disk), body)


def test_memfirst_acknowledges_at_once_and_gathers_nothing(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            assert [task.result() for task in tasks] == [range(1, 2), range(2, 3)]

    run_with(open_log(disk, MemFirst()), body)


CALLS: dict[str, Callable[[AsyncRaftLog], Awaitable[object]]] = {
    "append": lambda log: log.append([entry(3)]),
    "propose nothing": lambda log: log.propose(1, []),
    "splice": lambda log: log.splice(LogId(1, 2), [entry(3)]),
    "submit": lambda log: log.submit([entry(3)]),
    "submit_propose": lambda log: log.submit_propose(1, [b"x"], start=3),
    "submit_splice": lambda log: log.submit_splice(LogId(1, 2), [entry(3)]),
    "truncate": lambda log: log.truncate(3),
    "purge": lambda log: log.purge(2),
    "save": lambda log: log.save([entry(3)]),
    "save_hard_state": lambda log: log.save_hard_state(HardState(1, "a", 2)),
    "put_meta": lambda log: log.put_meta("k", b"v"),
    "flush": lambda log: log.flush(),
    "wait_durable": lambda log: log.wait_durable(2),
    "commit_to": lambda log: log.commit_to(2),
    "close": lambda log: log.close(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_whatever_is_called_after_proposals_finds_them_accepted(
    disk: MemoryDisk, call: Callable[[AsyncRaftLog], Coroutine[Any, Any, object]]
) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            proposed = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            assert log.log.next_index == 1
            (other,) = await started(call(log))
            await other
            assert await outcomes(proposed) == [range(1, 2), range(2, 3)]

    run_with(open_log(disk), body)


def test_whatever_is_called_after_proposals_in_their_tick_finds_them_accepted(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            tasks = await started(
                log.propose(1, [b"a"]), log.append([entry(2)]), log.propose(1, [b"b"]), log.append([entry(4)])
            )
            assert await outcomes(tasks) == [range(1, 2), LogId(1, 2), range(3, 4), LogId(1, 4)]

    run_with(open_log(disk), body)


def test_what_is_accepted_shows_also_before_the_tick_ends(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            first = await started(log.propose(1, [b"a"]))
            assert log.next_index == 2
            second = await started(log.propose(1, [b"a"]))
            assert log.last_accepted == LogId(1, 2)
        await outcomes([*first, *second])

    run_with(open_log(disk), body)


def test_terms_and_kinds_that_differ_stay_in_the_order_of_the_calls(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            calls = [(1, 0), (1, 7), (1, 7), (2, 7), (3, 0)]
            tasks = await started(*[log.propose(term, [b"x"], kind) for term, kind in calls])
            assert await outcomes(tasks) == [range(index, index + 1) for index in range(1, 6)]
        assert [(one.term, one.kind) for one in await log.entries(1)] == calls

    run_with(open_log(disk), body)


def test_an_error_reaches_only_its_caller(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        wrong: Any = "text"
        with crowd(log):
            tasks = await started(
                log.propose(2, [b"a"]),
                log.propose(1, [b"b"]),
                log.propose(2, [b"x" * 101]),
                log.propose(2, [wrong]),
                log.propose(2, [b"c"], 256),
                log.propose(2, [b"d"]),
            )
            expected = [range(1, 2), TermError, EntryTooLargeError, TypeError, ValueError, range(2, 3)]
            assert await outcomes(tasks) == expected
        assert await data_of(log) == [b"a", b"d"]

    run_with(open_log(disk, entry_bytes_max=100), body)


def test_a_leader_deposed_before_the_tick_ends_is_told_so_in_every_task(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            receipt = log.log.submit([Entry(2, 1, b"of another leader")])
            assert await outcomes(tasks) == [TermError, TermError]
        await receipt
        assert await data_of(log) == [b"of another leader"]

    run_with(open_log(disk), body)


def test_those_who_cannot_all_be_accepted_are_accepted_as_far_as_it_goes(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        await log.reset(LogId(1, INDEX_MAX - 3))
        with crowd(log):
            calls = [log.propose(1, [b"x"]), log.propose(1, [b"x"] * 2), log.propose(1, [b"x"])]
            tasks = await started(*calls)
            first, *others = await outcomes(tasks)
        assert first == range(INDEX_MAX - 2, INDEX_MAX - 1)
        assert GapError in others
        assert log.last.index == max(one.stop for one in (first, *others) if isinstance(one, range)) - 1

    run_with(open_log(disk), body)


def test_cancelling_withdraws_no_proposal_and_disturbs_nobody(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            early, kept, late = await started(*[log.propose(1, [name]) for name in (b"a", b"b", b"c")])
            early.cancel()
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            late.cancel()
        assert await outcomes([early, kept, late]) == [
            asyncio.CancelledError,
            range(2, 3),
            asyncio.CancelledError,
        ]
        assert await data_of(log) == [b"a", b"b", b"c"]

    run_with(open_log(disk), body)


def test_what_was_gathered_leaves_no_work_for_the_garbage_collector(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            await outcomes(await started(log.propose(1, [b"a"]), log.propose(1, [b"b"])))
        await log.flush()

    gc.collect()
    gc.disable()
    try:
        run_with(open_log(disk), body)
        eventually(lambda: not any(isinstance(one, Gathering) for one in gc.get_objects()), "it is gone")
    finally:
        gc.enable()


@pytest.mark.parametrize("cuts", [[3], [4, 3], [3, 3]], ids=str)
def test_a_truncation_takes_back_only_what_lies_behind_it(disk: MemoryDisk, cuts: list[int]) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            await log.submit([entry(1)])
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            tasks = await started(*[log.propose(1, [b"new"]) for _ in range(4)])
            cutting = await started(*[log.truncate(cut) for cut in cuts], log.append([entry(3)]))
        assert await outcomes(tasks) == [range(2, 3), TruncatedError, TruncatedError, TruncatedError]
        assert await outcomes(cutting) == [None for _ in cuts] + [LogId(1, 3)]
        assert await data_of(log) == [entry(1).data, b"new", entry(3).data]

    run_with(open_log(disk), body)


def test_truncations_of_several_flushes_take_back_what_lies_behind_the_lowest(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            await log.submit([entry(1)])
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            tasks = await started(*[log.propose(1, [b"new"]) for _ in range(4)])
            await started(log.truncate(5))
            disk.gate.let_pass()
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            await started(log.truncate(3))
            disk.gate.let_pass()
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            assert not any(task.done() for task in tasks)
        assert await outcomes(tasks) == [range(2, 3), TruncatedError, TruncatedError, TruncatedError]

    run_with(open_log(disk), body)


def test_a_reset_takes_all_of_them_back(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            resetting = await started(log.reset(LogId(3, 30)))
        assert await outcomes(tasks) == [TruncatedError, TruncatedError]
        assert await outcomes(resetting) == [None]

    run_with(open_log(disk), body)


def test_a_failure_of_the_disk_reaches_each_of_them(disk: MemoryDisk) -> None:
    async def main() -> None:
        sync = open_log(disk)
        log = AsyncRaftLog(sync)
        disk.fail_next(OSError(5, "bad sector"))
        with crowd(log):
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in found] == [StoreFailedError, StoreFailedError]
            assert found[0] is not found[1]
            assert await outcomes(await started(log.propose(1, [b"c"]))) == [StoreFailedError]
        await asyncio.to_thread(close_broken, sync)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_full_disk_refuses_each_of_them_and_takes_others_later(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        disk.fail_next(OSError(28, "no space"))
        with crowd(log):
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            assert await outcomes(tasks) == [StoreFullError, StoreFullError]
            tasks = await started(log.propose(1, [b"c"]), log.propose(1, [b"d"]))
            assert await outcomes(tasks) == [range(1, 2), range(2, 3)]
        assert await data_of(log) == [b"c", b"d"]

    run_with(open_log(disk), body)


def test_those_whom_a_full_disk_refuses_are_told_so_also_where_other_entries_stay(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        await log.append(span(1, 11))
        with crowd(log), disk.gate.closed():
            splicing = await started(log.splice(LogId(1, 4), [Entry(2, 5, b"new")]))
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            disk.full = True
            tasks = await started(log.propose(2, [b"a"]), log.propose(2, [b"b"]), log.propose(2, [b"c"]))
            waiting = await started(log.wait_durable(6))
        assert await outcomes([*splicing, *tasks, *waiting]) == [StoreFullError] * 5
        assert log.last == log.last_accepted == LogId(1, 10)

    run_with(open_log(disk), body)


def test_behind_a_reset_to_a_lower_anchor_nothing_is_durable_before_it_is(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        await log.reset(LogId(1, 100))
        with crowd(log), disk.gate.closed():
            before = await log.submit([entry(101)])
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            tasks = await started(log.propose(1, [b"old"]), log.reset(LogId(3, 30)), log.propose(3, [b"new"]))
            waiting = await started(log.wait_durable(31))
            disk.gate.let_pass()
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            for _tick in range(5):
                await asyncio.sleep(0)
            assert not tasks[2].done()
            assert not waiting[0].done()
        assert await outcomes([*tasks, *waiting]) == [TruncatedError, None, range(31, 32), None]
        assert before.done()

    run_with(open_log(disk), body)


def test_a_log_closed_before_the_tick_ends_tells_each_of_them(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log):
            tasks = await started(log.propose(1, [b"a"]), log.propose(1, [b"b"]))
            log.log.close()
            assert await outcomes(tasks) == [StoreClosedError, StoreClosedError]
            assert await outcomes(await started(log.propose(1, [b"c"]))) == [StoreClosedError]

    run_with(open_log(disk), body)


def test_what_a_closed_loop_left_behind_is_accepted_by_the_next_one(disk: MemoryDisk) -> None:
    with open_log(disk) as sync:
        log = AsyncRaftLog(sync)

        async def leave() -> None:
            left.append(asyncio.ensure_future(log.propose(1, [b"a"])))

        async def go_on() -> None:
            assert await outcomes(await started(log.propose(1, [b"b"]))) == [range(2, 3)]

        left: list[asyncio.Future[Any]] = []
        with crowd(log):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(leave())
            assert sync.next_index == 1
            loop.close()
            asyncio.run(asyncio.wait_for(go_on(), PATIENCE_S))
        left[0]._log_destroy_pending = False  # type: ignore[attr-defined]
        assert [one.data for one in sync.entries(1)] == [b"a", b"b"]


def test_what_a_tick_may_accept_is_bounded_by_the_room(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        with crowd(log), disk.gate.closed():
            tasks = await started(*[log.propose(1, [b"%03d" % i * 90]) for i in range(10)])
            await asyncio.sleep(0)
            assert log.next_index == 3
        assert await outcomes(tasks) == [range(index, index + 1) for index in range(1, 11)]
        assert await data_of(log) == [b"%03d" % i * 90 for i in range(10)]

    run_with(open_log(disk, pending_bytes_max=1000), body)


def test_nobody_overtakes_a_call_that_comes_to_the_head_of_the_queue(disk: MemoryDisk) -> None:
    async def body(log: AsyncRaftLog) -> None:
        async def big_then_small() -> None:
            await log.propose(1, [b"b" * 500])
            await log.propose(1, [b"d"])

        with disk.gate.closed():
            await log.propose(1, [b"a" * 800])
            await asyncio.to_thread(disk.gate.wait_for_arrival)
            tasks = await started(big_then_small(), log.propose(1, [b"c"]))
        await outcomes(tasks)
        assert [data[:1] for data in await data_of(log)] == [b"a", b"b", b"c", b"d"]

    run_with(open_log(disk, MemFirst(), pending_bytes_max=1000, backpressure_timeout_ms=60_000), body)


def test_what_many_tasks_are_told_is_what_the_log_holds(disk: MemoryDisk) -> None:
    chance = random.Random(5)
    told: dict[int, bytes] = {}

    async def propose_some(log: AsyncRaftLog, number: int) -> None:
        for step in range(20):
            data = [b"%d %d %d" % (number, step, part) for part in range(chance.randint(1, 3))]
            if chance.random() < 0.1:
                await log.append([Entry(1, log.next_index, data[0])])
            indexes = await log.propose(1, data)
            told.update(zip(indexes, data, strict=True))

    async def body(log: AsyncRaftLog) -> None:
        tasks = [asyncio.ensure_future(propose_some(log, number)) for number in range(30)]
        for task in chance.sample(tasks, 10):
            await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        held = dict(enumerate(await data_of(log), 1))
        assert len(told) >= 20 * 20
        assert {index: held[index] for index in told} == told

    run_with(open_log(disk), body)
