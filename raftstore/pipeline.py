"""The way of a write: accepted, flushed together with others, published, acknowledged.

One thread at a time leads: it takes what is accepted, hands it to the backend as one batch, and publishes it.
A caller that waits for durability leads in its own thread if nobody does; the flusher thread leads when
there is none. The threads whose writes a flush made durable stand in line: each wakes the next once it runs,
so that they do not crowd at the interpreter's lock. The lead goes to the last of them, which hands it on: by
then the others have had their turn, and what they asked for meanwhile shares the next flush.

An interrupt (Ctrl-C) may hit a leading thread anywhere. Each step of a flush can therefore be repeated, and
`_shielded` repeats it until it is done, before the interrupt goes on.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable
from threading import Lock, get_ident
from typing import TypeVar

from raftstore.backend import DiskBackend
from raftstore.errors import (
    BackpressureError,
    RaftStoreError,
    StoreClosedError,
    StoreFailedError,
)
from raftstore.ledger import Group, Ledger, fresh
from raftstore.meter import Meter
from raftstore.operations import Operation, barrier
from raftstore.room import RoomWaiter
from raftstore.waiting import IndexWaiter, ThreadWaiter, Waitable, Waiter, wake_all
from raftstore.write import Write

T = TypeVar("T")
logger = logging.getLogger("raftstore")

NOBODY = 0
"""No thread has this identity."""
COMMIT_DELAY_S = 0.5
"""How long a raised commit index may wait for a write that carries it to disk."""
LOOK_UP_S = 1.0
"""How long a caller sleeps before it looks whether an interrupt in another thread cost it its wake-up."""
IDLE_S = 0.1
"""How long after a flush the flusher looks whether the log is idle."""


class Pipeline:
    """Runs operations on a `Ledger` and gets its writes to the backend."""

    def __init__(self, backend: DiskBackend, ledger: Ledger, *, backpressure_timeout_s: float) -> None:
        self.backend = backend
        self.ledger = ledger
        self.meter = Meter()
        self.lock = Lock()  # Guards the ledger, the view and the four below; never held across I/O.
        self._leader = NOBODY
        self._sleepers: deque[tuple[Waitable, ThreadWaiter]] = deque()
        self._line: deque[ThreadWaiter] = deque()
        self._in_callback: set[int] = set()
        self._backpressure_timeout_s = backpressure_timeout_s if ledger.mem_first else None
        self.wish: Callable[[float], None] = _ignore
        """Set by the flusher: asks its thread to look again in so many seconds, at the latest."""
        self.is_unasked: Callable[[], bool] = _yes
        """Set by the flusher: False if its thread was asked to look now, and has not looked yet."""
        self.notify: Callable[[], None] = _nothing
        """Set by the log: something became durable, or failed."""

    # --- acceptance --------------------------------------------------------------------------------------

    def run(self, operation: Operation[T]) -> T:
        """Accept `operation` and wait until it is acknowledged."""
        if self._in_callback:
            self.check_may_wait()
        write, result = self.try_admit(operation) or self._admit_later(operation)
        target = self.acknowledgement(operation, write)
        if target is not None:
            self.wait(target)
        return result

    def admit(self, operation: Operation[T]) -> tuple[Write | None, T]:
        """Accept `operation`, waiting for room if there is none."""
        return self.try_admit(operation) or self._admit_later(operation)

    def _admit_later(self, operation: Operation[T]) -> tuple[Write | None, T]:
        self.check_may_wait()
        if self.ledger.is_full:
            self.run(barrier())  # Is there room on the disk again?
        waiting = RoomWaiter(operation.size, ThreadWaiter())
        try:
            try:
                self.queue_for_room(waiting)
                self._sleep_for_room(waiting)
                return self.admit_granted(operation, waiting)
            finally:
                self._shielded(lambda: self.leave_room(waiting))
        finally:  # Again: an interrupt may have come just before that began, or another one after.
            self._shielded(lambda: self.leave_room(waiting))

    def try_admit(self, operation: Operation[T]) -> tuple[Write | None, T] | None:
        """As `admit`, but None if there is no room."""
        with self.lock:
            if not self.ledger.has_room(operation.size):
                self.ledger.check_writable()
                return None
            return self.ledger.accept(operation)

    def admit_gathered(self, operation: Operation[range]) -> IndexWaiter:
        """Accept `operation`, for which there was room; what is done once its entries are durable."""
        with self.lock:
            indexes = self.ledger.accept(operation)[1]
            return self.ledger.wait_for_range(indexes.start, indexes.stop - 1)

    def queue_for_room(self, waiting: RoomWaiter) -> None:
        """Stand in the queue; `waiting.waiter` is woken when it is granted, or never will be."""
        with self.lock:
            woken = self.ledger.queue_for_room(waiting)
        wake_all(woken)
        self.schedule()

    def admit_granted(self, operation: Operation[T], waiting: RoomWaiter) -> tuple[Write | None, T]:
        """Accept `operation` in the room that was granted."""
        with self.lock:
            self.ledger.check_writable()
            self.ledger.room.give_back(waiting)
            return self.ledger.accept(operation)

    def leave_room(self, waiting: RoomWaiter) -> None:
        """Give back what was granted and not used, or leave the queue. Twice is fine."""
        with self.lock:
            self.ledger.room.give_back(waiting)
            woken = self.ledger.grant_room()
        wake_all(woken)

    def _sleep_for_room(self, waiting: RoomWaiter) -> None:
        assert isinstance(waiting.waiter, ThreadWaiter)
        timeout = self._backpressure_timeout_s
        deadline = _NEVER if timeout is None else time.monotonic() + timeout
        while not waiting.waiter.sleep(min(deadline - time.monotonic(), LOOK_UP_S)):
            if self.is_answered(waiting):
                return
            if time.monotonic() >= deadline:
                raise self.no_room()

    def is_answered(self, waiting: RoomWaiter) -> bool:
        """Whether there is nothing more to wait for: an interrupt in another thread may cost the wake-up."""
        return waiting.granted or self.ledger.end is not None

    @property
    def backpressure_timeout_s(self) -> float | None:
        """None: a caller waits for room as long as it takes."""
        return self._backpressure_timeout_s

    def no_room(self) -> BackpressureError:
        ledger = self.ledger
        return BackpressureError(
            f"no room within {self._backpressure_timeout_s} s: {ledger.pending_bytes} bytes wait for disk "
            f"and {ledger.memory_bytes} are held in memory; try again later, purge, or raise the limits"
        )

    def commit_to(self, index: int) -> bool:
        """Raise the commit index. The next write carries it to disk, or the flusher does soon.

        Returns whether the entry that is now at `index` is durable.
        """
        with self.lock:
            self.ledger.raise_commit(index)
            is_durable = index <= self.ledger.end_of_durable()
        self.wish(COMMIT_DELAY_S)
        return is_durable

    def close(self, reason: RaftStoreError) -> None:
        """Make durable what was accepted, the commit index too; accept and write nothing any more.

        Raises `StoreFullError` if acknowledged appends cannot be written: the log then stays open.
        """
        self.check_may_wait()
        try:
            with self.lock:
                self.ledger.closing = None  # Interrupts may have left that of an earlier attempt.
                last = self.ledger.accept_last(barrier(), reason)
            if last is not None:
                self.wait(last)
        except (StoreFailedError, StoreClosedError):
            pass  # There is nothing left to flush.
        except BaseException:
            self.ledger.closing = None
            raise
        self.stop(reason)

    # --- waiting -----------------------------------------------------------------------------------------

    def acknowledgement(self, operation: Operation[T], write: Write | None) -> Write | None:
        """What the caller of `operation` waits for before it may go on; None if it need not wait."""
        if write is None:
            if not operation.durable:
                return None
            with self.lock:
                return self.ledger.last_pending(operation)
        if operation.durable or not self.ledger.mem_first:
            return write
        self.schedule()
        if write.number <= self.ledger.view.number:
            return None
        with self.lock:
            return None if self.ledger.is_shown(write) else write

    def wait(self, target: Waitable, timeout: float | None = None) -> None:
        """Until `target` is done, leading flushes meanwhile; raises its error, or `TimeoutError`."""
        if not target.done:
            if self._in_callback:
                self.check_may_wait()
            try:
                try:
                    self._wait(target, timeout)
                except BaseException:
                    self._shielded(lambda: self._give_up(target))
                    raise
            except BaseException:  # Again: another interrupt may have come just before that began, or after.
                self._shielded(lambda: self._give_up(target))
                raise
        if target.error is not None:
            raise fresh(target.error)

    def _wait(self, target: Waitable, timeout: float | None) -> None:
        deadline = _NEVER if timeout is None else time.monotonic() + timeout
        while not target.done:
            waiter = self._sleeper(target, may_lead=timeout is None)
            if waiter is not None and not self._sleep(waiter, deadline) and not target.done:
                raise TimeoutError(f"not durable within {timeout} s")
            if self._leader == get_ident():
                self._shielded(lambda: self._lead_until(target))

    def _sleeper(self, target: Waitable, *, may_lead: bool) -> ThreadWaiter | None:
        """Join those who sleep until `target` is done; None if it is, or if this thread leads instead."""
        with self.lock:
            if target.done:
                return None
            if may_lead and self._leader == NOBODY and self.ledger.due_s() <= 0:
                self._leader = get_ident()
                return None
            waiter = ThreadWaiter()
            target.waiters.append(waiter)
            if may_lead:
                self._sleepers.append((target, waiter))
        if self._leader == NOBODY:
            self.schedule()
        return waiter

    def _sleep(self, waiter: ThreadWaiter, deadline: float) -> bool:
        """False once `deadline` has passed. It may return before the target is done."""
        woken = False
        left = deadline if deadline == _NEVER else deadline - time.monotonic()
        try:
            woken = waiter.sleep(LOOK_UP_S if left > LOOK_UP_S else left)
        finally:
            self._leave(waiter, woken=woken)
        return woken or left > LOOK_UP_S

    def _leave(self, waiter: ThreadWaiter, *, woken: bool) -> None:
        """`waiter` sleeps no more, woken or not: wake the next in line. It is not given the lead any more."""
        with self.lock:
            if not woken:
                waiter.called = True
                if waiter in self._line:
                    self._line.remove(waiter)
            first = self._line.popleft() if self._line else None
        if first is not None:
            first.wake()

    def _give_up(self, target: Waitable) -> None:
        """An interrupt must leave no lead with nobody, nobody asleep, and nothing untold. Twice is fine."""
        self._desert(target)
        if self._leader == get_ident():
            self._lead()
        self.schedule()
        self.notify()
        self.wish(IDLE_S)

    def _desert(self, target: Waitable) -> None:
        """This thread waits for `target` no more, wherever it was interrupted: as `_leave`."""
        thread = get_ident()
        with self.lock:
            for waiter in [*target.waiters, *self._line]:
                if isinstance(waiter, ThreadWaiter) and waiter.thread == thread:
                    waiter.called = True
            for waiter in [one for one in self._line if one.thread == thread]:
                self._line.remove(waiter)
            first = self._line.popleft() if self._line else None
        if first is not None:
            first.wake()

    def _line_up(self, waiters: list[Waiter]) -> list[Waiter]:
        """Put the threads among `waiters` in line, each once; the others."""
        others: list[Waiter] = []
        for waiter in waiters:
            if not isinstance(waiter, ThreadWaiter):
                others.append(waiter)
            elif not waiter.called:
                waiter.called = True
                self._line.append(waiter)
        return others

    def wait_for_index(self, index: int) -> IndexWaiter | None:
        """What is done once the entry that is now at `index` is durable; None if it is."""
        with self.lock:
            waiting = self.ledger.wait_for_index(index)
        if waiting is not None:
            self.schedule()
        return waiting

    def add_waiter(self, target: Waitable, waiter: Waiter) -> None:
        """Wake `waiter` when `target` is done, at once if it is."""
        with self.lock:
            if not target.done:
                target.waiters.append(waiter)
                return
        wake_all((waiter,))

    def check_may_wait(self) -> None:
        """Raise `RaftStoreError` in a callback, before anything is changed."""
        if self._in_callback and get_ident() in self._in_callback:
            raise RaftStoreError("a callback must not wait for the log: it would wait for itself")

    def in_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback`, in which a call that waits raises instead. What it raises is logged."""
        self._in_callback.add(get_ident())
        try:
            callback()
        except BaseException:
            logger.exception("a callback of raftstore failed")
        finally:
            self._in_callback.discard(get_ident())

    def schedule(self) -> None:
        """See to it that the flusher thread leads once a flush is due, unless somebody leads already.

        Whoever leads, or is about to look, will see what the caller has accepted.
        """
        if self._leader != NOBODY or not self.is_unasked():
            return
        with self.lock:
            delay = self.ledger.due_s() if self._leader == NOBODY else _NEVER
        if delay != _NEVER:
            self.wish(delay)

    # --- leading -----------------------------------------------------------------------------------------

    def lead(self, upkeep: Callable[[], None] | None = None) -> bool:
        """For the flusher: if nobody leads, do `upkeep`, then flush while a flush is due."""
        with self.lock:
            if self._leader != NOBODY or (upkeep is None and self.ledger.due_s() > 0):
                return False
            self._leader = get_ident()
        if upkeep is not None:
            try:
                upkeep()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    self.fail(error)
            except Exception as error:  # noqa: BLE001
                self.fail(error)
        self._shielded(self._lead)
        return True

    def _lead_until(self, target: Waitable) -> None:
        """Flush until `target` is done, threads are in line, or that cannot go on; then hand the lead on.

        A group that an interrupt left half settled is finished first, whether `target` is done or not.
        """
        while self._leader == get_ident() and not (target.done and self.ledger.in_flight is None):
            if not self.flush() or self._line:
                break
        self._hand_on()

    def _lead(self) -> None:
        """Finish the flush in flight, if any, flush while that is due, then hand the lead on."""
        while self._leader == get_ident():
            with self.lock:
                due = self.ledger.in_flight is not None or self.ledger.due_s() <= 0
            if not due or not self.flush() or self._line:
                break
        self._hand_on()

    def _hand_on(self) -> None:
        """Give the lead to the last in line, else to a sleeping caller if a flush is due, else to nobody."""
        if self._leader != get_ident():
            return
        with self.lock:
            line, delay = self._line, self.ledger.due_s()
            if not line and delay <= 0:
                self._line_up_a_sleeper()
            if delay == _NEVER:
                self._sleepers.clear()
            self._leader = line[-1].thread if line else NOBODY
            first = line.popleft() if line else None
        if first is not None:
            first.wake()
        elif delay != _NEVER:
            self.wish(delay)

    def _line_up_a_sleeper(self) -> None:
        while self._sleepers and not self._line:
            target, waiter = self._sleepers.popleft()
            if not target.done:
                self._line_up([waiter])

    def _shielded(self, step: Callable[[], None]) -> None:
        """Do `step`, again from its beginning whenever an interrupt cuts it short; then let that go on."""
        try:
            self._repeated(step)
        except Exception:
            raise
        except BaseException:
            self._repeated(step)  # Another interrupt may have come between two attempts.
            raise

    def _repeated(self, step: Callable[[], None]) -> None:
        interrupt: BaseException | None = None
        while True:
            try:
                step()
                break
            except Exception:
                raise
            except BaseException as error:  # noqa: BLE001
                interrupt = error
        if interrupt is not None:
            raise interrupt

    # --- one flush ---------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """For whoever leads: take what is accepted, write it, publish it.

        A raised commit index goes along. False if there is nothing, or it cannot go on now.
        """
        try:
            with self.lock:
                group = self.ledger.take()
            if group is not None and not group.written:
                group = self._write(group)
            if group is None:
                return False
            with self.lock:
                self.ledger.settle(group)
                others = self._line_up(group.to_wake)
            if others:
                wake_all(others)
            with self.lock:
                woken = self.ledger.finish()
            if woken:
                wake_all(woken)
        except Exception as error:  # Out of memory, say: who would lead on?
            self.fail(error)
            raise
        self.notify()
        self.wish(IDLE_S)
        return True

    def _write(self, group: Group) -> Group | None:
        """Make `group` durable, or what is left of it on a full disk. None: that has been dealt with."""
        assert group.batch is not None
        start = time.perf_counter()
        try:
            self.backend.write(group.batch)
        except OSError as error:
            if error.errno == errno.ENOSPC and group.batch.entries:
                return self._refuse(error)
            self.fail(error)
            return None
        except Exception as error:  # noqa: BLE001
            self.fail(error)
            return None
        self.meter.flushed(time.perf_counter() - start, len(group.batch.entries))
        group.written = True
        return group

    def _refuse(self, cause: OSError) -> Group | None:
        """The disk is full: what may go ahead without entries is written instead.

        The lock is held until all of it is done, interrupted or not: nobody sees half of it.
        """
        with self.lock:
            fates, woken = self.ledger.sort_out(), list[Waiter]()
            self._shielded(lambda: wake_all(self.ledger.refuse(fates, cause, woken)))
            group = self.ledger.in_flight
        return group if group is None or group.written else self._write(group)

    def fail(self, cause: BaseException) -> None:
        """The outcome of a write is unknown: latch. Nothing more is written; whoever waits learns it."""
        error = StoreFailedError(f"writing to the store failed ({cause!r}); open it again to recover")
        error.__cause__ = cause
        logger.error("the store failed: %r", cause)
        self._shielded(lambda: self.stop(error))

    def stop(self, error: RaftStoreError) -> None:
        """Accept and write nothing any more, because of `error`."""
        with self.lock:
            woken = self.ledger.stop(error)
        wake_all(woken)
        self.notify()


_NEVER = float("inf")


def _ignore(_delay_s: float) -> None:
    pass


def _yes() -> bool:
    return True


def _nothing() -> None:
    pass
