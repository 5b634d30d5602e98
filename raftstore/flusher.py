"""The thread behind one log: flushes that nobody else leads, and what is to be done when it is idle.

It holds no reference to the `RaftLog`. When that is garbage, it is told so, closes the store and ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread, current_thread, get_ident
from typing import Final

from raftstore.pipeline import COMMIT_DELAY_S, IDLE_S, Pipeline
from raftstore.store import Store

logger = logging.getLogger("raftstore")

WITNESS_S: Final = 1.0
"""How often a busy log notes on disk which write is durable."""
_NEVER: Final = float("inf")


class Flusher:
    """Wakes when a flush is due, when a commit index has waited long enough, and when the log may be idle."""

    def __init__(self, pipeline: Pipeline, store: Store, *, when_abandoned: Callable[[], None]) -> None:
        self._pipeline = pipeline
        self._store = store
        self._when_abandoned = when_abandoned
        # What is in it wakes the thread, which then looks at everything: more than one is not needed. A
        # SimpleQueue, because its `put` may run inside a garbage collection in any thread.
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._looks_again = 0.0
        """When the thread wakes if nobody calls. Only the thread itself changes it."""
        self._witnessed = (0, 0.0)
        self._maintained = 0
        self._reclaimable = 0
        self._stopped = False
        self._abandoned = False
        self._thread = Thread(target=self._run, name="raftstore-flusher", daemon=True)
        self._ident = 0
        pipeline.wish = self.wish
        pipeline.is_unasked = self._calls.empty

    def start(self) -> None:
        self._thread.start()

    def wish(self, delay_s: float) -> None:
        """Look again in `delay_s` seconds at the latest."""
        at = time.monotonic() + delay_s
        if at < self._looks_again:
            if get_ident() == self._ident:
                self._looks_again = at
            elif self._calls.empty():
                self._calls.put(True)

    def abandon(self) -> None:
        """The log is garbage: flush, close the store, end. Takes no lock and waits for nothing."""
        self._abandoned = True
        self._calls.put(True)

    def stop(self) -> None:
        """End the thread and wait for it, unless this is it."""
        self._stopped = True
        self._calls.put(True)
        if self._thread is not current_thread():
            self._thread.join()

    def _run(self) -> None:
        self._ident = get_ident()
        while not self._stopped:
            try:
                self._sleep()
                if self._abandoned:
                    self._when_abandoned()
                    return
                self._look()
            except Exception as error:
                logger.exception("the flusher of raftstore failed")
                self._pipeline.fail(error)
                self._looks_again = time.monotonic() + WITNESS_S

    def _sleep(self) -> None:
        delay = self._looks_again - time.monotonic()
        try:
            self._calls.get(timeout=None if delay == _NEVER else max(delay, 0))
            while not self._calls.empty():
                self._calls.get_nowait()
        except Empty:
            pass

    def _look(self) -> None:
        self._looks_again = _NEVER  # From here on a wish is heard.
        ledger = self._pipeline.ledger
        if ledger.end is not None:
            return
        self._pipeline.lead()
        since_flush = time.monotonic() - ledger.last_flush_end
        self._persist_commit()
        if since_flush >= IDLE_S:
            self._maintain()
            self._witness()
        else:
            self.wish(IDLE_S)
            if time.monotonic() - self._witnessed[1] >= WITNESS_S:
                self._witness()
        self._pipeline.schedule()

    def _persist_commit(self) -> None:
        ledger = self._pipeline.ledger
        if ledger.has_stale_commit and not ledger.is_full:
            if time.monotonic() - ledger.commit_raised_at < COMMIT_DELAY_S:
                self.wish(COMMIT_DELAY_S / 2)
            elif not self._pipeline.lead(self._flush):
                self.wish(IDLE_S)  # Whoever has the lead may have nothing to flush.

    def _flush(self) -> None:
        self._pipeline.flush()

    def _maintain(self) -> None:
        """Upkeep once after each busy time, and again while that frees space."""
        number = self._pipeline.ledger.written_number
        if number == self._maintained and not self._reclaimable:
            return
        if not self._pipeline.lead(self._pipeline.backend.maintain):
            self.wish(IDLE_S)
            return
        left = self._pipeline.backend.stats().bytes_reclaimable
        frees = number != self._maintained or left < self._reclaimable
        self._maintained, self._reclaimable = number, left if frees else 0
        if self._reclaimable:
            self.wish(IDLE_S)

    def _witness(self) -> None:
        number = self._pipeline.ledger.written_number
        if number != self._witnessed[0]:
            self._store.witness(number)
            self._witnessed = (number, time.monotonic())
