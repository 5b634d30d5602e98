"""PySyncObj's journal on a `RaftLog`: one write, with one fsync, for all that a message promises.

PySyncObj adds entries one by one, never asks for durability, and then sends a message that relies on them.
So the journal collects what is added and makes it durable when it must be: before a message leaves
(`before_send`, which `wiring.py` calls), before a commit index counts, and with each new term or vote.

What PySyncObj sees is the log up to `_stop`, and after it the `_tail`: what was added and is not in the
log yet. Above `_stop` the log may still hold entries that PySyncObj has deleted. They are its *rest*: a
follower deletes and adds again what a repeated message brings, so an entry that comes back unchanged is
taken from the rest without a write, and only an entry that differs truncates, in one atomic write with
what replaces it. What was written last is kept as PySyncObj's tuples too (`_recent`): it asks for that
again at once, to send it to each other node and to apply it.
"""

from __future__ import annotations

import os
from typing import Any, Final, overload

from raftstore.adapters.pysyncobj import library
from raftstore.adapters.pysyncobj.node_ids import claim, decode_id, encode_id
from raftstore.adapters.pysyncobj.recent import Recent
from raftstore.adapters.pysyncobj.slices import JournalEntry, JournalSlice
from raftstore.entry import NO_ENTRY, Entry, HardState, LogId
from raftstore.errors import BackpressureError, ConfigError, EntryTooLargeError, GapError, RaftStoreError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst

StoreSource = str | os.PathLike[str] | StoreConfig | RaftLog
"""What names a store: a URL, the path of a TOML file, a config, or a log that is open already."""

TAIL_BYTES_MAX: Final = 4 << 20
"""Payload bytes that the journal holds back at most; reaching it writes them."""
LIST_MAX: Final = 16
"""Entries of a slice that are read at once; a longer slice reads as it goes."""
CHUNK_BYTES: Final = 128 * 1024
"""Payload bytes that one step of a slice reads; PySyncObj sends 64 KiB in a message."""
PROMISES_NOTHING: Final = frozenset({"apply_command", "apply_command_response", "timeout_now"})
"""Messages that say nothing of what their sender stores: a command to the leader and where it put it."""

_Journal: Any = library.load().journal.Journal


class RaftStoreJournal(_Journal):  # type: ignore[misc]  # PySyncObj has no types
    """The journal of one PySyncObj node, with its term, vote and commit index.

    Entries are tuples `(command, index, term)`; positions count from the first entry that is kept. Used by
    one thread at a time, whichever, as PySyncObj does. Until a transport that calls `before_send` is
    attached, every `add` is durable when it returns.

    With `DiskFirst`, a message leaves once all that was added is durable. With
    `MemFirst(sync_on_commit=True)` a leader's entries leave while its own disk works; everything else
    waits as above. With plain `MemFirst` only term and vote are waited for: kill a majority at once, and
    the newest entries are gone.
    """

    def __init__(self, source: StoreSource, *, adopt: bool = False) -> None:
        """Open the store that `source` names. A `RaftLog` stays open when the journal is destroyed.

        The store belongs to the node that uses it first; another node's id is refused unless `adopt`.
        Raises what `raftstore.open` raises.
        """
        self._is_owner = not isinstance(source, RaftLog)
        self._log = source if isinstance(source, RaftLog) else open_log(source)
        self._adopt = adopt
        strategy, limits = self._log.config.strategy, self._log.config.limits
        self._sends_early = isinstance(strategy, MemFirst)
        self._acknowledges_early = isinstance(strategy, MemFirst) and not strategy.sync_on_commit
        self._entry_bytes_max = min(limits.entry_bytes_max, limits.write_bytes_max)
        self._tail_bytes_max = min(TAIL_BYTES_MAX, limits.write_bytes_max)
        self._is_attached = False
        self._is_fresh = True
        self._start, self._stop = self._log.first_index, self._log.last_index + 1
        self._tail: list[JournalEntry] = []
        self._tail_bytes = 0
        self._recent = Recent()
        self._is_cleared = False
        self._before_clear: range | None = None
        self._owed_commit = 0
        """A commit index whose entries could not be made durable: nothing may be applied before they are."""
        self._refusal: RaftStoreError | None = None
        """Why this node must not go on: its dump and its log do not belong together."""
        self._hard_state: HardState | None = None
        self._first: JournalEntry | None = None
        self._last: JournalEntry | None = None

    @property
    def log(self) -> RaftLog:
        """The log under the journal. What was added since the last flush is not in it yet."""
        return self._log

    # What PySyncObj reads.

    def __len__(self) -> int:
        return self._end - self._start

    @overload
    def __getitem__(self, item: int) -> JournalEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[JournalEntry] | JournalSlice: ...
    def __getitem__(self, item: int | slice) -> JournalEntry | list[JournalEntry] | JournalSlice:
        """An entry, or a slice of entries: a list if it is short, else a view that reads as it goes.

        PySyncObj applies what it reads as a slice. So a slice raises what `setRaftCommitIndex` raised, until
        what that covers is durable.
        """
        if isinstance(item, int):
            return self._at((self._start if item >= 0 else self._end) + item)
        if self._owed_commit:
            self.setRaftCommitIndex(self._owed_commit)
        positions = range(len(self))[item]
        if positions.step != 1:
            raise ValueError(f"journal slices have no step, got {positions.step}")
        start, stop = self._start + positions.start, self._start + positions.stop
        view = JournalSlice(self._read, start, max(start, stop))
        return view if len(view) > LIST_MAX else list(view)

    def _read(self, start: int, stop: int) -> list[JournalEntry]:
        """The first entries of [start, stop), Raft indexes within the journal: at least one."""
        if start >= self._stop:
            return self._tail[start - self._stop : stop - self._stop]
        if recent := self._recent.read(start, min(stop, self._stop)):
            return recent
        entries = self._log.entries(start, min(stop, self._stop), bytes_max=CHUNK_BYTES)
        return [(entry.data, entry.index, entry.term) for entry in entries]

    def getRaftCommitIndex(self) -> int:  # noqa: N802  # PySyncObj's name
        return max(1, self._commit_index)

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._state.term

    def getVotedForNodeId(self) -> object:  # noqa: N802
        voted_for = self._state.voted_for
        return None if voted_for is None else decode_id(voted_for)

    # What PySyncObj changes.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry. An empty journal takes any index, else it must follow the last."""
        if len(command) > self._entry_bytes_max:
            raise EntryTooLargeError(
                f"a command of {len(command)} bytes; entry_bytes_max and write_bytes_max allow "
                f"{self._entry_bytes_max}: raise them on every node, or write smaller commands"
            )
        if self._end == self._start:
            self._begin_at(idx)
        if idx != self._end:
            raise GapError(f"index {idx} does not follow {self._end - 1}")
        self._add((bytes(command), idx, term))

    def clear(self) -> None:
        """Drop all entries; the next one may have any index. Reaches the disk with what is added next.

        PySyncObj clears its journal when a snapshot is installed, and also when it starts and finds a
        journal that reaches further back than its dump. There what follows the dump is acknowledged and
        must stay: if the first two entries added after it are found unchanged in the log, only what lies
        before them is dropped.
        """
        self._before_clear = range(self._start, self._stop) if self._is_fresh else None
        self._is_fresh = False
        self._is_cleared = True
        self._drop_tail()
        self._stop = self._start
        self._first = self._last = None

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """Keep the positions below `entryFrom`. Reaches the disk with a differing entry, or at the end."""
        self._is_fresh = False
        index = self._start + min(entryFrom, len(self))
        if index < self._stop:
            self._drop_tail()
            self._stop = index
        else:
            dropped = self._tail[index - self._stop :]
            del self._tail[index - self._stop :]
            self._tail_bytes -= sum(len(command) for command, _, _ in dropped)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """Drop the positions below `entryTo`: they are in a dump. Durable on return.

        Works on a full disk, where it is what makes room: what waits to be written goes on waiting.
        """
        self._is_fresh = False
        index = self._start + min(entryTo, len(self))
        if index > self._stop or self._is_cleared:
            self.flush()
        self._log.purge(index - 1)
        self._start = index

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Note the commit index. What it covers is durable on return, but with plain `MemFirst`."""
        self._is_fresh = False
        if raftCommitIndex <= self._commit_index:
            return
        self._owed_commit = raftCommitIndex
        if self._sends_early:
            self._hand_over()
        else:
            self.flush()
        self._log.commit_to(raftCommitIndex)
        self._owed_commit = 0

    def setCurrentTerm(self, term: int, votedForNodeId: object) -> None:  # noqa: N802, N803
        """Keep term and vote, durable on return under every strategy, also while the disk is full."""
        self._is_fresh = False
        voted_for = None if votedForNodeId is None else encode_id(votedForNodeId)
        self._hard_state = HardState(term, voted_for)
        self._save_hard_state()

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """PySyncObj runs: from here on a `clear` is a snapshot."""
        self._is_fresh = False

    def _destroy(self) -> None:
        """Write what is left, drop the rest, close the log."""
        try:
            self.flush()
            self._log.truncate(max(self._stop, self._log.commit_index + 1))
        finally:
            if self._is_owner:
                self._log.close()

    # What the wiring calls.

    def attach(self, node_id: object) -> None:
        """From here on a transport calls `before_send`, so that adds may wait for each other.

        Raises `ConfigError` if the journal has a transport already, or is the one of another node.
        """
        if self._is_attached:
            raise ConfigError("this journal is in use by another SyncObj; give each node its own")
        claim(self._log, node_id, adopt=self._adopt)
        self._is_attached = True

    def before_send(self, message: dict[str, Any]) -> None:
        """Make durable what `message`, about to leave, may promise. Costs nothing when nothing is new."""
        self._is_fresh = False
        if message["type"] in PROMISES_NOTHING:
            return
        if message["type"] == "response_vote":  # It promises the vote alone, also while the disk is full.
            self._save_hard_state()
            return
        if self._acknowledges_early or (self._sends_early and message["type"] == "append_entries"):
            self._hand_over()
        else:
            self.flush()

    def flush(self) -> None:
        """Make everything that was added durable, in one atomic write."""
        self._save_hard_state()
        if self._tail or self._is_cleared:
            self._save()
        elif self._log.durable_index < self._log.last_index:
            self._log.flush()

    # How it gets there.

    @property
    def _end(self) -> int:
        """The index after the last entry."""
        return self._stop + len(self._tail)

    @property
    def _commit_index(self) -> int:
        """A snapshot that is not written yet has its own: what lies before its entries."""
        return self._start - 1 if self._is_cleared else self._log.commit_index

    @property
    def _state(self) -> HardState:
        return self._log.hard_state if self._hard_state is None else self._hard_state

    def _at(self, index: int) -> JournalEntry:
        """One entry. The first and the last are asked for all the time, so they are kept."""
        if not self._start <= index < self._stop:
            return self._unwritten(index)
        if self._last is not None and self._last[1] == index:
            return self._last
        if self._first is not None and self._first[1] == index:
            return self._first
        entry = self._read(index, index + 1)[0]
        if index == self._start:
            self._first = entry
        elif index == self._stop - 1:
            self._last = entry
        return entry

    def _unwritten(self, index: int) -> JournalEntry:
        if not self._stop <= index < self._end:
            raise IndexError(f"index {index}; the journal holds {self._start} to {self._end - 1}")
        return self._tail[index - self._stop]

    def _begin_at(self, index: int) -> None:
        """Take `index` as the first. If the log cannot go on there, what it holds does not count."""
        if index != self._stop:
            self._is_cleared = True
        self._start = self._stop = index

    def _add(self, entry: JournalEntry) -> None:
        if not self._tail and self._is_next_of_rest(entry):
            self._stop += 1
            self._last = entry
            return
        if (
            self._tail
            and self._before_clear is None
            and self._tail_bytes + len(entry[0]) > self._tail_bytes_max
        ):
            self.flush()
        self._tail.append(entry)
        self._tail_bytes += len(entry[0])
        if self._before_clear is not None and len(self._tail) == 2:
            self._undo_clear(self._before_clear)
        if not self._is_attached and self._before_clear is None:
            self.flush()

    def _is_next_of_rest(self, entry: JournalEntry) -> bool:
        if self._is_cleared or self._stop > self._log.last_index:
            return False
        return self._stored(entry[1]) == entry

    def _stored(self, index: int) -> JournalEntry:
        if recent := self._recent.read(index, index + 1):
            return recent[0]
        entry = self._log.entries(index, index + 1)[0]
        return entry.data, entry.index, entry.term

    def _undo_clear(self, before: range) -> None:
        """Both entries of a dump were added: go on with the log if it holds them."""
        self._before_clear = None
        try:
            self._check_follows_dump(before)
            is_same = all(entry[1] in before and self._stored(entry[1]) == entry for entry in self._tail)
        except RaftStoreError as error:  # PySyncObj only logs it, and would go on without the log.
            self._refusal = error
            raise
        if is_same:
            self._start, self._stop = self._tail[0][1], before.stop
            self._is_cleared = False
            self._drop_tail()
            self._log.purge(self._start - 1)

    def _check_follows_dump(self, before: range) -> None:
        """The log begins with the dump that it was purged for: before an older one, a part is missing."""
        dumped = self._tail[0][1]
        if before and dumped < before.start:
            raise GapError(
                f"the dump is of index {dumped}, and the log begins at {before.start}, for it was purged for "
                "a newer dump. The log was left as it is: bring that dump back, or let the node join anew, "
                "with an empty store"
            )

    def _save_hard_state(self) -> None:
        """Save what `setCurrentTerm` gave; again if that failed, for no message may leave before."""
        if self._refusal is not None:
            raise self._refusal
        if self._hard_state is not None:
            self._log.save_hard_state(self._hard_state)
            self._hard_state = None

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

    def _save(self) -> None:
        truncate_from = self._stop if self._tail and self._stop <= self._log.last_index else None
        self._log.save(
            self._entries(),
            truncate_from=None if self._is_cleared else truncate_from,
            anchor=self._anchor() if self._is_cleared else None,
        )
        self._settle()

    def _entries(self) -> list[Entry]:
        return [Entry(term, index, command) for command, index, term in self._tail]

    def _anchor(self) -> LogId:
        """Of a log that begins with the tail. Its term is not known: PySyncObj never asks for it."""
        return LogId(0, self._start - 1) if self._tail else NO_ENTRY

    def _settle(self) -> None:
        """The log took everything."""
        self._stop += len(self._tail)
        if self._tail:
            self._last = self._tail[-1]
            self._recent.extend(self._tail)
        if not self._tail and self._is_cleared:
            self._start = self._stop = 1
        self._drop_tail()
        self._is_cleared = False
        self._before_clear = None

    def _drop_tail(self) -> None:
        self._tail = []
        self._tail_bytes = 0
