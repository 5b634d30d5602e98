"""PySyncObj's dumps on a store: a dump never takes the place of a newer one."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pysyncobj", reason="the adapter needs PySyncObj")

from raftstore.adapters.pysyncobj.dumps import DurableSerializer

NEWER = gzip.compress(pickle.dumps("newer"))


class ArrivesMeanwhile:
    """A state whose dump is overtaken: the leader's snapshot is received while it is written."""

    def __init__(self, serializer: Any) -> None:
        self._serializer = serializer

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        assert not self._serializer.setTransmissionData((NEWER, True, False))
        assert self._serializer.setTransmissionData((b"", False, True))
        return str, ("older",)


@pytest.fixture
def serializer(tmp_path: Path) -> Any:
    return DurableSerializer(str(tmp_path / "dump"), 1000, False, None, None, None)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_dump_of_its_own_never_replaces_one_that_came_while_it_was_written(
    serializer: Any, is_first: bool
) -> None:
    """Else the dump on disk is older than the log's beginning, and what lies between is gone at a restart."""
    if not is_first:
        serializer.serialize("first", 1)
        serializer.checkSerializing()
    serializer.serialize(ArrivesMeanwhile(serializer), 2)
    status, _ = serializer.checkSerializing()
    assert serializer.deserialize() == "newer"
    assert status == 3, "FAILED: nothing may be dropped from the log on account of it"


def test_dumps_follow_one_another(serializer: Any) -> None:
    for number in range(3):
        serializer.serialize(f"state {number}", number)
        assert serializer.checkSerializing() == (2, number)
        assert serializer.deserialize() == f"state {number}"
