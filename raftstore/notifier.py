"""Calls the user's callbacks: one at a time, in order, in a thread of their own, with no lock held."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from weakref import ReferenceType, ref

from raftstore.pipeline import Pipeline

logger = logging.getLogger("raftstore")

DurableCallback = Callable[[int], object]


class Subscribers:
    """Who wants to know when the durable index changes. Belongs to the handle of a log.

    The notifier knows it only weakly: a callback may refer to an object that holds the log, which must not
    keep the log alive.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # Guards the replacement of the list, which itself never changes.
        self.callbacks: list[DurableCallback] = []

    def add(self, callback: DurableCallback) -> Callable[[], None]:
        """Returns what ends it."""
        with self._lock:
            self.callbacks = [*self.callbacks, callback]
        return lambda: self._remove(callback)

    def _remove(self, callback: DurableCallback) -> None:
        with self._lock:
            left = list(self.callbacks)
            if callback in left:
                left.remove(callback)
            self.callbacks = left


class Notifier:
    """The thread starts with the first callback. Closing delivers what is queued, then ends it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = Lock()  # Guards the start of the thread.
        self._thread: Thread | None = None
        self._closed = False
        self._subscribers: ReferenceType[Subscribers] | None = None
        self._told = self._durability()
        pipeline.notify = self.durability_changed

    def attach(self, subscribers: Subscribers) -> None:
        """Tell `subscribers`, as long as it lives."""
        self._subscribers = ref(subscribers)

    def call_later(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the notifier's thread; in this one if the log is closed."""
        if self._closed:
            self._call(callback)
        else:
            self.start()
            self._queue.put(callback)

    def durability_changed(self) -> None:
        if self._thread is not None:
            self._queue.put(self._tell)

    def _tell(self) -> None:
        durability = self._durability()
        subscribers = None if self._subscribers is None else self._subscribers()
        if durability != self._told and subscribers is not None:
            self._told = durability
            for callback in subscribers.callbacks:
                self._call(partial(callback, durability[0]))

    def _durability(self) -> tuple[int, int]:
        """The durable index, and how often it was lowered: after that, the same index means other entries."""
        with self._pipeline.lock:
            return self._pipeline.ledger.durable_index, self._pipeline.ledger.lowered

    def start(self) -> None:
        """Start the thread, unless it runs."""
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
        except BaseException:
            logger.exception("a callback of raftstore failed")

    def close(self) -> None:
        self._closed = True
        thread = self._thread
        if thread is not None:
            self._queue.put(None)
            if thread is not current_thread():
                thread.join()
