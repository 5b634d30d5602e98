"""What all parts of the suite share: how a log is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftstore.log import RaftLog


class LogPromises:
    """The ground of every part of `raftstore.testing.LogSuite`."""

    def open(self, path: Path) -> RaftLog:
        """Open the log under test, whose store is `path`; it is made if it is not there."""
        raise NotImplementedError("override open(path) in your subclass of LogSuite")

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where the store of this test is. Nothing is there yet."""
        return tmp_path / "store"

    @pytest.fixture
    def log(self, path: Path) -> Iterator[RaftLog]:
        """A fresh log, closed after the test."""
        with self.open(path) as log:
            yield log
