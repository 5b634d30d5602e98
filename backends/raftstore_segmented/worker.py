"""One background thread for what need not sit on the path of a write."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Worker:
    """Runs jobs in their order, one at a time, in a thread that lives from the first job to `stop`.

    A job that raises is logged and forgotten: jobs are upkeep that the next opening can do without.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        """Guards the fields below. Never held while a job runs."""
        self._jobs: deque[Callable[[], None]] = deque()
        self._busy = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """True once `stop` was called: long jobs give up."""
        return self._stopping

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` after those before it; not at all after `stop`."""
        with self._changed:
            if self._stopping:
                return
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_idle(self) -> None:
        """Return when every job submitted before is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs and not self._busy)

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
        """As `stop`, without waiting; takes no lock that a running job could hold."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001  (see the class)
                _log.warning("%s: a background job failed", self._name, exc_info=True)
            del job  # while waiting, nothing of the store is kept alive
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            if not self._jobs:
                return None
            self._busy = True
            return self._jobs.popleft()
