"""Receipts: what a pipelined write gives back at once, and what tells when it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from raftstore.entry import Splice
from raftstore.ledger import fresh
from raftstore.waiting import CallbackWaiter, Waitable
from raftstore.write import Write

if TYPE_CHECKING:
    from raftstore.session import Session


class Receipt:
    """One accepted write: its indexes, known at once, and its completion, when it is durable.

    `first` and `last` are the indexes of its entries; without entries `last` is `first - 1`. `splice` is the
    outcome of `submit_splice`, else None. It completes with `TruncatedError` if a truncation or reset took
    the entries back, `StoreFailedError` if the store failed, `StoreClosedError` if it was closed before,
    `StoreFullError` if the disk had no room. It never waits for ever.
    """

    __slots__ = ("_session", "_target", "first", "last", "splice")

    def __init__(self, session: Session, target: Waitable | None, first: int, last: int) -> None:
        self._session = session
        self._target = target
        self.first = first
        self.last = last
        self.splice: Splice | None = None

    def __repr__(self) -> str:
        return f"<Receipt {self.first}..{self.last} {'done' if self.done() else 'pending'}>"

    def done(self) -> bool:
        """Whether it is completed, well or not."""
        return self._target is None or self._target.done

    def wait(self, timeout: float | None = None) -> None:
        """Return once the write is durable; raises what it completed with, or `TimeoutError`."""
        if self._target is not None:
            if not self._target.done:
                self._session.check_process()
            self._session.pipeline.wait(self._target, timeout)

    def add_done_callback(self, callback: Callable[[Receipt], object]) -> None:
        """Call `callback(self)` once it is completed, in a thread of the log's; what it raises is logged.

        A call inside it that would wait for the log raises instead.
        """
        notifier = self._session.notifier
        waiter = CallbackWaiter(lambda: notifier.call_later(lambda: callback(self)))
        if self._target is None:
            waiter.wake()
        else:
            self._session.pipeline.add_waiter(self._target, waiter)

    def __await__(self) -> Generator[asyncio.Future[None], None, None]:
        """As `wait`, from any event loop. Cancelling it does not withdraw the write."""
        target = self._target
        if target is None:
            return
        if not target.done:
            self._session.check_process()
            future = asyncio.get_running_loop().create_future()
            self._session.pipeline.add_waiter(target, future)
            self._session.pipeline.schedule()
            yield from future
        if target.error is not None:
            raise fresh(target.error)


def receipt_of(session: Session, write: Write | None) -> Receipt:
    """The receipt of `write`; one that is completed already if there was nothing to write."""
    if write is not None and write.entries:
        return Receipt(session, write, write.entries[0].index, write.entries[-1].index)
    end = session.pipeline.ledger.accepted.shape.last.index
    return Receipt(session, write, end + 1, end)
