"""`RaftLog`: the public face of a log. Every member is short: the work is done by its session's parts."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, TypeVar

from raftstore import operations
from raftstore.config import load
from raftstore.entry import Entry, HardState, LogId, Splice
from raftstore.errors import PurgedError, TruncatedError
from raftstore.majority import majority_index
from raftstore.notifier import Subscribers
from raftstore.operations import Operation
from raftstore.receipt import Receipt, receipt_of
from raftstore.session import Session, open_session
from raftstore.shape import Shape
from raftstore.status import RecoveryReport, Status
from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst

T = TypeVar("T")

SCAN_BYTES: Final = 1024 * 1024
"""Payload bytes that `scan` holds at a time."""


def open(source: StoreConfig | str | os.PathLike[str]) -> RaftLog:
    """Open the log that `source` means, making its store if it is absent and the config allows it.

    `source` is a URL (`segmented:///var/lib/n1/raft?strategy=MemFirst`), the path of a TOML file, or a
    `StoreConfig`. What is found is durable and consistent on return; `RaftLog.recovery` says what it was.
    Raises `ConfigError`, `BackendMissingError`, `StoreLockedError`, `FormatError`, `CorruptionError`,
    `StoreFullError` if there is no room for a new store, `OSError`.
    """
    return RaftLog(open_session(load(source)))


class RaftLog:
    """A durable Raft log. Made by `raftstore.open`; usable from any thread; a context manager.

    A write is *accepted* when its checks pass, against everything accepted before it; *visible* to reads when
    the strategy says so (`DiskFirst`: once durable; `MemFirst`: at once); *durable* when it would survive a
    power cut. Writes reach the disk in the order of acceptance. Every member raises `StoreClosedError` after
    `close` and in a forked child, every write `StoreFailedError` after the disk has failed.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pipeline = session.pipeline
        self._reader = session.reader
        self._limits = session.config.limits
        self._subscribers = Subscribers()
        session.notifier.attach(self._subscribers)
        self._finalizer = weakref.finalize(self, session.abandon)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        shape = self._pipeline.ledger.view.shape
        state = "closed" if self._session.gone else f"{shape.first_index}..{shape.last.index}"
        return f"<RaftLog {self._session.store.path} {state}>"

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> RaftLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- bounds and terms --------------------------------------------------------------------------------

    @property
    def _shape(self) -> Shape:
        if self._session.gone is not None:
            self._session.check_process()
        return self._pipeline.ledger.view.shape

    @property
    def first_index(self) -> int:
        """The index of the first entry that is not purged: anchor + 1, also in an empty log. O(1)."""
        return self._shape.first_index

    @property
    def last_index(self) -> int:
        """The index of the last visible entry; the anchor's if there is none. O(1)."""
        return self._shape.last.index

    @property
    def anchor(self) -> LogId:
        """The id of the last purged entry; `LogId(0, 0)` in a fresh log. O(1)."""
        return self._shape.anchor

    @property
    def last(self) -> LogId:
        """The id of the last visible entry; the anchor if there is none. O(1).

        For a vote compare `last_accepted`: under `DiskFirst` this one leaves out what is not durable yet.
        """
        return self._shape.last

    @property
    def last_accepted(self) -> LogId:
        """The id of the last *accepted* entry; the anchor if there is none. O(1).

        What a voter compares with a candidate's log (Raft §5.4.1): whatever this node has acknowledged, or
        will, lies at or before it. It is not lower than `last`, unless a truncation is on its way to disk.
        """
        self._session.check_process()
        return self._pipeline.ledger.accepted.shape.last

    @property
    def is_empty(self) -> bool:
        """Whether no entry is visible. O(1)."""
        return self._shape.is_empty

    def __len__(self) -> int:
        """How many entries are visible. O(1)."""
        shape = self._shape
        return shape.last.index - shape.anchor.index

    @property
    def next_index(self) -> int:
        """The last *accepted* index + 1: where the next run must start: callers can pipeline. O(1)."""
        self._session.check_process()
        return self._pipeline.ledger.accepted.shape.next_index

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`, or of the anchor; None above last. Reads no payload. O(log runs).

        Raises `PurgedError` below the anchor.
        """
        shape = self._shape
        if index < shape.anchor.index:
            raise PurgedError(f"entry {index} was purged; the first index is {shape.first_index}")
        return shape.term(index)

    def first_index_of_term(self, term: int) -> int | None:
        """The first live index of `term`; None if it has none. O(log runs)."""
        return self._shape.first_index_of_term(term)

    def last_index_of_term(self, term: int) -> int | None:
        """The last index of `term`; None if it has no live entry. O(log runs)."""
        return self._shape.last_index_of_term(term)

    # --- reads -------------------------------------------------------------------------------------------

    def entry(self, index: int) -> Entry | None:
        """The entry at `index`; None above last.

        Raises `PurgedError` at or below the anchor, `CorruptionError` if its stored bytes are damaged.
        """
        self._session.check_process()
        return self._reader.entry(index)

    def entries(self, start: int, stop: int | None = None, *, bytes_max: int | None = None) -> list[Entry]:
        """The entries of [start, stop), ascending, no holes, cut at last and at `bytes_max` payload bytes.

        At least one entry if there is any, whatever `bytes_max`. Raises `PurgedError` if `start` is at or
        below the anchor, `CorruptionError` for damaged bytes. O(entries) in memory, else one read a chunk.
        """
        self._session.check_process()
        return self._reader.entries(start, stop, bytes_max)

    def scan(self, start: int | None = None, stop: int | None = None) -> Iterator[Entry]:
        """All entries of [start, stop), by default of the whole log, in bounded memory.

        Raises as `entries`, also in the middle: `PurgedError` if a purge overtakes it, `TruncatedError` if a
        truncation takes back what it has already given.
        """
        index = self.first_index if start is None else start
        while chunk := self.entries(index, stop, bytes_max=SCAN_BYTES):
            yield from chunk
            index = chunk[-1].index + 1
            self._check_still_holds(chunk[-1])

    def _check_still_holds(self, entry: Entry) -> None:
        """Raise `TruncatedError` if a truncation took `entry` back since it was read."""
        if entry.index > self.last_index or self.term(entry.index) != entry.term:
            raise TruncatedError(f"entry {entry.index} was taken back while the log was being read")

    # --- entries -----------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> LogId:
        """Append a run that starts at `next_index`; the id of its last entry. `[]` does nothing.

        Returns when the strategy acknowledges: `DiskFirst` when durable, `MemFirst` from memory. Raises, with
        nothing changed, `GapError`, `TermError` (terms never decrease), `EntryTooLargeError`,
        `StoreFullError`, under `MemFirst` `BackpressureError`; `TruncatedError` if another caller took the
        entries back.
        """
        return self._run(operations.append(entries, self._limits))

    def propose(self, term: int, payloads: Sequence[bytes], kind: int = 0) -> range:
        """The leader's path: append `payloads` in `term` at the next indexes, which are returned.

        Atomic: concurrent calls get ranges that do not overlap. Raises as `append`; `TermError` also if
        `term` is below the hard state's, for this leader was deposed.
        """
        return self._run(operations.propose(term, payloads, kind, self._limits))

    def splice(self, prev: LogId, entries: Sequence[Entry]) -> Splice:
        """The follower's path (Raft §5.3): verify `prev`, keep what matches, replace what conflicts.

        A duplicate or an empty message never truncates; truncation starts at the first real conflict and is
        one atomic write with the new entries, durable on return. Without one it acknowledges as `append`,
        what it verified included. What lies at or below the anchor is taken as matching. Raises as `append`;
        `CommittedError` if `prev` contradicts the anchor, or the conflict lies at or below the commit index.
        """
        return self._run(operations.splice(prev, entries, self._limits))

    def submit(self, entries: Sequence[Entry]) -> Receipt:
        """As `append`, but returns once accepted. The receipt completes when the entries are durable."""
        return self._submit(operations.append(entries, self._limits))[0]

    def submit_propose(
        self, term: int, payloads: Sequence[bytes], kind: int = 0, *, start: int | None = None
    ) -> Receipt:
        """As `propose`, but returns once accepted, with the indexes in the receipt.

        If the disk has no room for it, the next proposal gets its indexes. A leader that sends entries before
        they are durable must not give an index twice in its term: it says with `start` which one it means,
        and gets `GapError`, with nothing changed, if that is not the next one.
        """
        return self._submit(operations.propose(term, payloads, kind, self._limits, start))[0]

    def submit_splice(self, prev: LogId, entries: Sequence[Entry]) -> Receipt:
        """As `splice`, but returns once accepted, with the outcome in `Receipt.splice`."""
        receipt, outcome = self._submit(operations.splice(prev, entries, self._limits))
        receipt.splice = outcome
        return receipt

    # --- bounds ------------------------------------------------------------------------------------------

    def truncate(self, start: int) -> None:
        """Drop `start` and everything after it; durable on return. Above last: nothing.

        Raises `PurgedError` at or below the anchor, `CommittedError` at or below the commit index.
        """
        self._run(operations.truncate(start))

    def purge(self, upto: int) -> None:
        """Drop everything up to and including `upto`, whose id becomes the anchor; durable on return.

        Implies committed: raises the commit index to at least `upto`. At or below the anchor: nothing. Raises
        `GapError` above last.
        """
        self._run(operations.purge(upto))

    def install_snapshot(self, last_included: LogId) -> bool:
        """Make room for a snapshot that ends at `last_included` (Raft §7); durable on return.

        False if it is at or below the commit index: it is stale, nothing changes. Else True: if the log holds
        that entry, what follows it stays; otherwise the log becomes empty at that anchor.
        """
        return self._run(operations.install_snapshot(last_included))

    def reset(self, anchor: LogId) -> None:
        """Unconditionally become empty at `anchor`, which may move either way; durable on return.

        For rebuilding a node. Keeps hard state and metadata; the commit index becomes the anchor's.
        """
        self._run(operations.reset(anchor))

    # --- hard state and metadata -------------------------------------------------------------------------

    @property
    def hard_state(self) -> HardState:
        """The last durable term and vote, and the commit index."""
        self._session.check_process()
        state = self._pipeline.ledger.durable.hard_state
        return HardState(state.term, state.voted_for, self.commit_index)

    def save_hard_state(self, state: HardState) -> None:
        """Save term and vote, durable on return under every strategy, and raise the commit index.

        Raises, with nothing changed, `TermError` if the term would go down, `VoteError` if a vote of this
        term would change, `GapError` if the commit index lies above the last accepted entry.
        """
        self._run(operations.save_hard_state(state))
        self._pipeline.commit_to(state.commit)

    def save(
        self,
        entries: Sequence[Entry] = (),
        *,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        anchor: LogId | None = None,
        meta: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """All of it in one atomic write and one fsync, durable on return (raft-rs: persisting a Ready).

        In this order, with the checks of each: `anchor` empties the log as `reset`, then truncation, entries,
        hard state, metadata as `put_meta`. If one check fails, nothing has changed.
        """
        self._run(operations.save(entries, hard_state, truncate_from, anchor, meta, self._limits))

    def get_meta(self, key: str) -> bytes | None:
        """The last durable value of `key`, or None."""
        self._session.check_process()
        return self._pipeline.ledger.durable.meta.get(key)

    def put_meta(self, key: str, value: bytes | None) -> None:
        """Save a small value for an adapter, durable on return; None deletes it.

        Raises `EntryTooLargeError` if all values together exceed 64 KiB.
        """
        self._run(operations.put_meta(key, value))

    # --- durability and commit ---------------------------------------------------------------------------

    def flush(self) -> None:
        """Everything accepted before the call is durable on return, the commit index included."""
        self._run(operations.barrier())

    @property
    def durable_index(self) -> int:
        """The highest index such that it and everything before it is durable; at least the anchor's. O(1).

        It never goes down, except when a truncation or a reset is accepted.
        """
        self._session.check_process()
        ledger = self._pipeline.ledger
        return max(ledger.durable_index, ledger.view.shape.anchor.index)

    def wait_durable(self, index: int, timeout: float | None = None) -> None:
        """Return once the entry that is now at `index` is durable. The moment is left to the flush policy.

        Raises `GapError` above the last accepted entry, `TruncatedError` if the entry is taken back,
        `TimeoutError` after `timeout` seconds, `StoreFailedError`.
        """
        self._session.check_process()
        self._pipeline.check_may_wait()
        target = self._pipeline.wait_for_index(index)
        if target is not None:
            self._pipeline.wait(target, timeout)

    def on_durable(self, callback: Callable[[int], object]) -> Callable[[], None]:
        """Call `callback(durable_index)` whenever that has changed; returns a function that ends it.

        One call at a time, in order, in a thread of the log's, with no lock held; a call inside it that would
        wait for the log raises. What it raises is logged.
        """
        self._session.check_process()
        self._session.notifier.start()
        return self._subscribers.add(callback)

    @property
    def commit_index(self) -> int:
        """Raft's commit index. anchor.index <= commit_index <= last accepted index. O(1)."""
        self._session.check_process()
        ledger = self._pipeline.ledger
        return max(ledger.accepted.commit, ledger.view.shape.anchor.index)

    def commit_to(self, index: int) -> None:
        """Raise the commit index; a lower one does nothing. Raises `GapError` above the last accepted index.

        Not a disk access: it is persisted with the next write that carries state, or within a second. Under
        `MemFirst(sync_on_commit=True)` it flushes and returns when `index` is durable.
        """
        self._session.check_process()
        is_durable = self._pipeline.commit_to(index)
        strategy = self.config.strategy
        if isinstance(strategy, MemFirst) and strategy.sync_on_commit and not is_durable:
            self.flush()

    def majority_index(
        self, match_indexes: Iterable[int], current_term: int, *, voter: bool = True
    ) -> int | None:
        """Raft's commit rule (§5.3, §5.4.2): the index that a leader of `current_term` may commit now.

        `match_indexes` are those of the *other* voters; this node's durable index is added if it votes. None
        unless that is above the commit index and an entry of `current_term` that can be read here.
        """
        matches = [*match_indexes, *((self.durable_index,) if voter else ())]
        return majority_index(matches, current_term, self.commit_index, self._shape)

    # --- the log itself ----------------------------------------------------------------------------------

    @property
    def config(self) -> StoreConfig:
        """The effective configuration."""
        return self._session.config

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found."""
        return self._session.recovery

    def status(self) -> Status:
        """One snapshot of every number worth showing."""
        self._session.check_process()
        return self._session.status()

    def close(self) -> None:
        """Flush, commit index included, and release the store. Twice is fine.

        Raises `StoreFullError`, and stays open, if appends that `MemFirst` acknowledged find no room on the
        disk; `StoreFailedError`, and is closed, if the disk failed before they were written.
        """
        self._session.close()

    def _run(self, operation: Operation[T]) -> T:
        if self._session.gone is not None:
            self._session.check_process()
        return self._pipeline.run(operation)

    def _submit(self, operation: Operation[T]) -> tuple[Receipt, T]:
        self._session.check_process()
        write, result = self._pipeline.admit(operation)
        self._pipeline.schedule()
        return receipt_of(self._session, write), result
