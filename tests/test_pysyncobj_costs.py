"""What a journal on a store costs PySyncObj for a command, counted in function calls: they do not jitter."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from interrupting import nothing_collected

pytest.importorskip("pysyncobj", reason="the adapter needs PySyncObj")

from pysyncobj.journal import FileJournal  # type: ignore[import-untyped,unused-ignore]

from raftstore.adapters.pysyncobj import RaftStoreJournal
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log

pytestmark = pytest.mark.usefixtures("benchmarks_are_importable")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("part", "share"), [("lead", 1.5), ("follow", 0.85), ("follow_again", 0.85)])
@pytest.mark.parametrize("size", [64, 1024])
def test_a_command_takes_hardly_more_calls_than_on_the_journal_that_makes_nothing_durable(
    tmp_path: Path, part: str, share: float, size: int
) -> None:
    measure = import_module("benchmarks.pysyncobj_journal")
    cost, part_of_it = measure.cost, getattr(measure, part)
    theirs = FileJournal(str(tmp_path / "journal"))
    with nothing_collected():
        _, of_theirs = cost(part_of_it, theirs, lambda _: None, size, 1000, 1)
    theirs._destroy()
    with open_log(MemoryDisk()) as log:
        ours = RaftStoreJournal(log)
        ours.attach("n1:1")
        with nothing_collected():
            _, of_ours = cost(part_of_it, ours, ours.before_send, size, 1000, 1)
        assert log.durable_index == 1001
    assert of_ours <= share * of_theirs
