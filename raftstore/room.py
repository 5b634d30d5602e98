"""Room for pending writes: who may be accepted now, and who waits for the disk.

Whoever uses it holds the log's lock.
"""

from __future__ import annotations

from collections import deque

from raftstore.waiting import Waiter


class RoomWaiter:
    """One caller in the queue for `size` bytes. Granted once, in the order of arrival."""

    __slots__ = ("granted", "size", "waiter")

    def __init__(self, size: int, waiter: Waiter) -> None:
        self.size = size
        self.waiter = waiter
        self.granted = False


class Room:
    """Counts what was granted but not yet accepted, and keeps the queue. Nobody in it is overtaken."""

    def __init__(self, pending_bytes_max: int, memory_bytes_max: int | None) -> None:
        self.pending_bytes_max = pending_bytes_max
        self.memory_bytes_max = memory_bytes_max
        self.queue: deque[RoomWaiter] = deque()
        self._granted = 0

    @property
    def is_queued(self) -> bool:
        """Whether somebody waits for room, or has it and has not come."""
        return bool(self.queue or self._granted)

    def is_free(self, size: int, pending: int, memory: int) -> bool:
        """Whether a newcomer may be accepted: it fits, and nobody waits before it."""
        return not self.queue and not self._granted and self._fits(size, pending, memory)

    def _fits(self, size: int, pending: int, memory: int) -> bool:
        if self.memory_bytes_max is not None and memory + size > self.memory_bytes_max:
            return False
        return pending == 0 or pending + size <= self.pending_bytes_max

    def grant(self, pending: int, memory: int) -> list[Waiter]:
        """Grant room to the head of the queue, as far as it goes; those to be woken.

        Cut short by an interrupt, it may leave one at the head that has its room.
        """
        woken: list[Waiter] = []
        while self.queue:
            head = self.queue[0]
            if not head.granted:
                if not self._fits(head.size, pending + self._granted, memory + self._granted):
                    break
                head.granted, self._granted = True, self._granted + head.size
            woken.append(head.waiter)
            self.queue.popleft()
        return woken

    def give_back(self, waiting: RoomWaiter) -> None:
        """The caller is accepted, or has given up."""
        if waiting.granted:
            waiting.granted, self._granted = False, self._granted - waiting.size
        if waiting in self.queue:
            self.queue.remove(waiting)
