"""Proposals that tasks make in one tick of an event loop are accepted together.

They then cost one lock, one check, one write and one wake-up of the loop. Only for callers who wait for the
disk anyway: each has a future of its own, and an error reaches whom it would have reached alone.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import chain
from typing import TypeAlias

from raftstore import operations
from raftstore.ledger import fresh
from raftstore.operations import Operation
from raftstore.session import Session
from raftstore.waiting import CallbackWaiter, IndexWaiter

Proposal: TypeAlias = tuple[asyncio.Future[range], list[bytes], int]
"""Who waits for the indexes, the payloads, and the memory that these need."""


class Gathering:
    """Proposals of one term and kind, in the order of the calls, that become one write."""

    __slots__ = ("kind", "loop", "proposals", "room", "size", "term")

    def __init__(self, loop: asyncio.AbstractEventLoop, term: int, kind: int, room: int) -> None:
        self.loop = loop
        self.term = term
        self.kind = kind
        self.room = room
        """The most bytes that it may need."""
        self.size = 0
        self.proposals: list[Proposal] = []

    def add(self, proposal: Proposal) -> None:
        self.proposals.append(proposal)
        self.size += proposal[2]

    def operation(self) -> Operation[range]:
        """All of it as one call."""
        data = list(chain.from_iterable([data for _, data, _ in self.proposals]))
        return operations.proposal(self.term, data, self.kind, self.size)

    def split(self) -> list[Gathering]:
        """One for each proposal."""
        parts = [Gathering(self.loop, self.term, self.kind, self.room) for _ in self.proposals]
        for part, proposal in zip(parts, self.proposals, strict=True):
            part.add(proposal)
        return parts

    def answer(self, waiting: IndexWaiter) -> None:
        """Tell each caller what became of its entries, which are those of `waiting`."""
        start = waiting.start
        for future, data, _ in self.proposals:
            stop = start + len(data)
            if not future.done():
                error = waiting.error_of(stop - 1)
                if error is None:
                    future.set_result(range(start, stop))
                else:
                    future.set_exception(fresh(error))
            start = stop


class Gatherer:
    """Takes in the proposals of tasks, and has them accepted when the tick ends, or before.

    It gathers where several proposals are to be expected in a tick. A task that is alone, or whose entry
    still comes in time for the next flush as it is, does not wait for the end of the tick.
    """

    def __init__(self, session: Session) -> None:
        self.under_way = 0
        """How many calls are in `AsyncRaftLog.propose`; the caller counts."""
        self._session = session
        self._pipeline = session.pipeline
        self._ledger = session.pipeline.ledger
        self._open: Gathering | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the end of the tick is scheduled; None if it is not."""

    def join(self, term: int, data: list[bytes], kind: int, size: int) -> asyncio.Future[range] | None:
        """What gives the indexes once they are durable; None for a proposal that should go its own way."""
        loop = self._loop
        if loop is None or loop.is_closed():
            if self.under_way == 1 or self._ledger.mem_first or self._ledger.has_pending:
                return None
            loop = self._schedule(asyncio.get_running_loop())
        gathering = self._open
        if gathering is None or gathering.term != term or gathering.kind != kind:
            self.accept()
            gathering = self._open = Gathering(loop, term, kind, self._ledger.free_bytes)
        if not data or gathering.size + size > gathering.room:
            return None
        future: asyncio.Future[range] = loop.create_future()
        gathering.add((future, data, size))
        return future

    def accept(self) -> None:
        """Have accepted what was gathered. What is called after that is accepted after that."""
        gathering, self._open = self._open, None
        if gathering is not None and gathering.proposals:
            self._accept(gathering)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
        """Gather until `loop` has run what is ready to run now."""
        self.accept()  # What a loop that is closed now has left behind.
        self._loop = loop
        loop.call_soon(self._end_tick)
        return loop

    def _end_tick(self) -> None:
        self._loop = None
        self.accept()

    def _accept(self, gathering: Gathering) -> None:
        try:
            self._session.check_process()
            waiting = self._pipeline.admit_gathered(gathering.operation())
        except Exception as error:  # noqa: BLE001  (each gets its own, whatever it is)
            self._accept_each(gathering, error)
        else:
            waiter = CallbackWaiter(lambda: self._call_answer(gathering, waiting))
            self._pipeline.add_waiter(waiting, waiter)
            self._pipeline.schedule()

    def _accept_each(self, gathering: Gathering, error: Exception) -> None:
        """Together they were refused with `error`, and nothing has changed: who is it that is refused?"""
        if len(gathering.proposals) > 1:
            for part in gathering.split():
                self._accept(part)
        else:
            future = gathering.proposals[0][0]
            if not future.done():
                future.set_exception(error)

    def _call_answer(self, gathering: Gathering, waiting: IndexWaiter) -> None:
        """In any thread."""
        with suppress(RuntimeError):  # The loop is closed: nobody waits there any more.
            gathering.loop.call_soon_threadsafe(self._answer, gathering, waiting)

    def _answer(self, gathering: Gathering, waiting: IndexWaiter) -> None:
        waiting.waiters.clear()  # They refer to it: garbage would wait for the collector.
        gathering.answer(waiting)
        if self._loop is None and len(gathering.proposals) > 1:
            self._schedule(gathering.loop)  # The tick ends after all of them have run, and proposed again.
