"""Group commit by threads in as little Python as it takes: what their switching costs, without a log."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from threading import Lock


class _Proposal:
    """One entry and the thread that waits for it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.done = False
        self.next: _Proposal | None = None
        """Whom to wake in turn."""
        self.latch = Lock()
        self.latch.acquire()


class BareGroup:
    """Whoever proposes while a write runs joins the next one, which one of them makes for all.

    The threads of a group wake each other in turn, and the last of them hands the lead on, as those of a log
    do: what it adds beyond this are checks, objects, books and the frame.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._lock = Lock()  # Guards the two below; never held across I/O.
        self._pending: list[_Proposal] = []
        self._leader: _Proposal | None = None

    def propose(self, data: bytes) -> None:
        """Return once `data` is durable."""
        mine = _Proposal(data)
        with self._lock:
            self._pending.append(mine)
            leads = self._leader is None
            if leads:
                self._leader = mine
        if not leads:
            mine.latch.acquire()
            if mine.next is not None:
                mine.next.latch.release()
        if not mine.done:
            self._lead(mine)
        elif self._leader is mine:
            self._hand_on()

    def _lead(self, mine: _Proposal) -> None:
        with self._lock:
            group, self._pending = self._pending, []
        self._write(b"".join([proposal.data for proposal in group]))
        line = [proposal for proposal in group if proposal is not mine]
        for proposal, after in pairwise(line):
            proposal.next = after
        for proposal in group:
            proposal.done = True
        if line:
            self._leader = line[-1]
            line[0].latch.release()
        else:
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            self._leader = self._pending[0] if self._pending else None
            chosen = self._leader
        if chosen is not None:
            chosen.latch.release()
