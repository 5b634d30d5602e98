"""One opened store and everything that runs for it, from opening to closing.

A `RaftLog` is only a handle to its session. When the handle becomes garbage, the session's flusher closes
the store; at the end of the interpreter an exit hook does; in a forked child the session is dead.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from contextlib import suppress
from itertools import pairwise
from threading import Lock
from typing import Final
from weakref import WeakSet

from raftstore.entry import INDEX_MAX, HardState
from raftstore.errors import CorruptionError, StoreClosedError
from raftstore.flusher import Flusher
from raftstore.hardstate import decode_hard_state, decode_meta
from raftstore.ledger import Ledger, fresh
from raftstore.notifier import Notifier
from raftstore.pipeline import Pipeline
from raftstore.reader import Reader
from raftstore.room import Room
from raftstore.shape import Shape
from raftstore.status import RecoveryReport, Status
from raftstore.store import Store, open_store
from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst
from raftstore.view import View
from raftstore.write import Write, first_write

logger = logging.getLogger("raftstore")


class Session:
    """The parts of an open log, wired together."""

    def __init__(self, config: StoreConfig, store: Store, started: float | None = None) -> None:
        """`started` is when opening began, by `time.perf_counter`."""
        started = time.perf_counter() if started is None else started
        self.config = config
        self.store = store
        self.gone: StoreClosedError | None = None
        """Why this session cannot be used any more, if so."""
        self._released = False
        """Nothing is left to be closed here: an interrupt may have come after `gone` was said."""
        mem_first, limits = isinstance(config.strategy, MemFirst), config.limits
        found = _found(store)
        view = View(found, cache_bytes=None if mem_first else limits.cache_bytes)
        room = Room(limits.pending_bytes_max, limits.memory_bytes_max if mem_first else None)
        ledger = Ledger(found, view, config.flush_policy, room, mem_first=mem_first)
        self.pipeline = Pipeline(
            store.backend, ledger, backpressure_timeout_s=limits.backpressure_timeout_ms / 1000
        )
        self.reader = Reader(self.pipeline, cache_bytes=limits.cache_bytes)
        if mem_first or config.startup == "preload":
            self.reader.load_window(bytes_max=None if mem_first else limits.cache_bytes)
        self.notifier = Notifier(self.pipeline)
        self._flusher = Flusher(self.pipeline, store, when_abandoned=self._close_abandoned)
        self._closing = Lock()  # Held while closing, so that it happens once.
        self.recovery = _report(store, found.shape, time.perf_counter() - started)
        self._flusher.start()
        _sessions.add(self)

    # --- state -------------------------------------------------------------------------------------------

    def check_process(self) -> None:
        """Raise `StoreClosedError` if the log is closed, or in a forked child. Takes no lock."""
        if self.gone is not None:
            raise fresh(self.gone)

    def status(self) -> Status:
        pipeline, ledger = self.pipeline, self.pipeline.ledger
        disk = self.store.backend.stats()
        with pipeline.lock:
            shape, accepted, durable = ledger.view.shape, ledger.accepted, ledger.durable
            p50, p99, highest = pipeline.meter.quantiles_ms()
            return Status(
                state="failed" if ledger.end is not None else "full" if ledger.is_full else "open",
                first_index=shape.first_index,
                last_index=shape.last.index,
                durable_index=ledger.durable_index,
                commit_index=max(accepted.commit, shape.anchor.index),
                next_index=accepted.shape.next_index,
                term=durable.hard_state.term,
                voted_for=durable.hard_state.voted_for,
                pending_entries=ledger.pending_entries,
                pending_bytes=ledger.pending_bytes,
                memory_bytes=ledger.memory_bytes,
                flushes=pipeline.meter.flushes,
                flushed_entries=pipeline.meter.entries,
                flush_p50_ms=p50,
                flush_p99_ms=p99,
                flush_max_ms=highest,
                cache_hits=pipeline.meter.cache_hits,
                cache_misses=pipeline.meter.cache_misses,
                bytes_on_disk=disk.bytes_on_disk,
                bytes_reclaimable=disk.bytes_reclaimable,
                files=disk.files,
            )

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Flush, end the threads, release the store. Twice is fine; after an interrupt, needed.

        Raises `StoreFullError`, and stays open, if acknowledged appends find no room on the disk;
        `StoreFailedError`, and is closed, if the disk failed before acknowledged appends were written.
        """
        with self._closing:
            if self._released:
                return
            closed = StoreClosedError("the log is closed; open it again")
            self.pipeline.close(closed)
            self._release(closed)
            if self.pipeline.ledger.has_lost_acknowledged:
                self.pipeline.ledger.check_writable()

    def _close_abandoned(self) -> None:
        """In the flusher's thread, when the handle is garbage. Nobody can be told what goes wrong."""
        with self._closing:
            if not self._released:
                self._close_anyway()

    def close_at_exit(self) -> None:
        """In the main thread, when the interpreter ends."""
        if not self._released and self._closing.acquire(timeout=EXIT_TIMEOUT_S):
            try:
                if not self._released:  # pyright: ignore[reportUnnecessaryComparison]
                    self._close_anyway()
            finally:
                self._closing.release()

    def _close_anyway(self) -> None:
        closed = StoreClosedError("the log was closed because nobody held it any more")
        try:
            self.pipeline.close(closed)
        except Exception:
            logger.exception("the last flush of %s failed", self.store.path)
            self.pipeline.stop(closed)
        self._release(closed)

    def _release(self, reason: StoreClosedError) -> None:
        ledger = self.pipeline.ledger
        failed = ledger.end is not None and not isinstance(ledger.end, StoreClosedError)
        self._flusher.stop()
        self.reader.close()
        self.gone = reason
        try:
            if not failed:
                self.store.witness(ledger.written_number, clean=not ledger.undurable())
        finally:
            self.store.close()
            self.notifier.close()
            _sessions.discard(self)
        self._released = True

    def abandon(self) -> None:
        """The handle is garbage. Takes no lock and waits for nothing: it may run in any thread, anywhere."""
        if self.gone is None:
            self._flusher.abandon()

    def forget_in_child(self) -> None:
        """After a fork, in the child: the parent has the store. No I/O but closing the lock's descriptor."""
        if not self._released:  # An interrupt may have left a session that is gone, and has the store.
            self._released = True
            self._closing = Lock()  # A thread of the parent's may have it.
            self.gone = StoreClosedError("the log belongs to the parent process; open it in the parent only")
            self.store.abandon_in_child()
            _inherited.append(self)  # So that no destructor of a backend runs here.


EXIT_TIMEOUT_S: Final = 60.0
_sessions: WeakSet[Session] = WeakSet()
_inherited: list[Session] = []


def _close_all() -> None:
    for session in list(_sessions):
        with suppress(Exception):
            session.close_at_exit()


def _forget_all_in_child() -> None:
    for session in list(_sessions):
        session.forget_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all_in_child)


def open_session(config: StoreConfig) -> Session:
    """Open the store and start a session on it; nothing stays open if that fails."""
    started = time.perf_counter()
    store = open_store(config)
    try:
        return Session(config, store, started)
    except BaseException:
        store.close()
        raise


def _found(store: Store) -> Write:
    """What recovery found, as the beginning of the chain of writes. Raises `CorruptionError`."""
    recovery = store.backend.recovery
    shape = Shape(recovery.anchor, recovery.last, tuple(recovery.term_runs))
    _check_shape(shape)
    stored = decode_hard_state(recovery.hard_state)
    commit = min(max(stored.commit, shape.anchor.index), shape.last.index)
    state = HardState(stored.term, stored.voted_for)
    return first_write(recovery.number, shape, state, decode_meta(recovery.meta), commit)


def _check_shape(shape: Shape) -> None:
    """A log whose bounds and terms contradict each other must not be read, let alone vote."""
    runs = shape.runs
    if shape.is_empty:
        sound = not runs and shape.last == shape.anchor
    else:
        sound = (
            bool(runs)
            and runs[0].index == shape.first_index
            and runs[-1].term == shape.last.term
            and runs[-1].index <= shape.last.index
            and all(a.index < b.index and a.term < b.term for a, b in pairwise(runs))
            and runs[0].term >= shape.anchor.term
        )
    anchor, last = shape.anchor, shape.last
    ends = (anchor.term, anchor.index, last.term, last.index)
    if not sound or min(ends) < 0 or max(ends) > INDEX_MAX or last.index < anchor.index:
        raise CorruptionError(f"the bounds and terms of the log contradict each other: {shape}")


def _report(store: Store, shape: Shape, seconds: float) -> RecoveryReport:
    recovery = store.backend.recovery
    return RecoveryReport(
        created=store.created,
        first_index=shape.first_index,
        last_index=shape.last.index,
        entries=shape.last.index - shape.anchor.index,
        bytes_dropped=recovery.torn_bytes,
        kept_at=recovery.kept_at,
        acknowledged_missing=store.acknowledged_missing,
        bytes_read=recovery.bytes_read,
        seconds=seconds,
        notes=(*store.notes, *recovery.notes),
    )
