"""The judge of a `DiskBackend`: a pytest class to inherit from.

from raftstore.testing import BackendSuite

class TestMyBackend(BackendSuite):
    def make(self, path):
        return MyBackend(path, segment_bytes=64 * 1024)
"""

from __future__ import annotations

from raftstore.testing.backend_crashing import CrashTests, MachineTests
from raftstore.testing.backend_opening import ExaminingTests, OpeningTests, UpkeepTests
from raftstore.testing.backend_reading import ConcurrentReadingTests, ReadingTests
from raftstore.testing.backend_writing import EntryTests, OrderTests, RepeatTests, StateTests


class BackendSuite(
    EntryTests,
    StateTests,
    OrderTests,
    RepeatTests,
    ReadingTests,
    ConcurrentReadingTests,
    OpeningTests,
    ExaminingTests,
    UpkeepTests,
    CrashTests,
    MachineTests,
):
    """Every promise of the backend contract that can be seen from outside, each under its name.

    Override `make(path)`. What a power cut leaves of the files cannot be seen from here: only a kill can.
    """
