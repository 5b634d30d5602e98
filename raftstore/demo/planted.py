"""Bugs on purpose. A demo that cannot fail shows nothing; with one of these it must report a loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from raftstore.adapters.pysyncobj import RaftStoreJournal, StoreSource
from raftstore.demo.messages import Plant
from raftstore.entry import LogId

FLUSH_INTERVAL_S: Final = 30.0
FORGOTTEN: Final = 1000
"""Entries: more than all clients together have in flight."""


class LateFlushJournal(RaftStoreJournal):
    """Acknowledges at once and writes every half minute: what was added since dies with the process.

    The commit index is not kept, or the log would notice and refuse to replace what was committed.
    """

    _flushed_at = 0.0

    def flush(self) -> None:
        if time.monotonic() >= self._flushed_at + FLUSH_INTERVAL_S:
            super().flush()
            self._flushed_at = time.monotonic()

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803  # PySyncObj's names
        self.flush()


class ForgottenSuffixJournal(RaftStoreJournal):
    """Opens without the last entries of the log, as a recovery would that stops too early."""

    def __init__(self, source: StoreSource) -> None:
        super().__init__(source)
        log = self.log
        kept = log.entries(log.first_index, max(log.first_index, log.last_index + 1 - FORGOTTEN))
        log.save(kept, anchor=LogId(log.anchor.term, log.anchor.index))
        self._stop = log.last_index + 1


JOURNALS: Final[dict[Plant, Callable[[StoreSource], RaftStoreJournal]]] = {
    "late-flush": LateFlushJournal,
    "forgotten-suffix": ForgottenSuffixJournal,
}
