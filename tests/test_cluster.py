"""The soak of real clusters: its schedule, its clients, its judgement; and that it fails where it must."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from raftstore import config
from raftstore.demo.messages import Answer, Line
from raftstore.demo.process import NodeProcess
from raftstore.demo.verdict import compare
from raftstore.testing.cluster.clients import Clients, outcome_of
from raftstore.testing.cluster.nemesis import Nemesis
from raftstore.testing.cluster.report import Report
from raftstore.testing.cluster.schedule import Cut, Round, Strike, plan
from raftstore.testing.cluster.soak import Settings, Soak
from raftstore.testing.linearizability import Verdict, check
from raftstore.testing.tools import PATIENCE_S, background, outcome

# --- the schedule --------------------------------------------------------------------------------------


def test_a_schedule_follows_from_its_seed() -> None:
    assert plan(7, 200, partitions=True) == plan(7, 200, partitions=True)
    assert plan(7, 200, partitions=True) != plan(8, 200, partitions=True)


@pytest.mark.parametrize("partitions", [False, True])
def test_a_schedule_has_the_kills_it_was_asked_for(partitions: bool) -> None:
    rounds = plan(3, 200, partitions=partitions)
    assert 200 <= sum(each.kills for each in rounds) < 204
    assert any(isinstance(each, Cut) for each in rounds) == partitions


def test_a_long_schedule_kills_and_cuts_in_every_way() -> None:
    rounds = plan(1, 200, partitions=True)
    victims = Counter(each.victims for each in rounds if isinstance(each, Strike))
    assert set(victims) == {"leader", "follower", "leader and follower", "two followers", "all"}
    assert min(victims.values()) >= 3
    cuts = [each for each in rounds if isinstance(each, Cut)]
    assert {(each.victim, each.direction) for each in cuts} == set(
        itertools.product(("leader", "follower"), ("both ways", "nothing in", "nothing out"))
    )
    assert any(each.kill_other for each in cuts)
    assert any(each.again_s is not None for each in rounds if isinstance(each, Strike))


# --- the clients ---------------------------------------------------------------------------------------


class OneNode:
    """A store without a network, for clients; `stale_every` so many gets it answers with an old value."""

    pid = 1

    def __init__(self, stale_every: int = 0) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, list[str | None]] = {}
        self._stale_every = stale_every
        self._gets = itertools.count(1)
        self.calls = 0

    def call(
        self, kind: str, key: str, value: str | None = None, expected: str | None = None, *, timeout_s: float
    ) -> Answer:
        time.sleep(0.0005)
        self.calls += 1
        with self._lock:
            values = self._values.setdefault(key, [None])
            if kind == "get":
                is_stale = self._stale_every and next(self._gets) % self._stale_every == 0
                return Answer(0, "ok", values[-3:][0] if is_stale else values[-1])
            if kind == "cas" and values[-1] != expected:
                return Answer(0, "ok", is_set=False)
            values.append(value)
            return Answer(0, "unknown" if len(values) % 4 == 0 else "ok")

    def forget(self) -> None:
        self._values.clear()


def recorded(node: OneNode) -> Clients:
    clients = Clients([cast("NodeProcess", node)], 4, seed=1)
    end = time.monotonic() + PATIENCE_S
    with clients.writing():
        while node.calls < 300 and time.monotonic() < end:
            time.sleep(0.01)
    clients.read_all()
    return clients


def test_clients_of_a_sound_store_record_a_linearizable_history() -> None:
    history = recorded(OneNode()).recorder.history().operations
    assert {(each.kind, each.outcome) for each in history} >= {
        ("read", "ok"), ("write", "ok"), ("write", "unknown"), ("cas", "ok"), ("cas", "fail")
    }  # fmt: skip
    assert check(history).is_linearizable


def test_clients_of_a_store_with_stale_reads_record_a_violation() -> None:
    assert check(recorded(OneNode(stale_every=10)).recorder.history().operations).violations


def test_clients_of_a_store_that_forgets_everything_record_a_violation() -> None:
    node = OneNode()
    clients = recorded(node)
    node.forget()
    clients.read_all()
    assert check(clients.recorder.history().operations).violations


def test_a_register_that_no_node_can_read_in_the_end_is_told() -> None:
    class Silent(OneNode):
        def call(self, kind: str, key: str, *values: Any, **options: Any) -> Answer:
            answer = super().call(kind, key, *values, **options)
            return Answer(0, "unknown") if key == "r0.1" else answer

    silent, sound = Silent(), OneNode()
    clients = recorded(silent)
    assert clients.read_all() == ["r0.1"]
    clients._nodes = [cast("NodeProcess", silent), cast("NodeProcess", sound)]
    assert clients.read_all() == []


def test_no_value_is_written_twice() -> None:
    history = recorded(OneNode()).recorder.history().operations
    written = Counter(each.value for each in history if each.kind != "read")
    assert set(written.values()) == {1}


def test_a_client_that_ends_by_itself_ends_the_run() -> None:
    class Broken(OneNode):
        def call(self, *_: Any, **__: Any) -> Answer:
            self.calls = 300
            raise ValueError("no such node")

    with pytest.raises(ValueError, match="no such node"):
        recorded(Broken())


def test_only_a_cas_that_found_another_value_has_failed() -> None:
    refused = Answer(0, "ok", is_set=False)
    assert outcome_of("cas", refused) == "fail"
    assert outcome_of("cas", Answer(0, "failed")) == "unknown"
    assert outcome_of("cas", Answer(0, "ok")) == "ok"
    assert outcome_of("write", Answer(0, "failed")) == "fail"
    assert outcome_of("write", Answer(0, "unknown")) == "unknown"


# --- the report ----------------------------------------------------------------------------------------

ALL_THERE = compare({1: "a"}, {1}, {"n1": [Line(1, "a")], "n2": [Line(1, "a")]})
GOOD = Report(
    library="asyncio",
    store="segmented:///node/raft",
    journal="raftstore",
    plant=None,
    power_cut=False,
    partitions=False,
    seed=1,
    kills=200,
    cuts=0,
    seconds=1.0,
    lines=ALL_THERE,
    history=Verdict(keys=1, operations=1, unknown=0),
    problem=None,
)


def test_a_run_is_good_if_nothing_is_lost_or_violated() -> None:
    assert GOOD.is_good
    assert GOOD.as_text().endswith("\ngood")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"lines": compare({1: "a"}, {1}, {"n1": [Line(1, "a")], "n2": []})}, "1, 1 lost, n2 differs"),
        ({"lines": compare({1: "a"}, {1}, {"n1": [Line(1, "b")]})}, "1 altered"),
        ({"lines": compare({1: "a"}, {1}, {"n1": [Line(1, "a")]}, ["n2"])}, "n2 did not catch up"),
        ({"lines": compare({}, set(), {})}, "0, 0 lost"),
        ({"lines": None}, "nobody can tell"),
        ({"problem": "n1 ended by itself"}, "ended early: n1 ended by itself"),
        ({"history": Verdict(keys=0, operations=0, unknown=0)}, "0 operations"),
        ({"history": Verdict(keys=1, operations=1, unknown=0, undecided=["k"])}, "undecided"),
        ({"history": Verdict(keys=1, operations=1, unknown=0, violations={"k": []})}, "NOT linearizable"),
    ],
)
def test_a_run_with_anything_wrong_or_untold_is_not_good(wrong: dict[str, Any], text: str) -> None:
    report = msgspec.structs.replace(GOOD, **wrong)
    assert not report.is_good
    assert text in report.as_text()
    assert report.as_text().endswith("NOT GOOD")


# --- whole runs ----------------------------------------------------------------------------------------


def soak(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "raftstore.testing.cluster",
        "--seed",
        "2",
        "--json",
        str(report),
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done, msgspec.json.decode(report.read_bytes()) if report.exists() else {}


def test_a_cluster_that_is_killed_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    done, report = soak(tmp_path, "--library", "asyncio", "--kills", "2", "--history", str(history))
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["kills"] >= 2
    assert report["lines"]["acknowledged"] > 0
    assert report["history"]["operations"] == len(history.read_bytes().splitlines())
    assert "seed 2" in done.stdout


def test_a_journal_that_loses_what_it_never_synced_is_found_out(tmp_path: Path) -> None:
    pytest.importorskip("pysyncobj")
    done, report = soak(tmp_path, "--library", "pysyncobj", "--kills", "4", "--journal", "pysyncobj")
    assert done.returncode == 1, done.stdout + done.stderr
    is_lost = report["lines"] is None or report["lines"]["lost"]  # None: so much that it could not go on
    assert report["history"]["violations"] or is_lost, done.stdout
    assert "NOT GOOD" in done.stdout


def test_an_interrupt_while_the_clients_are_being_started_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that had begun went on for ever, and whoever had started them waited for them."""
    clients, submit = Clients([cast("NodeProcess", OneNode())], 4, seed=1), ThreadPoolExecutor.submit
    started: list[Future[Any]] = []

    def interrupted(*arguments: Any) -> Future[Any]:
        if started:
            raise KeyboardInterrupt
        started.append(submit(*arguments))
        return started[0]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    starting = background(lambda: clients.writing().__enter__())
    try:
        with pytest.raises(KeyboardInterrupt):
            outcome(starting)
    finally:
        clients._ended.set()
    assert started[0].done()


def test_before_every_strike_a_line_was_acknowledged_however_slow_the_cluster_is() -> None:
    """A soak that killed everybody before anything was acknowledged showed nothing."""
    clients = Clients([cast("NodeProcess", OneNode())], 4, seed=1)
    acknowledged = [0]

    class Idle:
        def play(self, each: Round) -> None:
            acknowledged.append(clients.ledger.acknowledged_count)

    settings = Settings(library="asyncio", store=config.load("segmented:///node/raft"), kills=40)
    Soak(settings, print)._fight(clients, cast("Nemesis", Idle()))
    assert len(acknowledged) > 20
    assert all(earlier < later for earlier, later in itertools.pairwise(acknowledged))


def test_what_cannot_run_exits_with_2(tmp_path: Path) -> None:
    done, _ = soak(tmp_path, "--library", "asyncio", "--journal", "pysyncobj")
    assert (done.returncode, "could not run" in done.stderr) == (2, True)
