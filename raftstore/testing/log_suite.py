"""The judge of a `RaftLog`: every promise of its API as a named test, and a state machine against a model.

A whole test file for your backend, in one of its configurations:

    from raftstore.testing import LogSuite

    class TestLogOnMine(LogSuite):
        def open(self, path):
            return raftstore.open(StoreConfig(path=path, backend="mine", strategy=MemFirst()))

The same method serves processes of its own, through the config of the log that it returns.
"""

from __future__ import annotations

from raftstore.testing.log_appending import AppendingPromises
from raftstore.testing.log_durability import DurabilityPromises, LifePromises
from raftstore.testing.log_following import SplicePromises, TruncatePromises
from raftstore.testing.log_keeping import CommitPromises, HardStatePromises, MetaPromises, SavePromises
from raftstore.testing.log_killing import KillPromises, MachinePromises
from raftstore.testing.log_purging import PurgePromises, ResetPromises, SnapshotPromises
from raftstore.testing.log_reading import ReadingPromises


class LogSuite(
    ReadingPromises,
    AppendingPromises,
    SplicePromises,
    TruncatePromises,
    PurgePromises,
    SnapshotPromises,
    ResetPromises,
    HardStatePromises,
    CommitPromises,
    MetaPromises,
    SavePromises,
    DurabilityPromises,
    LifePromises,
    KillPromises,
    MachinePromises,
):
    """Override `open`."""
