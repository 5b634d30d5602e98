"""Bugs on purpose in PySyncObj's journal on raftstore."""

from __future__ import annotations

import time
from typing import Final

from raftstore.adapters.pysyncobj import RaftStoreJournal, StoreSource, patch
from raftstore.demo.messages import Plant
from raftstore.demo.planted import forget_suffix

FLUSH_INTERVAL_S: Final = 30.0


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

    def __init__(self, source: StoreSource, *, adopt: bool = False) -> None:
        super().__init__(source, adopt=adopt)
        forget_suffix(self.log)
        self._stop = self._end = self.log.last_index + 1


JOURNALS: Final[dict[Plant, type[RaftStoreJournal]]] = {
    "late-flush": LateFlushJournal,
    "forgotten-suffix": ForgottenSuffixJournal,
}


def plant(bug: Plant) -> None:
    """From here on, the journals that `install` makes in this process have the bug."""
    setattr(patch, RaftStoreJournal.__name__, JOURNALS[bug])
