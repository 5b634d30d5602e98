"""Ctrl-C at every line of a write that rotates: repeated as the log does, it is done once."""

from __future__ import annotations

import linecache
import sys
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import raftstore_segmented
from raftstore_segmented import SegmentedBackend
from raftstore_segmented.testing import SimulatedDisk

from raftstore.batch import WriteBatch
from raftstore.entry import Entry

pytestmark = pytest.mark.backend("segmented")

HERE = Path("/simulated")
PACKAGE = Path(raftstore_segmented.__file__).parent


def interrupted(step: int, backend: SegmentedBackend, batch: WriteBatch) -> bool:
    """Raise KeyboardInterrupt at the `step`-th line of the package; False if the write has fewer."""
    left = step

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        file = Path(frame.f_code.co_filename)
        if file.parent != PACKAGE or file.name == "testing.py":
            return None
        line = linecache.getline(str(file), frame.f_lineno).lstrip()
        if event == "line" and not line.startswith(("with ", "try:")):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        backend.write(batch)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return left <= 0


def test_a_write_that_rotates_and_is_interrupted_at_any_line_is_done_once() -> None:
    entries = [Entry(1, i, bytes([i]) * 1000) for i in range(1, 5)]
    for step in count(1):
        disk = SimulatedDisk()
        backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
        for entry in entries[:3]:
            backend.write(WriteBatch(entry.index, entries=[entry]))
        backend._space.prepare(lambda: True)
        backend._worker.wait_idle()
        last = WriteBatch(4, entries=entries[3:])
        raised = interrupted(step, backend, last)
        backend.write(last)
        assert backend._catalog.current.id == 2
        assert backend.read(1, 5, None) == entries
        backend._worker.wait_idle()
        backend.close()
        again = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
        assert again.recovery.number == 4
        assert again.read(1, 5, None) == entries
        again.close()
        if not raised:
            assert step > 50
            return
