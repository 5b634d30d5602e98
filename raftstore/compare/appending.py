"""Workloads that append: one caller, and groups of callers that share flushes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import msgspec

from raftstore.aio import AsyncRaftLog
from raftstore.compare.budget import Budget
from raftstore.compare.measurement import Measurement, measure_writes, timed
from raftstore.compare.payloads import Payloads
from raftstore.log import RaftLog
from raftstore.spelling import format_size

TERM = 1


class Append(msgspec.Struct, frozen=True):
    """One caller, `batch` entries of `size` bytes a call."""

    batch: int
    size: int

    @property
    def name(self) -> str:
        return f"append-{self.batch}x{_short(self.size)}"

    @property
    def title(self) -> str:
        return f"append, {self.batch} × {_short(self.size)} a call"

    @property
    def write_bytes(self) -> int:
        """What an ideal log would write at a time."""
        return self.batch * self.size

    def run(self, log: RaftLog, budget: Budget) -> Measurement:
        return measure_writes(
            log,
            lambda: _propose(log, self.batch, self.size, budget),
            entries_a_call=self.batch,
            entry_bytes=self.size,
        )


class Threads(msgspec.Struct, frozen=True):
    """`callers` threads, each appending its own entry and waiting for it."""

    callers: int
    size: int

    @property
    def name(self) -> str:
        return f"threads-{self.callers}x{_short(self.size)}"

    @property
    def title(self) -> str:
        return f"threads: {self.callers}, {_short(self.size)} a call"

    @property
    def write_bytes(self) -> int:
        """What an ideal log would write at a time."""
        return self.callers * self.size

    def run(self, log: RaftLog, budget: Budget) -> Measurement:
        return measure_writes(
            log,
            lambda: self._propose(log, budget),
            entries_a_call=1,
            entry_bytes=self.size,
            calls_a_write=self.callers,
        )

    def _propose(self, log: RaftLog, budget: Budget) -> list[float]:
        share = budget.share(self.callers)
        with ThreadPoolExecutor(self.callers) as pool:
            futures = [pool.submit(_propose, log, 1, self.size, share) for _ in range(self.callers)]
            return list(chain.from_iterable(future.result() for future in futures))


class Tasks(msgspec.Struct, frozen=True):
    """`callers` asyncio tasks, each appending its own entry and awaiting it."""

    callers: int
    size: int

    @property
    def name(self) -> str:
        return f"asyncio-{self.callers}x{_short(self.size)}"

    @property
    def title(self) -> str:
        return f"asyncio tasks: {self.callers}, {_short(self.size)} a call"

    @property
    def write_bytes(self) -> int:
        """What an ideal log would write at a time."""
        return self.callers * self.size

    def run(self, log: RaftLog, budget: Budget) -> Measurement:
        return measure_writes(
            log,
            lambda: asyncio.run(self._propose(log, budget)),
            entries_a_call=1,
            entry_bytes=self.size,
            calls_a_write=self.callers,
        )

    async def _propose(self, log: RaftLog, budget: Budget) -> list[float]:
        share, async_log = budget.share(self.callers), AsyncRaftLog(log)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_propose_async(async_log, self.size, share)) for _ in range(self.callers)
            ]
        return list(chain.from_iterable(task.result() for task in tasks))


Appending = Append | Threads | Tasks


def _propose(log: RaftLog, batch: int, size: int, budget: Budget) -> list[float]:
    """The seconds of each call."""
    payloads = Payloads(size, batch)
    return [timed(_proposing(log, payloads.take())) for _ in budget.calls(batch * size)]


def _proposing(log: RaftLog, payloads: list[bytes]) -> Callable[[], object]:
    return lambda: log.propose(TERM, payloads)


async def _propose_async(log: AsyncRaftLog, size: int, budget: Budget) -> list[float]:
    """The seconds of each call."""
    payloads, clock = Payloads(size, 1), asyncio.get_running_loop().time
    latencies: list[float] = []
    for _ in budget.calls(size):
        started = clock()
        await log.propose(TERM, payloads.take())
        latencies.append(clock() - started)
    return latencies


def _short(size: int) -> str:
    text = format_size(size)
    return text if isinstance(text, str) else f"{text}B"
