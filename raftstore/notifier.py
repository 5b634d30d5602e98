"""Calls the user's callbacks: one at a time, in order, in a thread of their own, with no lock held."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread, current_thread

from raftstore.pipeline import Pipeline

logger = logging.getLogger("raftstore")

DurableCallback = Callable[[int], object]


class Notifier:
    """The thread starts with the first callback. Closing delivers what is queued, then ends it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = Lock()  # Guards the two below.
        self._subscribers: list[DurableCallback] = []
        self._thread: Thread | None = None
        self._closed = False
        self._told = pipeline.ledger.durable_index
        pipeline.notify = self.durability_changed

    def subscribe(self, callback: DurableCallback) -> Callable[[], None]:
        """Call `callback(durable_index)` whenever that has changed; returns what ends it."""
        self._start()
        with self._lock:
            self._subscribers = [*self._subscribers, callback]
        return lambda: self._unsubscribe(callback)

    def _unsubscribe(self, callback: DurableCallback) -> None:
        with self._lock:
            left = list(self._subscribers)
            if callback in left:
                left.remove(callback)
            self._subscribers = left

    def call_later(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the notifier's thread; in this one if the log is closed."""
        if self._closed:
            self._call(callback)
        else:
            self._start()
            self._queue.put(callback)

    def durability_changed(self) -> None:
        if self._subscribers:
            self._queue.put(self._tell)

    def _tell(self) -> None:
        index = self._pipeline.ledger.durable_index
        if index != self._told:
            self._told = index
            for callback in self._subscribers:
                self._call(lambda callback=callback: callback(index))  # type: ignore[misc]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="raftstore-notifier", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (callback := self._queue.get()) is not None:
            self._pipeline.in_callback(callback)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:
            logger.exception("a callback of raftstore failed")

    def close(self) -> None:
        self._closed = True
        thread = self._thread
        if thread is not None:
            self._queue.put(None)
            if thread is not current_thread():
                thread.join()
