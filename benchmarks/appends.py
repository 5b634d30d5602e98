"""Durable appends beside the limit: one caller, asyncio tasks, threads. `DiskFirst`, `Immediate`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from statistics import median
from threading import Barrier, Thread
from time import perf_counter
from typing import Final

import msgspec

from benchmarks.bare_threads import BareGroup
from benchmarks.bench import TERM, Bench, backend_of, timed_until, wait_quiet
from benchmarks.result import Outcome
from raftstore import RaftLog
from raftstore.aio import AsyncRaftLog
from raftstore.compare.payloads import Payloads

SLICE_S: Final = 0.2
LONG_SLICE_S: Final = 1.0
"""For writes of 64 KiB: several segments a slice, so that preparing them is in the measurement."""
BIG_WRITE_BYTES: Final = 32 << 10
ROUNDS: Final = 40
LONG_ROUNDS: Final = 12
GROUP_ENTRY_BYTES: Final = 256
KEPT_BYTES: Final = 128 << 20
"""What a log that is purged steadily keeps, as after a snapshot: two segments and what is being written."""
PURGE_BYTES: Final = 32 << 20
"""How much each of its purges drops."""
ZEROS: Final = "zeros written a payload byte"

Work = Callable[[RaftLog, float], float]
"""Append for so many seconds; how many entries a second became durable."""


class Workload(msgspec.Struct, frozen=True):
    """Appends of `batch` entries of `size` bytes that could share one write."""

    batch: int
    size: int
    work: Work
    in_threads: bool = False

    def run(self, bench: Bench) -> Outcome:
        return beside_limit(bench, self.batch, self.size, self.work, threads=self.in_threads)


def one_caller(batch: int, size: int) -> Workload:
    """`batch` entries of `size` bytes a call."""

    def work(log: RaftLog, seconds: float) -> float:
        payloads, started = Payloads(size, batch), perf_counter()
        calls = timed_until(started + seconds, perf_counter, lambda: log.propose(TERM, payloads.take()))
        return calls * batch / (perf_counter() - started)

    return Workload(batch, size, work)


def one_caller_beside_purges(batch: int, size: int) -> Work:
    """As `one_caller`, on a log that is purged steadily: its old segments are there to be used again."""
    kept, dropped = KEPT_BYTES // size, PURGE_BYTES // size

    def work(log: RaftLog, seconds: float) -> float:
        payloads, started = Payloads(size, batch), perf_counter()

        def call() -> None:
            last = log.propose(TERM, payloads.take())[-1]
            if last - log.anchor.index >= kept + dropped:
                log.purge(last - kept)

        calls = timed_until(started + seconds, perf_counter, call)
        return calls * batch / (perf_counter() - started)

    return work


def beside_purges(workload: Workload, bench: Bench) -> Outcome:
    """As `Workload.run`, and beside it the same appends on a log that is purged steadily."""
    batch, size = workload.batch, workload.size
    done = workload.run(bench)
    steady = beside_limit(bench, batch, size, one_caller_beside_purges(batch, size))
    beside = {f"purged steadily, {name}": steady.beside[name] for name in ("ours", ZEROS)}
    return Outcome(done.values, {**done.beside, "purged steadily, ratio": median(steady.values), **beside})


def asyncio_proposers(count: int) -> Workload:
    """`count` tasks, each awaiting its own entry of 256 bytes, again and again."""

    def work(log: RaftLog, seconds: float) -> float:
        return asyncio.run(propose_in_tasks(AsyncRaftLog(log), count, seconds))

    return Workload(count, GROUP_ENTRY_BYTES, work)


def beside_bare_tasks(workload: Workload, bench: Bench) -> Outcome:
    """As `Workload.run`, and beside it what as many tasks take that only wake and wait."""
    done, count = workload.run(bench), workload.batch
    alone_us = 1e6 * count / asyncio.run(_asyncio_alone(count, bench.seconds(SLICE_S)))
    return Outcome(done.values, {**done.beside, f"asyncio alone, µs for all {count}": alone_us})


def thread_proposers(count: int) -> Workload:
    """`count` threads, each waiting for its own entry of 256 bytes, again and again."""

    def work(log: RaftLog, seconds: float) -> float:
        return _in_threads(count, seconds, lambda: _proposing(log))

    return Workload(count, GROUP_ENTRY_BYTES, work, in_threads=True)


APPENDS: Final = {
    "append-1x64B": one_caller(1, 64),
    "append-1x1KiB": one_caller(1, 1024),
    "append-1x64KiB": one_caller(1, 65536),
    "append-64x64B": one_caller(64, 64),
    "append-64x1KiB": one_caller(64, 1024),
    **{f"asyncio-{count}": asyncio_proposers(count) for count in (1, 8, 64, 512)},
    **{f"threads-{count}": thread_proposers(count) for count in (1, 8, 64)},
}
"""The workloads that are measured beside the limit, by the names of their rows."""


def beside_limit(bench: Bench, batch: int, size: int, work: Work, *, threads: bool = False) -> Outcome:
    """The ratio of `work` to the limit in each round, which is taken right before and right after it."""
    is_big = batch * size > BIG_WRITE_BYTES
    full_s, rounds = (LONG_SLICE_S, LONG_ROUNDS) if is_big else (SLICE_S, ROUNDS)
    seconds = bench.seconds(full_s)
    ours: list[float] = []
    bare: list[float] = []
    native: list[float] = []
    python: list[float] = []
    switching: list[float] = []
    with bench.new_log() as log:
        work(log, bench.seconds(SLICE_S))  # The first segments are small, and everything is cold.
        last, zeros = log.last_index, backend_of(log).counters.bytes_prepared
        for _ in range(bench.rounds(rounds)):
            wait_quiet(log)
            before = bench.limit.batch(batch, size, seconds / 4)
            ours.append(work(log, seconds))
            wait_quiet(log)
            bare.append((before + bench.limit.batch(batch, size, seconds / 4)) / 2)
            bench.python_limit.batch(batch, size, seconds / 16)  # As the limit program warms up.
            python.append(bench.python_limit.batch(batch, size, seconds / 4))
            if threads and (rate := bench.limit.threads(batch, size, seconds / 4)):
                native.append(rate)
            if threads:
                switching.append(_bare_threads(bench, batch, size, seconds / 4))
        zeros = backend_of(log).counters.bytes_prepared - zeros
        payload = (log.last_index - last) * size
    beside = _microseconds(ours, bare, python, batch)
    if is_big:
        beside[ZEROS] = zeros / payload
    if native:
        beside["C, a thread a proposer"] = _ratio(native, bare)
    if switching:
        beside["Python, a thread a proposer, no log"] = _ratio(switching, bare)
    return Outcome([our / limit for our, limit in zip(ours, bare, strict=True)], beside)


def _bare_threads(bench: Bench, count: int, size: int, seconds: float) -> float:
    """Entries a second if a log cost nothing: threads that do nothing but switch, and write together."""
    group, data = BareGroup(bench.python_limit.write), random.Random(size).randbytes(size)
    return _in_threads(count, seconds, lambda: partial(group.propose, data))


def _ratio(rates: list[float], bare: list[float]) -> float:
    return median(rate / limit for rate, limit in zip(rates, bare, strict=True))


def _microseconds(
    ours: list[float], bare: list[float], python: list[float], batch: int
) -> dict[str, float | str]:
    limit_us, python_us, our_us = (1e6 * batch / median(rates) for rates in (bare, python, ours))
    return {
        "limit, µs a write": limit_us,
        "the same loop in Python": python_us,
        "ours": our_us,
        "added, µs": our_us - limit_us,
    }


async def propose_in_tasks(log: AsyncRaftLog, count: int, seconds: float) -> float:
    """Entries a second."""
    started = perf_counter()
    end = started + seconds

    async def proposer() -> int:
        payloads, calls = Payloads(GROUP_ENTRY_BYTES, 1), 0
        while not calls or perf_counter() < end:
            await log.propose(TERM, payloads.take())
            calls += 1
        return calls

    done = await asyncio.gather(*(proposer() for _ in range(count)))
    return sum(done) / (perf_counter() - started)


async def _asyncio_alone(count: int, seconds: float) -> float:
    """Proposals a second if a log cost nothing: tasks that wait until all of them wait, and are woken."""
    loop, waiting = asyncio.get_running_loop(), list[asyncio.Future[None]]()
    started = perf_counter()
    end = started + seconds

    def release() -> None:
        group = waiting.copy()
        waiting.clear()
        for future in group:
            future.set_result(None)

    async def proposer() -> int:
        calls = 0
        while not calls or perf_counter() < end:
            future = loop.create_future()
            if not waiting:
                loop.call_soon(release)
            waiting.append(future)
            await future
            calls += 1
        return calls

    done = await asyncio.gather(*(proposer() for _ in range(count)))
    return sum(done) / (perf_counter() - started)


def _proposing(log: RaftLog) -> Callable[[], object]:
    payloads = Payloads(GROUP_ENTRY_BYTES, 1)
    return lambda: log.propose(TERM, payloads.take())


def _in_threads(count: int, seconds: float, new_call: Callable[[], Callable[[], object]]) -> float:
    """Calls a second, each thread making its own, from the moment when all threads run."""
    ready, done = Barrier(count + 1), list[int]()

    def caller() -> None:
        call = new_call()
        ready.wait()
        done.append(timed_until(perf_counter() + seconds, perf_counter, call))

    threads = [Thread(target=caller) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    return sum(done) / (perf_counter() - started)
