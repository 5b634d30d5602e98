"""pyraftlog on raftstore: the object that its `Node` takes as `storage`.

    from raftstore.adapters.pyraftlog import Storage

    node = pyraftlog.Node(mode, name, neighbourhood, Storage("segmented:///var/lib/n1/raft"))

To move from another of its storages: `Storage(url).persist(old.retrieve(State(role, name, neighbourhood)))`.

pyraftlog 3.0.0 is no longer kept, and cannot replicate by itself on today's Python: its `Log.chunk` asks an
entry for its `__dict__`, which a named tuple lacks. A subclass of `pyraftlog.log.Entry` without `__slots__`,
put in its place before the first node, helps; entries are read back as whatever stands there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import msgspec

from raftstore.entry import NO_ENTRY, Entry, HardState, LogId
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig

PROGRESS_KEY: Final = "pyraftlog.progress"


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """What pyraftlog keeps beside Raft's own state: who has applied how much, and whether it may compact."""

    last_applied: int = 0
    cluster_applied: dict[str, int] = {}
    log_reduction: bool = False


class Storage:
    """The state of one pyraftlog node in one `RaftLog`. Used by many threads at once, as pyraftlog does.

    The values of entries are what MessagePack can say, as in pyraftlog's messages.
    """

    def __init__(self, source: str | os.PathLike[str] | StoreConfig | RaftLog) -> None:
        """Open the store that `source` names. A `RaftLog` stays open when the storage is closed.

        Raises what `raftstore.open` raises.
        """
        self._is_owner = not isinstance(source, RaftLog)
        self._log = source if isinstance(source, RaftLog) else open_log(source)
        self._lock = threading.Lock()

    @property
    def log(self) -> RaftLog:
        """The log under the storage."""
        return self._log

    def close(self) -> None:
        """Close the log, unless it was given open. Twice is fine. pyraftlog does not call it."""
        if self._is_owner:
            self._log.close()

    def exists(self) -> bool:
        """Whether a state was ever persisted here."""
        log = self._log
        return log.last != NO_ENTRY or log.hard_state.term > 0 or log.get_meta(PROGRESS_KEY) is not None

    def retrieve(self, state: Any) -> Any:
        """`state`, with what was persisted last in it; unchanged if nothing was."""
        if self.exists():
            hard_state, progress = self._log.hard_state, self._progress()
            vote = hard_state.voted_for
            state.populate(
                {
                    "current_term": hard_state.term,
                    "voted_for": {} if vote is None else {hard_state.term: vote},
                    "log": self._read_log(),
                    "commit_index": max(self._log.commit_index, progress.last_applied),
                    "last_applied": progress.last_applied,
                    "cluster_applied": {**state.cluster_applied, **progress.cluster_applied},
                    "log_reduction": progress.log_reduction,
                }
            )
        return state

    def persist(self, state: Any) -> bool:
        """Save what has changed in `state` in one atomic write, durable on return; True.

        Nothing is written if nothing has, or if only the commit index has, which follows with the next write.
        Entries are the stored ones up to the last with the same index, term and value. Raises, with nothing
        changed, `CommittedError` for a committed entry that differs, `TermError`, `VoteError`,
        `StoreFullError`, `StoreFailedError`.
        """
        with self._lock:
            progress = _progress_of(state)
            hard_state = _hard_state_of(state)
            with state.log.lock:
                entries, offset = list(state.log.entries), state.log.offset
            self._save(entries, offset, hard_state, progress)
            self._log.commit_to(min(state.commit_index, self._log.last_index))
            self._log.purge(offset)
        return True

    def _save(self, entries: Sequence[Any], offset: int, hard_state: HardState, progress: Progress) -> None:
        log = self._log
        anchor = None if log.anchor.index <= offset <= log.last_index else LogId(0, offset)
        start = offset + 1 if anchor is not None else self._first_difference(entries, offset)
        news = [_encoded(entry) for entry in entries[start - offset - 1 :]]
        truncate_from = start if anchor is None and start <= log.last_index else None
        stored = log.hard_state
        is_new_state = (hard_state.term, hard_state.voted_for) != (stored.term, stored.voted_for)
        is_new_progress = progress != self._progress()
        if news or anchor is not None or truncate_from is not None or is_new_state or is_new_progress:
            log.save(
                news,
                anchor=anchor,
                truncate_from=truncate_from,
                hard_state=hard_state if is_new_state else None,
                meta={PROGRESS_KEY: msgspec.msgpack.encode(progress)} if is_new_progress else None,
            )

    def _first_difference(self, entries: Sequence[Any], offset: int) -> int:
        """The index after the last entry that is stored unchanged. Raft: then so is every one before it."""
        index = min(self._log.last_index, offset + len(entries))
        while index > max(offset, self._log.anchor.index):
            entry = entries[index - offset - 1]
            if self._log.term(index) == entry.term and self._log.entry(index) == _encoded(entry):
                break
            index -= 1
        return index + 1

    def _progress(self) -> Progress:
        stored = self._log.get_meta(PROGRESS_KEY)
        return Progress() if stored is None else msgspec.msgpack.decode(stored, type=Progress)

    def _read_log(self) -> Any:
        module = import_module("pyraftlog.log")
        decode = msgspec.msgpack.decode
        found = module.Log(
            module.Entry(entry.term, entry.index, decode(entry.data)) for entry in self._log.scan()
        )
        found.offset, found.cur_idx = self._log.anchor.index, self._log.last_index
        return found


def _encoded(entry: Any) -> Entry:
    return Entry(entry.term, entry.idx, msgspec.msgpack.encode(entry.value))


def _hard_state_of(state: Any) -> HardState:
    """Term and vote. The vote is read first: other threads raise the term before they vote in it."""
    votes = state.voted_for
    term: int = state.current_term
    return HardState(term, votes.get(term))


def _progress_of(state: Any) -> Progress:
    return Progress(state.last_applied, dict(state.cluster_applied), bool(state.log_reduction))
