"""raft-rs on raftstore: the object that rraft-py's `Storage` takes, and the write side of its Ready loop.

    import rraft
    from raftstore.adapters.raft_rs import RaftRsStorage

    storage = RaftRsStorage("segmented:///var/lib/n1/raft", make_snapshot=machine.snapshot)
    if not storage.is_initialized():
        storage.initialize_with_conf_state(rraft.ConfState(voters=[1, 2, 3], learners=[]))
    node = rraft.RawNode(config, rraft.Storage(storage), logger)

Then, for each Ready, one call persists all of it with one fsync:

    ready = node.ready()
    send(ready.messages())
    storage.save(ready)                             # snapshot, entries, term and vote
    send(ready.persisted_messages())                # only now: they promise what was saved
    light = node.advance(ready.make_ref())
    if (commit := light.commit_index()) is not None:
        storage.commit_to(commit)                   # no disk access

and after a configuration change was applied, `storage.set_conf_state(node.apply_conf_change(change))`.

Keep your own reference to the storage and write through it, or through `wl()`. The methods that rraft-py
copies to its `StorageRef` (`ref.append(…)`) drop every exception of the storage: the node would go on as if
its entries were saved.

rraft-py has wheels for few systems; it is imported when the first storage is made.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import BackendMissingError, PurgedError, RaftStoreError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig

StoreSource = str | os.PathLike[str] | StoreConfig | RaftLog
"""What names a store: a URL, the path of a TOML file, a config, or a log that is open already."""

MakeSnapshot = Callable[[], tuple[int, bytes]]
"""The state machine as bytes, and the index of the last entry that it has applied."""

CONF_STATE_KEY: Final = "raft_rs.conf_state"

P = ParamSpec("P")
T = TypeVar("T")


def _only_raft_errors(
    method: Callable[Concatenate[RaftRsStorage, P], T],
) -> Callable[Concatenate[RaftRsStorage, P], T]:
    """Anything but its own exceptions makes raft-rs panic, and a panic is no `Exception` to Python."""

    @functools.wraps(method)
    def guarded(storage: RaftRsStorage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(storage, *args, **kwargs)
        except PurgedError as error:
            raise storage.store_error("CompactedError", str(error)) from error
        except (RaftStoreError, OSError) as error:
            raise storage.store_error("OtherError", f"{type(error).__name__}: {error}") from error

    return guarded


class RaftRsStorage:
    """The storage of one raft-rs node: entries, term, vote, commit index and configuration in one `RaftLog`.

    Every write is durable on return, under every strategy, but `commit_to`. Usable from any thread. Errors
    leave as rraft's `StoreError`: around `CompactedError` for what was purged, `UnavailableError` for what is
    not there yet, `SnapshotOutOfDateError`, `SnapshotTemporarilyUnavailableError`, and `OtherError` for all
    else; the error of this library is its `__cause__`. After a failed write nothing has changed.
    """

    def __init__(
        self, source: StoreSource, *, make_snapshot: MakeSnapshot | None = None, rraft: Any = None
    ) -> None:
        """Open the store that `source` names. A `RaftLog` stays open when the storage is closed.

        `make_snapshot` is called by raft-rs, in its thread, when a follower needs what was compacted; without
        it such a follower waits. `rraft` stands for the module of that name. Raises what `raftstore.open`
        raises, and `BackendMissingError` if rraft is not installed.
        """
        self._rraft: Any = _import_rraft() if rraft is None else rraft
        self._make_snapshot = make_snapshot
        self._is_owner = not isinstance(source, RaftLog)
        self._log = source if isinstance(source, RaftLog) else open_log(source)

    @property
    def log(self) -> RaftLog:
        """The log under the storage."""
        return self._log

    def close(self) -> None:
        """Close the log, unless it was given open. Twice is fine."""
        if self._is_owner:
            self._log.close()

    def wl(self) -> RaftRsStorage:
        """The storage itself: raft-rs's `MemStorage` has a write lock here."""
        return self

    def rl(self) -> RaftRsStorage:
        """The storage itself: raft-rs's `MemStorage` has a read lock here."""
        return self

    # --- what raft-rs reads ------------------------------------------------------------------------------

    @_only_raft_errors
    def initial_state(self) -> Any:
        """The `RaftState` that a node starts from."""
        return self._rraft.RaftState(self._hard_state(), self._conf_state())

    @_only_raft_errors
    def entries(self, low: int, high: int, context: object, max_size: int | None) -> list[Any]:
        """The entries of [low, high), at most `max_size` encoded bytes, but at least one."""
        del context  # How to fetch later; every read is answered at once.
        found = self._log.entries(low, high, bytes_max=max_size)
        if high > self._log.last_index + 1:
            raise self.store_error("UnavailableError", f"entry {high - 1} is above {self._log.last_index}")
        return [self._rraft.Entry.decode(entry.data) for entry in found]

    @_only_raft_errors
    def term(self, idx: int) -> int:
        """The term at `idx`, from `first_index() - 1` to `last_index()`."""
        term = self._log.term(idx)
        if term is None:
            raise self.store_error("UnavailableError", f"entry {idx} is above {self._log.last_index}")
        return term

    @_only_raft_errors
    def first_index(self) -> int:
        """The index of the first entry that is not compacted."""
        return self._log.first_index

    @_only_raft_errors
    def last_index(self) -> int:
        """The index of the last entry; `first_index() - 1` if there is none."""
        return self._log.last_index

    @_only_raft_errors
    def snapshot(self, request_index: int, to: int) -> Any:
        """What `make_snapshot` gives, with its term and the configuration. Not yet if it ends too early."""
        del to  # All peers get the same one.
        index, data = (0, b"") if self._make_snapshot is None else self._make_snapshot()
        if self._make_snapshot is None or index < max(request_index, self._log.anchor.index, 1):
            raise self.store_error("SnapshotTemporarilyUnavailableError", f"none from {request_index} on")
        snapshot, metadata = self._rraft.Snapshot.default(), self._rraft.SnapshotMetadata.default()
        metadata.set_index(index)
        metadata.set_term(self.term(index))
        metadata.set_conf_state(self._conf_state())
        snapshot.set_metadata(metadata)
        snapshot.set_data(data)
        return snapshot

    # --- what the Ready loop writes ----------------------------------------------------------------------

    @_only_raft_errors
    def save(self, ready: Any) -> None:
        """Persist a `Ready`: snapshot, entries, term and vote, in one atomic write with one fsync.

        A Ready that changes the commit index alone costs no disk access. The state machine's data in a
        snapshot is the caller's to keep, before this call.
        """
        self._save(ready.snapshot() or None, ready.entries(), ready.hs())

    @_only_raft_errors
    def append(self, ents: Sequence[Any]) -> None:
        """Append `ents`; they replace what the log holds from the first of them on."""
        self._save(None, ents, None)

    @_only_raft_errors
    def set_hard_state(self, hs: Any) -> None:
        """Save term and vote, and raise the commit index."""
        self._save(None, (), hs)

    def set_hardstate(self, hs: Any) -> None:
        """As `set_hard_state`: rraft-py uses both names."""
        self.set_hard_state(hs)

    @_only_raft_errors
    def hard_state(self) -> Any:
        """A copy of the hard state. Changing it changes nothing here: use `commit_to`."""
        return self._hard_state()

    @_only_raft_errors
    def conf_state(self) -> Any:
        """A copy of the configuration that was saved last, the default one if none was."""
        return self._conf_state()

    @_only_raft_errors
    def set_conf_state(self, cs: Any) -> None:
        """Save the configuration: after each configuration change that was applied."""
        self._log.put_meta(CONF_STATE_KEY, cs.encode())

    @_only_raft_errors
    def is_initialized(self) -> bool:
        """Whether the node has a configuration: then it restarts, and is not initialized again."""
        return self._log.get_meta(CONF_STATE_KEY) is not None

    @_only_raft_errors
    def initialize_with_conf_state(self, cs: Any) -> None:
        """Give a new node its first configuration, the same on all nodes. Term 1, as in raft-rs."""
        if self.is_initialized():
            raise self.store_error("OtherError", "the node is initialized already: ask is_initialized()")
        self._log.save(hard_state=HardState(term=1), meta={CONF_STATE_KEY: cs.encode()})

    @_only_raft_errors
    def apply_snapshot(self, snapshot: Any) -> None:
        """Become empty after `snapshot`, with its configuration. Out of date below the commit index."""
        self._save(snapshot, (), None)

    @_only_raft_errors
    def compact(self, compact_index: int) -> None:
        """Drop the entries before `compact_index`, all of which must be applied."""
        self._log.purge(compact_index - 1)

    @_only_raft_errors
    def commit_to(self, index: int) -> None:
        """Raise the commit index; a lower one does nothing. No disk access, as `RaftLog.commit_to`."""
        self._log.commit_to(index)

    # --- how -------------------------------------------------------------------------------------------

    def store_error(self, kind: str, message: str) -> Exception:
        """The exception that raft-rs understands. `kind` is the name of one of its storage errors."""
        error: Exception = self._rraft.StoreError(getattr(self._rraft, kind)(message))
        return error

    def _save(self, snapshot: Any, ents: Sequence[Any], hs: Any) -> None:
        state = None if hs is None else _hard_state_of(hs)
        if snapshot is None and not ents:
            if state is not None:
                self._log.save_hard_state(state)
            return
        entries = [_entry_of(entry) for entry in ents]
        if snapshot is not None:
            self._save_snapshot(snapshot, entries, state)
        else:
            first = entries[0].index
            replaces = first if first <= self._log.last_index else None
            self._log.save(entries, truncate_from=replaces, hard_state=state)

    def _save_snapshot(self, snapshot: Any, entries: list[Entry], state: HardState | None) -> None:
        metadata = snapshot.get_metadata()
        conf_state = metadata.get_conf_state()
        end = LogId(metadata.get_term(), metadata.get_index())
        if end.index < max(self._log.first_index, self._log.commit_index):
            raise self.store_error("SnapshotOutOfDateError", f"{end} is behind {self._log.commit_index}")
        meta = {CONF_STATE_KEY: conf_state.encode()}
        self._log.save(entries, anchor=end, hard_state=state or self._state_at(end.term), meta=meta)

    def _state_at(self, term: int) -> HardState:
        """The hard state once `term` was seen: who was voted for in an older term no longer counts."""
        state = self._log.hard_state
        return HardState(term) if term > state.term else HardState(state.term, state.voted_for)

    def _hard_state(self) -> Any:
        state, found = self._log.hard_state, self._rraft.HardState.default()
        found.set_term(state.term)
        found.set_vote(int(state.voted_for or 0))
        found.set_commit(state.commit)
        return found

    def _conf_state(self) -> Any:
        stored = self._log.get_meta(CONF_STATE_KEY)
        return self._rraft.ConfState.default() if stored is None else self._rraft.ConfState.decode(stored)


def _entry_of(entry: Any) -> Entry:
    """All of it as `data`; what the log must know beside it. The kind is raft's entry type."""
    return Entry(entry.get_term(), entry.get_index(), entry.encode(), int(entry.get_entry_type()))


def _hard_state_of(hs: Any) -> HardState:
    vote: int = hs.get_vote()
    return HardState(hs.get_term(), str(vote) if vote else None, hs.get_commit())


def _import_rraft() -> Any:
    try:
        return import_module("rraft")
    except ModuleNotFoundError as error:
        raise BackendMissingError("rraft-py is not installed: pip install rraft-py") from error
