"""`AsyncRaftLog`: the same log for asyncio. The same core; the event loop is never blocked.

What may wait is a coroutine; properties, `term` and the like answer at once, as they do on `RaftLog`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import raftstore.log
from raftstore import operations, pipeline
from raftstore.entry import Entry, HardState, LogId, Splice
from raftstore.gathering import Gatherer
from raftstore.ledger import fresh
from raftstore.log import SCAN_BYTES, RaftLog
from raftstore.operations import Operation
from raftstore.receipt import Receipt, receipt_of
from raftstore.room import RoomWaiter
from raftstore.status import RecoveryReport, Status
from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst
from raftstore.waiting import Waitable
from raftstore.write import Write

T = TypeVar("T")


async def open(source: StoreConfig | str | os.PathLike[str]) -> AsyncRaftLog:
    """As `raftstore.open`, in a thread, for use with asyncio."""
    return AsyncRaftLog(await asyncio.to_thread(raftstore.log.open, source))


class AsyncRaftLog:
    """A `RaftLog` whose members are awaitable where they may wait. Their promises are those of `RaftLog`.

    Calls are accepted in the order in which they first run. Cancelling an await does not withdraw the write.
    What many tasks propose in one tick of the loop is accepted together when the tick ends, or before any
    other call is.
    To be used from one event loop; `log` is the log underneath, for use from other threads.
    """

    def __init__(self, log: RaftLog) -> None:
        self.log = log
        self._session = log._session  # pyright: ignore[reportPrivateUsage]
        self._pipeline = self._session.pipeline
        self._limits = log.config.limits
        self._gatherer = Gatherer(self._session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue = asyncio.Lock()  # Keeps the order of calls when they have to wait for room.
        self._queued = 0
        """How many calls stand in that queue, or are at its head."""

    async def __aenter__(self) -> AsyncRaftLog:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Async{repr(self.log)[1:]}"

    # --- at once -----------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self.log.first_index

    @property
    def last_index(self) -> int:
        return self.log.last_index

    @property
    def next_index(self) -> int:
        self._gatherer.accept()
        return self.log.next_index

    @property
    def anchor(self) -> LogId:
        return self.log.anchor

    @property
    def last(self) -> LogId:
        return self.log.last

    @property
    def last_accepted(self) -> LogId:
        self._gatherer.accept()
        return self.log.last_accepted

    @property
    def is_empty(self) -> bool:
        return self.log.is_empty

    def __len__(self) -> int:
        return len(self.log)

    @property
    def hard_state(self) -> HardState:
        return self.log.hard_state

    @property
    def durable_index(self) -> int:
        return self.log.durable_index

    @property
    def commit_index(self) -> int:
        return self.log.commit_index

    @property
    def config(self) -> StoreConfig:
        return self.log.config

    @property
    def recovery(self) -> RecoveryReport:
        return self.log.recovery

    def term(self, index: int) -> int | None:
        return self.log.term(index)

    def first_index_of_term(self, term: int) -> int | None:
        return self.log.first_index_of_term(term)

    def last_index_of_term(self, term: int) -> int | None:
        return self.log.last_index_of_term(term)

    def get_meta(self, key: str) -> bytes | None:
        return self.log.get_meta(key)

    def majority_index(
        self, match_indexes: Iterable[int], current_term: int, *, voter: bool = True
    ) -> int | None:
        return self.log.majority_index(match_indexes, current_term, voter=voter)

    def on_durable(self, callback: Callable[[int], object]) -> Callable[[], None]:
        """As `RaftLog.on_durable`; the callback runs on the event loop that this is called from."""
        loop = asyncio.get_running_loop()
        return self.log.on_durable(lambda index: _call_on(loop, callback, index))

    # --- reads -------------------------------------------------------------------------------------------

    async def entry(self, index: int) -> Entry | None:
        found = await self.entries(index, index + 1)
        return found[0] if found else None

    async def entries(
        self, start: int, stop: int | None = None, *, bytes_max: int | None = None
    ) -> list[Entry]:
        self._session.check_process()
        if self._session.reader.is_in_memory(start):
            return self.log.entries(start, stop, bytes_max=bytes_max)
        return await asyncio.to_thread(self.log.entries, start, stop, bytes_max=bytes_max)

    async def scan(self, start: int | None = None, stop: int | None = None) -> AsyncIterator[Entry]:
        index = self.first_index if start is None else start
        while chunk := await self.entries(index, stop, bytes_max=SCAN_BYTES):
            for entry in chunk:
                yield entry
            index = chunk[-1].index + 1
            self.log._check_still_holds(chunk[-1])  # pyright: ignore[reportPrivateUsage]

    async def status(self) -> Status:
        self._gatherer.accept()
        return await asyncio.to_thread(self.log.status)

    # --- writes ------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry]) -> LogId:
        return await self._run(operations.append(entries, self._limits))

    async def propose(self, term: int, payloads: Sequence[bytes], kind: int = 0) -> range:
        data = list(payloads)
        size = operations.check_proposal(data, kind, self._limits)
        self._gatherer.under_way += 1
        try:
            gathered = None if self._queued else self._gatherer.join(term, data, kind, size)
            if gathered is not None:
                return await gathered
            return await self._run(operations.proposal(term, data, kind, size))
        finally:
            self._gatherer.under_way -= 1

    async def splice(self, prev: LogId, entries: Sequence[Entry]) -> Splice:
        return await self._run(operations.splice(prev, entries, self._limits))

    async def submit(self, entries: Sequence[Entry]) -> Receipt:
        return (await self._submit(operations.append(entries, self._limits)))[0]

    async def submit_propose(
        self, term: int, payloads: Sequence[bytes], kind: int = 0, *, start: int | None = None
    ) -> Receipt:
        return (await self._submit(operations.propose(term, payloads, kind, self._limits, start)))[0]

    async def submit_splice(self, prev: LogId, entries: Sequence[Entry]) -> Receipt:
        receipt, outcome = await self._submit(operations.splice(prev, entries, self._limits))
        receipt.splice = outcome
        return receipt

    async def truncate(self, start: int) -> None:
        await self._run(operations.truncate(start))

    async def purge(self, upto: int) -> None:
        await self._run(operations.purge(upto))

    async def install_snapshot(self, last_included: LogId) -> bool:
        return await self._run(operations.install_snapshot(last_included))

    async def reset(self, anchor: LogId) -> None:
        await self._run(operations.reset(anchor))

    async def save_hard_state(self, state: HardState) -> None:
        await self._run(operations.save_hard_state(state))
        self._pipeline.commit_to(state.commit)

    async def save(
        self,
        entries: Sequence[Entry] = (),
        *,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        anchor: LogId | None = None,
        meta: Mapping[str, bytes | None] | None = None,
    ) -> None:
        await self._run(operations.save(entries, hard_state, truncate_from, anchor, meta, self._limits))

    async def put_meta(self, key: str, value: bytes | None) -> None:
        await self._run(operations.put_meta(key, value))

    async def flush(self) -> None:
        await self._run(operations.barrier())

    async def wait_durable(self, index: int, timeout: float | None = None) -> None:
        self._session.check_process()
        self._gatherer.accept()
        target = self._pipeline.wait_for_index(index)
        if target is not None:
            async with asyncio.timeout(timeout):
                await self._wait(target)

    async def commit_to(self, index: int) -> None:
        self._session.check_process()
        self._gatherer.accept()
        is_durable = self._pipeline.commit_to(index)
        strategy = self.config.strategy
        if isinstance(strategy, MemFirst) and strategy.sync_on_commit and not is_durable:
            await self.flush()

    async def close(self) -> None:
        self._gatherer.accept()
        await asyncio.to_thread(self.log.close)

    # --- the way of a write ------------------------------------------------------------------------------

    async def _run(self, operation: Operation[T]) -> T:
        write, result = self._try_admit(operation) or await self._admit_later(operation)
        target = self._pipeline.acknowledgement(operation, write)
        if target is not None:
            if not target.done:
                await self._done(target)
            if target.error is not None:
                raise fresh(target.error)
        return result

    async def _submit(self, operation: Operation[T]) -> tuple[Receipt, T]:
        write, result = self._try_admit(operation) or await self._admit_later(operation)
        self._pipeline.schedule()
        return receipt_of(self._session, write), result

    def _try_admit(self, operation: Operation[T]) -> tuple[Write | None, T] | None:
        """Accept `operation` at once; None if it has to stand in the queue."""
        if self._session.gone is not None:
            self._session.check_process()
        self._gatherer.accept()
        return None if self._queued else self._pipeline.try_admit(operation)

    async def _admit_later(self, operation: Operation[T]) -> tuple[Write | None, T]:
        self._queued += 1
        try:
            async with self._queue:
                return await self._admit_in_turn(operation)
        finally:
            self._queued -= 1

    async def _admit_in_turn(self, operation: Operation[T]) -> tuple[Write | None, T]:
        admitted = self._pipeline.try_admit(operation)
        if admitted is not None:
            return admitted
        if self._pipeline.ledger.is_full:
            await self._run_in_turn(operations.barrier())  # Is there room on the disk again?
        future = self._future()
        waiting = RoomWaiter(operation.size, future)
        try:
            self._pipeline.queue_for_room(waiting)
            async with asyncio.timeout(self._pipeline.backpressure_timeout_s):
                while not (future.done() or self._pipeline.is_answered(waiting)):
                    await asyncio.wait((future,), timeout=pipeline.LOOK_UP_S)
            return self._pipeline.admit_granted(operation, waiting)
        except TimeoutError:
            raise self._pipeline.no_room() from None
        finally:
            self._pipeline.leave_room(waiting)

    async def _run_in_turn(self, operation: Operation[None]) -> None:
        admitted = self._pipeline.try_admit(operation)
        if admitted is not None and admitted[0] is not None:
            await self._wait(admitted[0])

    async def _wait(self, target: Waitable) -> None:
        if not target.done:
            await self._done(target)
        if target.error is not None:
            raise fresh(target.error)

    def _done(self, target: Waitable) -> asyncio.Future[None]:
        """A future that has a result once `target` is done."""
        future = self._future()
        self._pipeline.add_waiter(target, future)
        self._pipeline.schedule()
        return future

    def _future(self) -> asyncio.Future[None]:
        """Of the loop that this log is used from. Asking asyncio which one that is takes a system call."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
        return asyncio.Future(loop=self._loop)


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[[int], object], index: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, index)
