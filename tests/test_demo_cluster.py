"""The clusters that the demo and other tools drive: what an operation answers, in every library."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pysyncobj")

from patroni_tools import needs_patroni

from raftstore.demo import libraries
from raftstore.demo.cluster import Cluster
from raftstore.demo.disk import Directory, DiskError
from raftstore.demo.messages import Answer
from raftstore.demo.process import Kind, NodeProcess
from raftstore.errors import BackendMissingError, ConfigError

PATIENCE_S = 120.0
NAMES = ["pysyncobj", pytest.param("patroni", marks=needs_patroni), "asyncio"]

pytestmark = pytest.mark.backend("segmented")


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes that compact their logs every few entries."""
    with Cluster(
        tmp_path, 3, lambda path: f"segmented://{path}", library=request.param, compact_every=20
    ) as made:
        made.start()
        yield made


def ask(
    node: NodeProcess, kind: Kind, key: str, value: str | None = None, expected: str | None = None
) -> Answer:
    """What it answers when it knows: without a leader it may not, and is asked again.

    The value of a "cas" must be a new one: where it is found, it was set, by whichever of the attempts.
    """
    is_repeated = False
    while (answer := node.call(kind, key, value, expected, timeout_s=PATIENCE_S)).outcome != "ok":
        is_repeated = True
    if kind == "cas" and is_repeated and not answer.is_set:
        return Answer(0, "ok", is_set=ask(node, "get", key).value == value)
    return answer


@pytest.mark.parametrize("cluster", NAMES, indirect=True)
def test_what_one_node_has_done_every_node_knows_and_a_kill_of_all_does_not_change_it(
    cluster: Cluster,
) -> None:
    one, two, three = cluster.nodes
    assert ask(one, "get", "x").value is None
    ask(one, "put", "x", "1")
    assert [ask(node, "get", "x").value for node in cluster.nodes] == ["1"] * 3
    assert ask(two, "cas", "x", "2", "1").is_set
    assert not ask(three, "cas", "x", "3", "1").is_set
    assert not ask(one, "cas", "x", "3", None).is_set
    assert ask(one, "cas", "new", "4", None).is_set
    for number in range(50):
        ask(one, "put", "counter", str(number))
    cluster.kill_all()
    assert one.call("put", "x", "9", timeout_s=PATIENCE_S).outcome == "failed"
    cluster.start()
    assert len(cluster.settle()) == 3
    for node in cluster.nodes:
        assert [ask(node, "get", key).value for key in ("x", "new", "counter")] == ["2", "4", "49"]
        assert node.opened is not None
        assert node.opened.entries < 56  # The log was compacted.


@pytest.mark.parametrize("cluster", NAMES, indirect=True)
def test_without_a_majority_or_an_answer_the_outcome_is_not_ok(cluster: Cluster) -> None:
    one, *others = cluster.nodes
    for node in others:
        cluster.kill(node)
    answers: list[Answer] = []
    one.submit("put", "x", "1", timeout_s=PATIENCE_S, on_answer=answers.append)
    assert one.call("get", "x", timeout_s=0.5).outcome != "ok"
    cluster.kill(one)
    assert [answer.outcome for answer in answers] in (["unknown"], ["failed"])


@pytest.mark.parametrize("number", [1, 3])
def test_an_interrupt_while_a_node_is_being_started_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A process that nobody had noted yet was not ended, and went on after its directory was removed."""
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self.pid)
            if len(started) == number:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    cluster = Cluster(tmp_path, 3, lambda path: f"segmented://{path}", library="asyncio")
    with pytest.raises(KeyboardInterrupt), cluster:
        cluster.start()
    assert len(started) >= number
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_a_node_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1, lambda path: f"segmented://{path}", prefix=lambda name: ["/no/such"])
    with pytest.raises(FileNotFoundError, match="/no/such"), cluster:
        cluster.start()


def test_a_disk_that_cannot_be_given_back_does_not_keep_the_others(tmp_path: Path) -> None:
    class Busy(Directory):
        closed = 0

        def close(self) -> None:
            Busy.closed += 1
            raise DiskError("the disk is busy")

    cluster = Cluster(tmp_path, 3, lambda path: f"segmented://{path}")
    with pytest.raises(DiskError, match="busy"), cluster:
        cluster._disks.update({name: Busy(tmp_path / f"disk-{name}") for name in cluster._disks})
    assert Busy.closed == 3


def test_what_a_library_cannot_do_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="runs on raftstore only"):
        libraries.check("asyncio", journal="pysyncobj")
    with pytest.raises(ConfigError, match="these bugs can be planted: forgotten-suffix"):
        libraries.check("asyncio", plant="late-flush")
    with pytest.raises(ConfigError, match="not into PySyncObj's own"):
        libraries.check("pysyncobj", journal="pysyncobj", plant="late-flush")
    monkeypatch.setitem(
        libraries.LIBRARIES, "patroni", libraries.LibraryFacts("Patroni", "no_such", "patroni", "", (), True)
    )
    with pytest.raises(BackendMissingError, match=r"pip install 'raftstore\[patroni\]'"):
        libraries.check("patroni")
