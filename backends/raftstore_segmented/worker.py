"""One background thread for what need not sit on the path of a write."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)


class Worker:
    """Runs jobs in their order, one at a time, in a thread that lives from the first job to `stop`.

    A job that raises is logged and forgotten: jobs are upkeep that the next opening can do without.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        """None is the end. A job that is in it will be seen: there is nobody to be woken after that."""
        self._stopping = False
        self._starting = threading.Lock()
        """Guards the field below."""
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """True once `stop` was called: long jobs give up."""
        return self._stopping

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` after those before it; not at all after `stop`. An interrupt may repeat it."""
        if self._stopping:
            return
        if self._thread is None:
            self._start()
        self._jobs.put(job)

    def wait_idle(self) -> None:
        """Return when every job submitted before is done, and what these submitted."""
        thread, idle = self._thread, threading.Event()

        def look() -> None:
            if self._jobs.empty():
                idle.set()
            else:
                self._jobs.put(look)

        self._jobs.put(look)
        while thread is not None and thread.is_alive() and not idle.wait(0.05):
            pass

    def stop(self) -> None:
        """Finish the jobs, then end the thread. Twice is fine.

        An interrupt goes on when the thread has ended: the store's files may be another's then.
        """
        self.signal_stop()
        thread, interrupt = self._thread, None
        while thread is not None and thread is not threading.current_thread() and thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # noqa: BLE001
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def signal_stop(self) -> None:
        """As `stop`, without waiting; takes no lock, so that a finalizer may call it anywhere."""
        self._stopping = True
        self._jobs.put(None)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001  (see the class)
                _log.warning("%s: a background job failed", self._name, exc_info=True)
            del job  # while waiting, nothing of the store is kept alive
