"""PySyncObj's journal on a `RaftLog`: one write, with one fsync, for all that a message promises.

PySyncObj adds entries one by one, never asks for durability, and then sends a message that relies on them.
So the journal collects what is added (`staging.py`) and makes it durable when it must be: before a message
leaves (`before_send`, which `wiring.py` calls), before a commit index counts, and with each new term or vote.

For every command PySyncObj asks for the last entry, for the first, and for a slice of one: that is answered
with as few steps as can be.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, overload

from raftstore.adapters.pysyncobj import library
from raftstore.adapters.pysyncobj.node_ids import claim, decode_id, encode_id
from raftstore.adapters.pysyncobj.slices import JournalEntry, JournalSlice
from raftstore.adapters.pysyncobj.staging import Staging
from raftstore.entry import HardState
from raftstore.errors import ConfigError, EntryTooLargeError, GapError, RaftStoreError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig

StoreSource = str | os.PathLike[str] | StoreConfig | RaftLog
"""What names a store: a URL, the path of a TOML file, a config, or a log that is open already."""

LIST_MAX: Final = 16
"""Entries of a slice that are read at once; a longer slice reads as it goes."""
PROMISES_NOTHING: Final = frozenset({"apply_command", "apply_command_response", "timeout_now"})
"""Messages that say nothing of what their sender stores: a command to the leader and where it put it."""
_NONE: Final = -1

_Journal: Any = library.load().journal.Journal


class RaftStoreJournal(Staging, _Journal):  # type: ignore[misc]  # PySyncObj has no types
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
        super().__init__(source if isinstance(source, RaftLog) else open_log(source))
        limits = self._log.config.limits
        self._entry_bytes_max = min(limits.entry_bytes_max, limits.write_bytes_max)
        self._adopt = adopt
        self._is_attached = False
        self._is_fresh = True
        """Nothing but reading has happened: a `clear` is PySyncObj's start."""
        self._unchecked_bytes_max = _NONE
        """Up to which size of the tail an entry that follows can be added with no further look."""
        self._owed_commit = 0
        """A commit index whose entries could not be made durable: nothing may be applied before they are."""
        self._first: JournalEntry | None = None
        self._last: JournalEntry | None = None
        """The ends, once they are known."""

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
            if item == -1 and self._last is not None:
                return self._last
            if item == 0 and self._first is not None:
                return self._first
            return self._at((self._start if item >= 0 else self._end) + item)
        if self._owed_commit:
            self.setRaftCommitIndex(self._owed_commit)
        start, stop, step = item.indices(self._end - self._start)
        if step != 1:
            raise ValueError(f"journal slices have no step, got {step}")
        return self._slice(self._start + start, self._start + max(start, stop))

    def _slice(self, start: int, stop: int) -> list[JournalEntry] | JournalSlice:
        if stop - start > LIST_MAX:
            return JournalSlice(self._read, start, stop)
        if start >= self._stop:
            return self._tail[start - self._stop : stop - self._stop]
        if stop <= self._stop and len(recent := self._recent.read(start, stop)) == stop - start:
            return recent
        return list(JournalSlice(self._read, start, stop))

    def _at(self, index: int) -> JournalEntry:
        """One entry. The first and the last are asked for all the time, so they are kept."""
        if not self._start <= index < self._end:
            raise IndexError(f"index {index}; the journal holds {self._start} to {self._end - 1}")
        entry = self._read(index, index + 1)[0]
        if index == self._start:
            self._first = entry
        if index == self._end - 1:
            self._last = entry
        return entry

    def getRaftCommitIndex(self) -> int:  # noqa: N802  # PySyncObj's name
        return max(1, min(self._commit_index, self._end - 1))

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._state.term

    def getVotedForNodeId(self) -> object:  # noqa: N802
        voted_for = self._state.voted_for
        return None if voted_for is None else decode_id(voted_for)

    @property
    def _commit_index(self) -> int:
        """A snapshot that is not written yet has its own: what lies before its entries."""
        return self._start - 1 if self._is_cleared else self._log.commit_index

    @property
    def _state(self) -> HardState:
        return self._log.hard_state if self._hard_state is None else self._hard_state

    # What PySyncObj changes.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry. An empty journal takes any index, else it must follow the last."""
        entry = (bytes(command), idx, term)
        tail_bytes = self._tail_bytes + len(command)
        if idx != self._end or tail_bytes > self._unchecked_bytes_max:
            self._add_checked(entry)
            return
        self._tail.append(entry)
        self._tail_bytes = tail_bytes
        self._end = idx + 1
        self._last = entry

    def clear(self) -> None:
        """Drop all entries; the next one may have any index. Reaches the disk with what is added next.

        PySyncObj clears its journal when it has received a dump, and also when it starts and finds a journal
        that reaches further back than its dump. What follows the dump may be acknowledged, and then it must
        stay (Raft §7): if the first two entries that are added, the dump's, are found unchanged in the log,
        only what lies before them is dropped. PySyncObj sees again what follows them when it starts; of a
        running node it is the rest, for the leader may not have it.
        """
        self._awaits_dump = True
        self._is_cleared = True
        self._drop_tail(self._start)
        self._forget_ends()
        self._expects_dump = False

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """Keep the positions below `entryFrom`. Reaches the disk with an entry that differs."""
        self._is_fresh = False
        self._forget_ends()
        index = self._start + min(entryFrom, len(self))
        if index < self._stop:
            self._drop_tail(index)
        else:
            self._cut_tail(index)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """Drop the positions below `entryTo`: they are in a dump. Durable on return.

        Works on a full disk, where it is what makes room: what waits to be written goes on waiting.
        """
        self._is_fresh = False
        self._forget_ends()
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
        """Write what is left, close the log. What was deleted and not replaced stays: it may be promised.

        Behind a dump that was not loaded nothing is written: none of it is promised.
        """
        try:
            if self._refusal is None and not self._expects_dump and not self._awaits_dump:
                self.flush()
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

    @contextmanager
    def closed_if_refused(self) -> Generator[None]:
        """If a node is refused meanwhile, close the journal, unless another SyncObj uses it.

        Who mends the reason opens the store again at once, while the refused node is not garbage yet.
        """
        was_attached = self._is_attached
        try:
            yield
        except BaseException:
            if not was_attached:
                self._destroy()
            raise

    def before_send(self, message: dict[str, Any]) -> None:
        """Make durable what `message`, about to leave, may promise. Costs nothing when nothing is new."""
        self._is_fresh = False
        if message["type"] in PROMISES_NOTHING:
            return
        if message["type"] == "response_vote" or "serialized" in message:
            self._save_hard_state()  # A vote, or a piece of a dump, promises no entry: also on a full disk.
            return
        if self._acknowledges_early or (self._sends_early and message["type"] == "append_entries"):
            self._hand_over()
        else:
            self.flush()

    def expect_dump(self) -> None:
        """A dump came, and PySyncObj loads it next. It acknowledges its log even if it fails at that.

        So nothing leaves before the journal was cleared and given the entries of the dump.
        """
        self._expects_dump = True

    # What an entry may be, other than the next.

    def _forget_ends(self) -> None:
        self._first = self._last = None
        self._unchecked_bytes_max = _NONE

    def _add_checked(self, entry: JournalEntry) -> None:
        command, index, _ = entry
        self._check_entry(command, index)
        if self._is_next_of_rest(entry):
            self._stop = self._end = index + 1
            self._last = entry
            return
        if self._tail and not self._awaits_dump and self._tail_bytes + len(command) > self._tail_bytes_max:
            self.flush()
        self._tail.append(entry)
        self._tail_bytes += len(command)
        self._end = index + 1
        self._last = entry
        if self._awaits_dump and len(self._tail) == 2:
            self._meet_dump()
        if self._awaits_dump or not self._tail:
            return
        if self._is_attached:  # Behind a tail that is not empty nothing is a rest's any more.
            self._unchecked_bytes_max = min(self._tail_bytes_max, self._entry_bytes_max)
        else:
            self.flush()

    def _check_entry(self, command: bytes, index: int) -> None:
        if len(command) > self._entry_bytes_max:
            raise EntryTooLargeError(
                f"a command of {len(command)} bytes; entry_bytes_max and write_bytes_max allow "
                f"{self._entry_bytes_max}: raise them on every node, or write smaller commands"
            )
        if self._end == self._start:
            self._begin_at(index)
        if index != self._end:
            raise GapError(f"index {index} does not follow {self._end - 1}")

    def _begin_at(self, index: int) -> None:
        """Take `index` as the first. If the log cannot go on there, what it holds does not count."""
        if index != self._stop:
            self._is_cleared = True
        self._start = self._stop = self._end = index

    def _is_next_of_rest(self, entry: JournalEntry) -> bool:
        if self._tail or self._is_cleared or self._stop > self._log.last_index:
            return False
        return self._is_stored(entry)

    def _meet_dump(self) -> None:
        """Both entries of a dump were added: go on with the log if it holds them.

        Whatever cuts this short, an interrupt too, leaves the log: PySyncObj logs it, and goes on.
        """
        held = range(self._log.first_index, self._log.last_index + 1)
        try:
            self._check_follows_dump(held)
            is_held = all(entry[1] in held and self._is_stored(entry) for entry in self._tail)
        except RaftStoreError as error:  # PySyncObj only logs it, and would go on without the log.
            self._refusal = error
            raise
        if is_held:
            self._go_on_with_log(held.stop if self._is_fresh else self._end)
        self._awaits_dump = self._is_fresh = False

    def _go_on_with_log(self, stop: int) -> None:
        """Take back the `clear`: the log counts, from the entries of the dump up to `stop`."""
        self._start = self._tail[0][1]
        self._is_cleared = False
        self._drop_tail(stop)
        self._forget_ends()
        self._log.purge(self._start - 1)

    def _check_follows_dump(self, held: range) -> None:
        """The log begins with the dump that it was purged for: before an older one, a part is missing."""
        dumped = self._tail[0][1]
        if held and dumped < held.start:
            raise GapError(
                f"the dump is of index {dumped}, and the log begins at {held.start}, for it was purged for "
                "a newer dump. The log was left as it is: bring that dump back, or let the node join anew, "
                "with an empty store"
            )
