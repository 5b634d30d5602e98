"""The books of one log: what is accepted, what is being written, what is durable, and who waits for what.

No thread, no clock but for ages, no I/O: whoever calls holds the log's lock. Methods return the waiters
that must be woken once it is released.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import chain
from typing import Final, TypeVar

from raftstore.batch import WriteBatch, merge
from raftstore.entry import HardState
from raftstore.errors import GapError, RaftStoreError, StoreFailedError, StoreFullError, TruncatedError
from raftstore.fulldisk import Sorted, rechain, sort_out
from raftstore.hardstate import encode_hard_state
from raftstore.operations import Operation, raised_commit
from raftstore.policy import FlushPolicy, Immediate, Pending
from raftstore.room import Room, RoomWaiter
from raftstore.view import View
from raftstore.waiting import IndexWaiter, Waiter
from raftstore.write import Write

T = TypeVar("T")
logger = logging.getLogger("raftstore")

RETRY_FULL_S = 0.1
"""How soon appends that a full disk refused are tried again, if they were acknowledged from memory."""


_NOWHERE: Final = float("inf")
_NEVER: Final = float("inf")


def _taken_back(last: int, number: int, cuts: Sequence[Write]) -> tuple[int, TruncatedError] | None:
    """From where on `cuts`, once durable, take away what write `number` knew up to `last`; what to tell."""
    starts = [cut.truncate_from for cut in cuts if cut.truncate_from is not None and cut.number > number]
    start = min(starts, default=_NOWHERE)
    if start > last:
        return None
    message = f"a truncation from {start} took entry {last} back before it was acknowledged"
    return int(start), TruncatedError(message)


def _is_among(waiting: IndexWaiter, writes: Sequence[Write]) -> bool:
    """Whether `waiting` is for an entry of one of `writes`. The log may hold another one at its index."""
    known = (write.entries for write in writes if write.entries and write.number <= waiting.number)
    return any(entries[0].index <= waiting.last <= entries[-1].index for entries in known)


def fresh(error: BaseException) -> BaseException:
    """A copy to raise: one error object that several threads raise would gather all their tracebacks."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


class Group:
    """The writes of one flush, in the order of acceptance, and the batch that makes them durable."""

    __slots__ = ("batch", "commit", "cuts_before", "to_wake", "writes", "written")

    def __init__(self, base: Write, writes: list[Write], batch: WriteBatch | None, commit: int) -> None:
        """`writes` follow `base`."""
        self.writes = writes
        self.cuts_before = base.cuts_total
        self.batch = batch
        """None if the writes only wait."""
        self.commit = commit
        self.written = batch is None
        self.to_wake: list[Waiter] = []

    def disturbs(self, start: int, stop: int) -> bool:
        """Whether it takes away an entry of [start, stop)."""
        if self.batch is None:
            return False
        cut, anchor = self.batch.truncate_from, self.batch.anchor
        return (cut is not None and cut < stop) or (anchor is not None and anchor.index >= start)


def _append_batch(writes: list[Write]) -> WriteBatch | None:
    """Of `writes` that only append, or only wait."""
    number = writes[-1].number
    if len(writes) == 1:
        entries = writes[0].entries
    else:
        entries = list(chain.from_iterable([write.entries for write in writes]))
    return WriteBatch(number, None, None, entries) if entries else None


class Ledger:
    """Three places in the chain of writes: the accepted, the taken (being written), the durable."""

    def __init__(self, found: Write, view: View, policy: FlushPolicy, room: Room, *, mem_first: bool) -> None:
        self.accepted = self.taken = self.durable = found
        self.view = view
        self.room = room
        self.mem_first = mem_first
        self.durable_index = found.shape.last.index
        self.lowered = 0
        """How often an accepted truncation lowered the durable index. Back where it was, it has changed."""
        self.persisted_commit = found.commit
        self.written_number = found.number
        """Of the last batch that the backend was given and has written."""
        self.in_flight: Group | None = None
        self.end: RaftStoreError | None = None
        """Why nothing can be accepted any more, if so: the disk failed, or the log is closed."""
        self.closing: RaftStoreError | None = None
        """Set while the last flush runs: nothing more is accepted, what was accepted is still written."""
        self.is_full = False
        self._kept_number = 0
        """Up to here a full disk kept what readers had seen. The view may count it as not shown yet."""
        self.commit_raised_at = 0.0
        self.last_flush_end = self.oldest_pending = time.monotonic()
        self._policy = policy
        self._is_always_due = isinstance(policy, Immediate)
        self._retry_at = 0.0
        self._index_waiters: list[IndexWaiter] = []
        self._withheld: list[Write] = []
        """Durable, but a truncation that takes their entries back is in flight: nobody is told yet."""

    # --- acceptance --------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        reason = self.end or self.closing
        if reason is not None:
            raise fresh(reason)

    def accept(self, operation: Operation[T]) -> tuple[Write | None, T]:
        """Decide `operation` against the accepted state; take its write in, if it makes one."""
        if self.end is not None or self.closing is not None:
            self.check_writable()
        newest = self.accepted
        write, result = operation.decide(newest)
        if write is None:
            return None, result
        if not write.entries and write.changes_nothing and self._is_settled(write):
            write.done = True
            return write, result
        if newest.number == self.taken.number:
            self.oldest_pending = time.monotonic()
        self.accepted = write
        if write.truncate_from is not None:
            before, self.durable_index = self.durable_index, self._watermark()
            self.lowered += self.durable_index < before
        if self.mem_first:
            self._show()
            if write.number > self.view.number and not write.urgent:
                write.be_urgent()  # Its caller waits for what goes before it, which is being flushed.
        return write, result

    def _is_settled(self, write: Write) -> bool:
        """Whether there is nothing that `write`, a barrier, would have to wait for."""
        is_durable = self.accepted.number == self.durable.number
        return is_durable and not (write.urgent and self.has_stale_commit)

    @property
    def has_stale_commit(self) -> bool:
        return self.accepted.commit != self.persisted_commit

    @property
    def has_lost_acknowledged(self) -> bool:
        """The disk failed, and appends that readers have seen will never be durable."""
        shown = (write for write in self.undurable() if self.is_shown(write))
        return isinstance(self.end, StoreFailedError) and any(write.entries for write in shown)

    def is_shown(self, write: Write) -> bool:
        """Whether readers have seen `write`."""
        return write.number <= max(self.view.number, self._kept_number)

    def raise_commit(self, index: int) -> None:
        self.check_writable()
        if not self.has_stale_commit:
            self.commit_raised_at = time.monotonic()
        newest = self.accepted
        commit = raised_commit(newest, index)
        newest.commit_asked = max(newest.commit_asked, index)
        newest.commit = commit

    def undurable(self) -> list[Write]:
        """The accepted writes that are not durable, in order."""
        return self._chain_after(self.durable)

    def _chain_after(self, base: Write) -> list[Write]:
        writes: list[Write] = []
        write: Write | None = self.accepted
        while write is not None and write.number > base.number:
            writes.append(write)
            write = write.previous
        writes.reverse()
        return writes

    def _show(self) -> None:
        """`MemFirst`: show what was accepted, up to the first write that is to be shown late."""
        latest, previous = self.accepted, self.accepted.previous
        if previous is not None and previous.number == self.view.number:
            if not latest.visible_late:
                self.view.apply((latest,))
            return
        self.view.apply(self._showable(self.durable))

    def _showable(self, base: Write) -> list[Write]:
        writes: list[Write] = []
        for write in self._chain_after(base):
            if write.visible_late:
                break
            writes.append(write)
        return writes

    def accept_last(self, operation: Operation[T], reason: RaftStoreError) -> Write | None:
        """Accept `operation` as the last one: from here on `reason` is what callers get."""
        write, _ = self.accept(operation)
        self.closing = reason
        return write

    # --- waiting -----------------------------------------------------------------------------------------

    def last_pending(self, operation: Operation[T]) -> Write | None:
        """The newest write in flight that did already what `operation` need not do again."""
        return next((write for write in reversed(self.undurable()) if operation.awaits(write)), None)

    def wait_for_index(self, index: int) -> IndexWaiter | None:
        """Registers a wait for the entry that is now at `index`; None if it is durable."""
        if index > self.accepted.shape.last.index:
            raise GapError(f"there is no entry {index}: the last is {self.accepted.shape.last.index}")
        if index <= self.end_of_durable():
            return None
        self.check_writable()
        return self.wait_for_range(index, index)

    def wait_for_range(self, start: int, last: int) -> IndexWaiter:
        """As `wait_for_index`, for entries of which none is durable."""
        waiting = IndexWaiter(start, last, self.accepted.number)
        self._index_waiters.append(waiting)
        return waiting

    @property
    def free_bytes(self) -> int:
        """`DiskFirst`: how much may be accepted before callers have to wait for room."""
        return 0 if self.room.is_queued else self.room.pending_bytes_max - self.pending_bytes

    def has_room(self, size: int) -> bool:
        if size == 0:
            return True
        pending = self.accepted.bytes_total - self.durable.bytes_total
        if self.mem_first:
            return not self.is_full and self.room.is_free(size, pending, self.memory_bytes)
        return self.room.is_free(size, pending, 0)

    def queue_for_room(self, waiting: RoomWaiter) -> list[Waiter]:
        self.check_writable()
        self.room.queue.append(waiting)
        return self.grant_room()

    def grant_room(self) -> list[Waiter]:
        if not self.room.queue or self.end is not None:
            return []
        return self.room.grant(self.pending_bytes, self.memory_bytes)

    @property
    def has_pending(self) -> bool:
        """Whether something is accepted and not being written yet."""
        return self.accepted.number != self.taken.number

    @property
    def pending_bytes(self) -> int:
        return self.accepted.bytes_total - self.durable.bytes_total

    @property
    def pending_entries(self) -> int:
        return self.accepted.entries_total - self.durable.entries_total

    @property
    def memory_bytes(self) -> int:
        return self.view.bytes

    # --- when a flush is due -----------------------------------------------------------------------------

    def due_s(self) -> float:
        """Seconds until what was accepted should go to disk; infinite if nothing waits."""
        newest, taken = self.accepted, self.taken
        if newest.number == taken.number or self.end is not None:
            return _NEVER
        if newest.urgent_total > taken.urgent_total or (self._is_always_due and not self.is_full):
            return 0.0
        now = time.monotonic()
        if self.is_full:
            return self._retry_at - now
        waiting = newest.bytes_total - taken.bytes_total
        if self.room.queue or waiting >= self.room.pending_bytes_max:
            return 0.0
        entries = newest.entries_total - taken.entries_total
        return self._ask_policy(
            Pending(entries, waiting, now - self.oldest_pending, now - self.last_flush_end)
        )

    def _ask_policy(self, pending: Pending) -> float:
        try:
            return self._policy.due_s(pending)
        except Exception:
            logger.exception("the flush policy %r failed; flushing now", self._policy)
            return 0.0

    # --- one flush ---------------------------------------------------------------------------------------

    def take(self) -> Group | None:
        """What the next flush makes durable, all that is accepted; None if that is nothing."""
        if self.end is not None:
            return None
        if self.in_flight is not None:
            return self.in_flight
        newest, commit = self.accepted, self.accepted.commit
        if newest.number == self.taken.number and commit == self.persisted_commit:
            return None
        writes = self._chain_after(self.taken)
        group = Group(self.taken, writes, self._batch(self.taken, writes, commit), commit)
        self.in_flight, self.taken = group, newest
        return group

    def _batch(self, base: Write, writes: list[Write], commit: int) -> WriteBatch | None:
        """The net change of `writes`, which follow `base`, and the commit index if it moved."""
        if commit == self.persisted_commit and writes[-1].changes_total == base.changes_total:
            return _append_batch(writes)
        effective = [write for write in writes if not write.changes_nothing]
        state = None
        if commit != self.persisted_commit or any(write.state_change is not None for write in effective):
            accepted = writes[-1].hard_state if writes else self.durable.hard_state
            state = encode_hard_state(HardState(accepted.term, accepted.voted_for, commit))
        if not effective:
            number = writes[-1].number if writes else self._spare_number()
            return None if state is None else WriteBatch(number, hard_state=state)
        net = merge([write.batch() for write in effective])
        return WriteBatch(writes[-1].number, net.truncate_from, net.anchor, net.entries, state, net.meta)

    def _spare_number(self) -> int:
        """A write number for a commit index that goes to disk alone: a write that changes nothing else."""
        self.accepted.number += 1
        self.view.number = self.accepted.number
        return self.accepted.number

    def settle(self, group: Group) -> None:
        """`group` is durable: show it, move the watermark, find who waited. Repeating it changes nothing."""
        newest = group.writes[-1] if group.writes else self.durable
        if not self.mem_first:
            self.view.apply(group.writes)
        elif self.view.number != self.accepted.number:
            self.view.apply([*group.writes, *self._showable(newest)])
        if group.batch is not None:
            self.written_number = group.batch.number
            self.persisted_commit = group.commit if group.batch.hard_state else self.persisted_commit
        self.durable = newest
        newest.previous = None
        self._move_watermark(group)
        self._complete(group)  # Last: who waits looks without the lock, and must find all of the above.
        self.last_flush_end = time.monotonic()

    def _complete(self, group: Group) -> None:
        """Answer those who waited for a write of `group`, or for what became of it.

        Entries that a truncation takes back are answered once that truncation is durable: it may be refused.
        """
        if not self._withheld and self.accepted.cuts_total == group.cuts_before:
            for write in group.writes:
                if not write.done:
                    group.to_wake += write.waiters
                    write.done = True
            return
        cuts = [write for write in group.writes if write.truncate_from is not None]
        at_stake = self._lowest_pending_cut()
        withheld: list[Write] = []
        for write in [*self._withheld, *group.writes]:
            last = write.entries[-1].index if write.entries else 0
            if write.done:
                continue
            if last >= at_stake:
                withheld.append(write)
                continue
            group.to_wake += write.waiters
            taken_back = _taken_back(last, write.number, cuts)
            write.error = None if taken_back is None else taken_back[1]
            write.done = True
        self._withheld = withheld

    def _lowest_pending_cut(self) -> float:
        """From where on a truncation that is accepted and not durable takes entries away."""
        if self.accepted.cuts_total == self.durable.cuts_total:
            return _NOWHERE
        return min(write.truncate_from for write in self.undurable() if write.truncate_from is not None)

    def _move_watermark(self, group: Group) -> None:
        """A truncation that is accepted but not durable keeps the watermark below it."""
        self.durable_index = self._watermark()
        if self._index_waiters:
            cuts = [write for write in group.writes if write.truncate_from is not None]
            self._answer_index_waiters(cuts, group.to_wake)

    def _answer_index_waiters(self, cuts: list[Write], woken: list[Waiter]) -> None:
        """Add to `woken` those whose entries are durable, or will never be. Repeating it loses nobody."""
        end = self.end_of_durable()
        for waiting in self._index_waiters:
            taken_back = _taken_back(waiting.last, waiting.number, cuts)
            if taken_back is not None and waiting.error is None:
                waiting.take_back(*taken_back)
            if waiting.error is not None or waiting.last <= end:
                woken += waiting.waiters
                waiting.done = True
        self._index_waiters = [waiting for waiting in self._index_waiters if not waiting.done]

    def _watermark(self) -> int:
        return max(self.end_of_durable(), self.view.shape.anchor.index)

    def end_of_durable(self) -> int:
        """Up to here what is accepted is durable. A reset under way lowers it, below the anchor, too."""
        index = self.durable.shape.last.index
        if self.accepted.cuts_total != self.durable.cuts_total:
            index = min(index, int(self._lowest_pending_cut()) - 1)
        return index

    def finish(self) -> list[Waiter]:
        """The group in flight is settled and its waiters are woken: the next may be taken."""
        self.is_full = self.is_full and self.accepted.number != self.durable.number
        self.in_flight = None
        return self.grant_room()

    # --- when it goes wrong ------------------------------------------------------------------------------

    def sort_out(self) -> Sorted:
        """What becomes of what is accepted, since the disk is full. Changes nothing."""
        return sort_out(self.durable, self.undurable(), self.view.number)

    def refuse(self, fates: Sorted, cause: OSError, woken: list[Waiter]) -> list[Waiter]:
        """What may go ahead becomes the group in flight; `woken`, with those who must be woken added to it.

        Repeating it with the same `fates`, nothing having been accepted since, changes nothing.
        """
        self.accepted = rechain(self.durable, fates)
        self.taken = fates.ahead[-1] if fates.ahead else self.durable
        self.view.number = self.durable.number
        self.is_full = bool(fates.kept)
        self._kept_number = self.accepted.number if self.is_full else 0
        self._retry_at = time.monotonic() + RETRY_FULL_S
        self.durable_index = self._watermark()
        self._refuse_all(fates.refused, cause, woken)
        self._release_withheld(woken)
        self.in_flight = None
        if fates.ahead:
            base, commit = self.durable, self.taken.commit
            self.in_flight = Group(base, fates.ahead, self._batch(base, fates.ahead, commit), commit)
        else:
            self.view.apply(fates.kept)
        if not self.is_full:
            woken += self.grant_room()
        return woken

    def _refuse_all(self, refused: list[Write], cause: OSError, woken: list[Waiter]) -> None:
        error = StoreFullError("no room on the disk: nothing of this was written; purge, or make room")
        error.__cause__ = cause
        for write in refused:
            if not write.done:
                write.error, write.done = error, True
            woken += write.waiters
        for waiting in self._index_waiters:
            if _is_among(waiting, refused):
                waiting.error = error
        self._answer_index_waiters([], woken)

    def _release_withheld(self, woken: list[Waiter]) -> None:
        """Those whose entries no truncation takes back any more learn that they are durable."""
        at_stake = self._lowest_pending_cut()
        for write in self._withheld:
            if write.entries[-1].index < at_stake:
                write.done = True
                woken += write.waiters
        self._withheld = [write for write in self._withheld if not write.done]

    def stop(self, error: RaftStoreError) -> list[Waiter]:
        """Nothing can be accepted or written any more: whoever waits, learns it. The first reason stays."""
        if self.end is None:
            self.end = error
        woken: list[Waiter] = []
        for write in [*self._withheld, *self.undurable()]:
            if not write.done:
                write.error, write.done = self.end, True
            woken += write.waiters
        for waiting in self._index_waiters:
            if not waiting.done:
                waiting.error, waiting.done = self.end, True
            woken += waiting.waiters
        woken += [waiting.waiter for waiting in self.room.queue]
        self.in_flight = None
        return woken
