"""A crowd of threads, and the judge of what it leaves."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.crowd import UNKNOWN, Crowd, name_of
from raftstore.testing.crash.crowd_judge import CrowdHistory
from raftstore.testing.crash.crowds import run
from raftstore.testing.crash.events import Event, Kind
from raftstore.testing.crash.lab import Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import Observation, Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.powercut import Explorer

VOTE, A1, A2, B1 = name_of(0, 1), name_of(2, 1), name_of(2, 2), name_of(3, 1)
BEGIN, DONE, SAFE = Kind.STARTED, Kind.RETURNED, Kind.RECEIPT


def verdict(events: list[tuple[Kind, int]], proposed: list[int], votes: int = 0, **parts: Any) -> Verdict:
    history = CrowdHistory(
        Plan(backend="x", seed=1, mix="crowd", strategy=parts.pop("strategy", "DiskFirst"))
    )
    for kind, step in events:
        history.feed(Event(kind, step))
    found = Observation(digest=b"x", crowd=Crowd(proposed, votes, 0), **parts)
    return history.judge(found, history.promise, history.promise)[0]


BOTH = [(BEGIN, A1), (BEGIN, B1), (DONE, A1), (DONE, B1)]
ONE_BY_ONE = [(BEGIN, A1), (DONE, A1), (BEGIN, B1), (DONE, B1)]


@pytest.mark.parametrize("proposed", [[], [A1], [B1], [A1, B1], [B1, A1]])
def test_steps_that_overlapped_may_be_there_in_any_order_or_not(proposed: list[int]) -> None:
    assert verdict(BOTH, proposed) is Verdict.OK


@pytest.mark.parametrize("proposed", [[B1], [B1, A1]])
def test_a_step_that_had_returned_comes_before_one_that_began_later(proposed: list[int]) -> None:
    assert verdict(ONE_BY_ONE, proposed) is Verdict.MIXED
    assert verdict(ONE_BY_ONE, [A1, B1]) is Verdict.OK
    assert verdict(ONE_BY_ONE, [A1]) is Verdict.OK


def test_a_step_that_was_acknowledged_as_durable_is_not_missing() -> None:
    assert verdict([*BOTH, (SAFE, B1)], [A1]) is Verdict.LOST
    assert verdict([*BOTH, (SAFE, B1)], [B1]) is Verdict.OK


def test_a_vote_that_returned_is_there_with_all_that_returned_before_it_began() -> None:
    voted = [(BEGIN, A1), (DONE, A1), (BEGIN, VOTE), (DONE, VOTE)]
    assert verdict(voted, [A1]) is Verdict.LOST
    assert verdict(voted, [], votes=1) is Verdict.MIXED
    assert verdict(voted, [A1], votes=1) is Verdict.OK


@pytest.mark.parametrize("proposed", [[A2], [A2, A1], [A1, A1], [UNKNOWN], [A1, name_of(4, 1)]])
def test_steps_out_of_a_threads_order_and_steps_that_never_began_are_mixed(proposed: list[int]) -> None:
    events = [(BEGIN, A1), (DONE, A1), (BEGIN, A2), (DONE, A2)]
    assert verdict(events, proposed) is Verdict.MIXED


def test_what_mem_first_acknowledged_may_be_missing_but_not_denied() -> None:
    assert verdict(BOTH, [A1], strategy="MemFirst", missing="unknown") is Verdict.OK
    assert verdict(BOTH, [A1], strategy="MemFirst", missing="no") is Verdict.LOST


@pytest.mark.parametrize(
    "backend", [pytest.param(b, marks=pytest.mark.backend(b)) for b in ("segmented", "lmdb")]
)
def test_a_crowd_that_is_killed_or_loses_power_loses_nothing(bench: Bench, backend: str) -> None:
    bench.is_enough = lambda tally: tally.generated > 300
    try:
        run(Round(bench, Explorer(bench.lab, bench.checker, bench.tally), backend, 5, 0))
    finally:
        bench.is_enough = lambda tally: False
    assert not bench.tally.failures
    assert bench.tally.unique > 10


@pytest.mark.backend("segmented")
def test_a_crowd_that_dies_of_something_else_before_it_is_killed_has_crashed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.lab.run

    def crashing(plan: Plan, arena: Path, **parts: Any) -> Run:
        return msgspec.structs.replace(real(plan, arena, trace=parts.get("trace")), status=-signal.SIGSEGV)

    monkeypatch.setattr(bench.lab, "run", crashing)
    monkeypatch.setattr("raftstore.testing.crash.crowds.KILLS_A_ROUND", 1)
    monkeypatch.setattr("raftstore.testing.crash.crowds.IMAGES_A_RUN", 0)
    run(Round(bench, Explorer(bench.lab, bench.checker, bench.tally), "segmented", 5, 0))
    assert bench.tally.verdicts == {"crowd, no fault": {"CRASH": 1}, "crowd, kill": {"CRASH": 1}}
