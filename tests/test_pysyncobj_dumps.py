"""PySyncObj's dumps on a store: a dump never takes the place of a newer one."""

# ruff: noqa: E402 (what the adapter needs is looked for first)
from __future__ import annotations

import fcntl
import gzip
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

pysyncobj: Any = pytest.importorskip("pysyncobj", reason="the adapter needs PySyncObj")

from raftstore.adapters.pysyncobj import install
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_ends_without_a_dump_does_not_seem_successful(tmp_path: Path) -> None:
    """Else the log is purged for a dump that does not exist. A signal's handler may raise SystemExit."""

    class Ends:
        def __reduce__(self) -> tuple[type[str], tuple[str]]:
            raise SystemExit(0)

    serializer = DurableSerializer(str(tmp_path / "dump"), 1000, True, None, None, None)
    serializer.serialize(Ends(), 7)
    deadline = time.monotonic() + 60
    while (found := serializer.checkSerializing())[0] == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == (3, 7)


@pytest.mark.parametrize("length", [0, 10, len(NEWER) - 1])
def test_a_dump_of_which_a_piece_is_missing_replaces_nothing_and_is_removed(
    serializer: Any, tmp_path: Path, length: int
) -> None:
    serializer.serialize("whole", 1)
    assert not serializer.setTransmissionData((NEWER[:length], True, False))
    assert not serializer.setTransmissionData((b"", False, True))
    assert serializer.deserialize() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["dump"], "what was refused takes room"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_dump_that_the_disk_has_no_room_for_ends_no_tick(serializer: Any, tmp_path: Path) -> None:
    """Its last bytes are written when PySyncObj closes the file, which it does unguarded."""
    serializer.serialize("whole", 1)
    (tmp_path / "dump.1.tmp").symlink_to("/dev/full")
    assert not serializer.setTransmissionData((NEWER, True, False))
    assert not serializer.setTransmissionData((b"", False, True))
    assert serializer.deserialize() == "whole"
    assert not serializer.setTransmissionData((b"late", False, False))
    assert [file.name for file in tmp_path.iterdir()] == ["dump"]
    assert not serializer.setTransmissionData((NEWER, True, False))
    assert serializer.setTransmissionData((b"", False, True))
    assert serializer.deserialize() == "newer"


def test_a_dump_that_can_neither_be_written_nor_removed_ends_no_tick(serializer: Any, tmp_path: Path) -> None:
    serializer.serialize("whole", 1)
    (tmp_path / "dump.1.tmp").mkdir()  # As on a file system that a failure made read-only.
    assert not serializer.setTransmissionData((NEWER, True, True))
    assert serializer.deserialize() == "whole"


def serializer_of_a_new_node() -> Any:
    node = pysyncobj.SyncObj(None, ["127.0.0.1:1"], pysyncobj.SyncObjConf(autoTick=False))
    node.destroy()
    return vars(node)["_SyncObj__serializer"]


def test_a_patched_pysyncobj_makes_the_same_dumps_until_it_is_restored() -> None:
    uninstall = install()
    try:
        assert isinstance(serializer_of_a_new_node(), DurableSerializer)
    finally:
        uninstall()
    assert type(serializer_of_a_new_node()) is pysyncobj.serializer.Serializer


def test_dumps_follow_one_another(serializer: Any) -> None:
    for number in range(3):
        serializer.serialize(f"state {number}", number)
        assert serializer.checkSerializing() == (2, number)
        assert serializer.deserialize() == f"state {number}"


@pytest.mark.parametrize("said", [0, 2], ids=["nothing runs", "success"])
def test_a_dump_that_could_not_take_its_place_failed_whatever_the_checker_says(
    tmp_path: Path, said: int
) -> None:
    """Else the log is purged for a dump that is not there."""
    nothing = lambda *_: None  # noqa: E731
    serializer = DurableSerializer(str(tmp_path / "dump"), 1000, False, nothing, nothing, lambda: said)
    serializer.serialize((None, "state"), 7)
    assert serializer.checkSerializing() == (3, 7)
    assert serializer.checkSerializing() == (said, 7), "told once"


@pytest.mark.parametrize("whose", ["its own", "the leader's"])
def test_a_dump_takes_its_place_under_the_directorys_lock(
    serializer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Else a child's could overtake the leader's between the look at what is there and the rename."""
    replace, seen = Path.replace, list[str]()

    def look(source: Path, target: Any) -> Path:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        seen.append(source.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", look)
    if whose == "its own":
        serializer.serialize("state", 1)
    else:
        serializer.setTransmissionData((NEWER, True, False))
        assert serializer.setTransmissionData((b"", False, True))
    assert len(seen) == 1
    assert serializer.deserialize() in ("state", "newer")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_followed", [True, False])
def test_a_child_that_outlives_its_node_leaves_the_next_ones_dump_alone(
    serializer: Any, tmp_path: Path, is_followed: bool
) -> None:
    """A node is killed while its child writes; the node that is started next writes a dump of its own."""
    serializer.serialize("first", 1)
    go_on, begun = os.pipe(), os.pipe()

    class Waits:
        def __reduce__(self) -> tuple[type[str], tuple[str]]:
            os.write(begun[1], b"x")
            os.read(go_on[0], 1)
            return str, ("orphaned",)

    node = os.fork()
    if node == 0:
        try:
            forking = DurableSerializer(str(tmp_path / "dump"), 1000, True, None, None, None)
            forking.serialize(Waits(), 2)
        finally:
            os._exit(0)
    os.waitpid(node, 0)
    os.close(begun[1])
    assert os.read(begun[0], 1) == b"x"
    if is_followed:
        serializer.checkSerializing()
        serializer.serialize("second", 3)
    os.write(go_on[1], b"x")
    assert os.read(begun[0], 1) == b"", "the orphan has ended"
    for descriptor in (*go_on, begun[0]):
        os.close(descriptor)
    assert serializer.deserialize() == ("second" if is_followed else "first")
