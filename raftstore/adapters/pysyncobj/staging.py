"""What a journal was given and its log does not have yet: how it waits, and how it gets there in one write.

What PySyncObj sees is the log up to `_stop`, and after it the `_tail`. Above `_stop` the log may still hold
entries that PySyncObj has deleted. They are its *rest*: a follower deletes and adds again what a repeated
message brings, so an entry that comes back unchanged is taken from the rest without a write, and only an
entry that differs truncates, in one atomic write with what replaces it. A rest that nothing differed from
was perhaps acknowledged: it stays in the log. What was written last is kept as PySyncObj's tuples too
(`_recent`): it asks for that again at once, to send it to each other node and to apply it.
"""

from __future__ import annotations

from typing import Final

from raftstore.adapters.pysyncobj.recent import Recent
from raftstore.adapters.pysyncobj.slices import JournalEntry
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import BackpressureError, RaftStoreError
from raftstore.log import RaftLog
from raftstore.strategy import MemFirst

TAIL_BYTES_MAX: Final = 4 << 20
"""Payload bytes that the journal holds back at most; reaching it writes them."""
CHUNK_BYTES: Final = 128 * 1024
"""Payload bytes that one step of a slice reads; PySyncObj sends 64 KiB in a message."""
DUMP_FAILED: Final = (
    "a dump came and could not be loaded, as PySyncObj has logged: nothing is acknowledged from here on, and "
    "the log was left as it is. Mend what is wrong and start the node again"
)


class Staging:
    """A log and what waits to be written to it. Indexes are Raft's. Used by one thread at a time."""

    def __init__(self, log: RaftLog) -> None:
        strategy, limits = log.config.strategy, log.config.limits
        self._log = log
        self._sends_early = isinstance(strategy, MemFirst)
        self._acknowledges_early = isinstance(strategy, MemFirst) and not strategy.sync_on_commit
        self._tail_bytes_max = min(TAIL_BYTES_MAX, limits.write_bytes_max)
        self._start = log.first_index
        self._stop = self._end = log.last_index + 1
        """`_end`: the index after the last entry, so after the tail."""
        self._tail: list[JournalEntry] = []
        self._tail_bytes = 0
        self._recent = Recent()
        self._is_cleared = False
        """What the log holds does not count: the tail replaces all of it."""
        self._awaits_dump = False
        """Cleared, and the two entries of a dump are to come: the log may hold them."""
        self._expects_dump = False
        """A dump came, and what PySyncObj has loaded of it is not known: the journal was not cleared yet."""
        self._hard_state: HardState | None = None
        """What `setCurrentTerm` gave, until it is saved."""
        self._refusal: RaftStoreError | None = None
        """Why this node must not go on: its dump and its log do not belong together."""

    def flush(self) -> None:
        """Make everything that was added durable, in one atomic write."""
        self._save_hard_state()
        if self._tail:
            self._save()
        elif self._log.durable_index < self._log.last_index:
            self._log.flush()

    def _hand_over(self) -> None:
        """Give the tail to the log, whose strategy says when it is acknowledged and durable."""
        self._save_hard_state()
        if not self._tail:
            return
        if self._is_cleared or self._log.last_index >= self._stop:
            self._save()
            return
        try:
            self._log.append(self._entries())
        except BackpressureError:
            self._save()
        else:
            self._settle()

    def _save_hard_state(self) -> None:
        """Save what `setCurrentTerm` gave; again if that failed, for no message may leave before."""
        if self._refusal is not None:
            raise self._refusal
        if self._expects_dump:
            raise RaftStoreError(DUMP_FAILED)
        if self._hard_state is not None:
            self._log.save_hard_state(self._hard_state)
            self._hard_state = None

    def _save(self) -> None:
        """Write the tail over whatever the log holds from its first index on, or of all if it is cleared."""
        if self._awaits_dump:  # The second entry could not be added. One alone must not replace the log.
            raise RaftStoreError(DUMP_FAILED)
        if self._is_cleared:  # The anchor's term is not known: PySyncObj never asks for it.
            self._log.save(self._entries(), anchor=LogId(0, self._start - 1))
        else:
            truncate_from = self._stop if self._stop <= self._log.last_index else None
            self._log.save(self._entries(), truncate_from=truncate_from)
        self._settle()

    def _entries(self) -> list[Entry]:
        return [Entry(term, index, command) for command, index, term in self._tail]

    def _settle(self) -> None:
        """The log took the tail."""
        self._recent.extend(self._tail, self._tail_bytes)
        self._stop = self._end
        self._tail, self._tail_bytes = [], 0
        self._is_cleared = self._awaits_dump = False

    def _drop_tail(self, stop: int) -> None:
        """Show the log up to `stop`, and nothing after it."""
        self._tail, self._tail_bytes = [], 0
        self._stop = self._end = stop

    def _cut_tail(self, index: int) -> None:
        """Drop what waits from `index` on, an index of the tail."""
        at = index - self._stop
        self._tail_bytes -= sum([len(command) for command, _, _ in self._tail[at:]])
        del self._tail[at:]
        self._end = index

    def _read(self, start: int, stop: int) -> list[JournalEntry]:
        """The first entries of [start, stop), Raft indexes within the journal: at least one."""
        if start >= self._stop:
            return self._tail[start - self._stop : stop - self._stop]
        return self._stored(start, min(stop, self._stop))

    def _stored(self, start: int, stop: int) -> list[JournalEntry]:
        """The first entries of [start, stop) that the log holds, the rest included: at least one."""
        if recent := self._recent.read(start, stop):
            return recent
        entries = self._log.entries(start, stop, bytes_max=CHUNK_BYTES)
        return [(entry.data, entry.index, entry.term) for entry in entries]

    def _is_stored(self, entry: JournalEntry) -> bool:
        """Whether the log holds this very entry; it must hold one of that index."""
        return self._stored(entry[1], entry[1] + 1)[0] == entry
