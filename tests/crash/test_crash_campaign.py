"""What a run of the crash tests does next, when it ends, and what it leaves when it is ended early."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from raftstore.testing.crash.campaign import Campaign, Work
from raftstore.testing.crash.events import Event, Kind
from raftstore.testing.crash.kernel import follow
from raftstore.testing.crash.kernel_power import Cut
from raftstore.testing.crash.lane import Settings
from raftstore.testing.crash.method import Method, Round
from raftstore.testing.crash.methods import method_named
from raftstore.testing.crash.oracle import History, Observation, Verdict
from raftstore.testing.crash.page import Sum, page
from raftstore.testing.crash.patience import hang
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.report import load, outcome_of, report, save
from raftstore.testing.crash.schedule import Goals, Order, Schedule
from raftstore.testing.crash.tally import Tally
from raftstore.testing.tools import eventually


def nothing(_round: Round) -> None:
    pass


def method(name: str, **parts: object) -> Method:
    return msgspec.structs.replace(Method(name=name, about="", run=nothing), **parts)


SWEEP = method("sweep", rounds=3)
IMAGES = method("images", serves="images")
KILLS = method("kills", serves="kills")
OTHER = method("other")


def orders(schedule: Schedule, tally: Tally, now: float, seconds: float = 1.0) -> list[Order]:
    """Those that are given out from `now` on, each of which takes so long; 20 at most."""
    found: list[Order] = []
    while len(found) < 20 and (order := schedule.next(now, tally)) is not None:
        schedule.done(order, seconds)
        found.append(order)
        now += seconds
    return found


def test_planted_bugs_go_first_and_take_nothing_of_the_time() -> None:
    schedule = Schedule([OTHER], [("other", "a"), ("other", "b")], 3.0, Goals())
    found = orders(schedule, Tally(), 100.0, seconds=1.0)
    assert [order.plant for order in found] == ["a", "b", None, None, None]
    assert [order.until for order in found[2:]] == [105.0] * 3


def test_each_method_gets_its_share_of_the_time() -> None:
    schedule = Schedule([method("a", share=3.0), method("b")], [], 16.0, Goals())
    names = [order.method for order in orders(schedule, Tally(), 0.0)]
    assert (names.count("a"), names.count("b")) == (12, 4)


def test_lanes_that_begin_at_once_begin_with_different_methods() -> None:
    schedule = Schedule([OTHER, IMAGES, KILLS], [], 10.0, Goals())
    first = [schedule.next(0.0, Tally()) for _ in range(3)]
    assert {order.method for order in first if order is not None} == {"other", "images", "kills"}


def test_a_sweep_that_is_wanted_comes_to_its_end_whatever_the_time() -> None:
    schedule = Schedule([SWEEP, OTHER], [], 0.0, Goals(sweeps=True))
    assert [(o.method, o.number, o.until) for o in orders(schedule, Tally(), 0.0)] == [
        ("sweep", 0, None),
        ("sweep", 1, None),
        ("sweep", 2, None),
    ]


def test_without_goals_nothing_begins_after_the_time() -> None:
    schedule = Schedule([SWEEP, IMAGES, KILLS, OTHER], [], 0.0, Goals())
    assert schedule.next(0.0, Tally()) is None


def test_a_run_goes_on_until_there_are_images_and_kills_enough() -> None:
    schedule = Schedule([IMAGES, KILLS, OTHER], [], 0.0, Goals(images=2, kills=1))
    tally = Tally(kills=1)
    first = schedule.next(0.0, tally)
    assert first == Order("images")
    tally.see("power cut, posix, DiskFirst", 1)
    assert schedule.next(1.0, tally) == Order("images", 1)
    tally.see("power cut, posix, DiskFirst", 2)
    assert schedule.next(2.0, tally) is None


def test_a_method_that_had_no_time_is_told_and_one_that_only_found_planted_bugs_too() -> None:
    schedule = Schedule([OTHER, KILLS], [("kills", "a")], 1.0, Goals())
    assert schedule.next(0.0, Tally()) == Order("kills", plant="a")
    assert schedule.next(0.0, Tally()) == Order("other", until=1.0)
    assert schedule.not_begun == ["kills"]


@pytest.mark.backend("segmented")
def test_goals_that_a_run_did_not_reach_and_methods_without_a_round_are_told() -> None:
    goals = Goals(images=5, kills=1)
    work = Work(methods=[method_named("kill at any time")], seconds=0.0, goals=goals)
    campaign = Campaign(Settings(backend="segmented"), work)
    campaign.run()
    assert campaign.tally.kills >= 1
    assert campaign.tally.notes == ["0 of 5 images"]
    campaign = Campaign(Settings(backend="segmented"), msgspec.structs.replace(work, goals=Goals()))
    campaign.run()
    assert campaign.tally.notes == ["kill at any time: no time"]


def test_a_run_without_any_lane_is_no_run() -> None:
    command = [sys.executable, "-m", "raftstore.testing.crash", "--backend", "segmented", "--lanes", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--lanes: at least 1" in done.stderr


def test_what_a_tally_gives_away_is_counted_once() -> None:
    tally, whole = Tally(kills=2), Tally()
    tally.see("a", 1)
    whole.merge(tally.take())
    tally.see("a", 2)
    whole.merge(tally.take())
    assert (whole.kills, whole.unique, tally) == (2, 2, Tally())


def test_the_page_says_how_many_parts_of_every_call_were_done_and_what_was_left_out(tmp_path: Path) -> None:
    tally = Tally(notes=["fuse: needs a miracle"])
    for part in ("a", "b", "a"):
        tally.sweep("every call", part)
    save(tmp_path / "a.json", report([outcome_of("segmented", 1, 1.0, tally)]), {"segmented": {}})
    whole = Sum()
    whole.take(tmp_path / "a.json")
    written = page(whole)
    assert "| **every call**: parts of going through every call | 2 of 64 |" in written
    assert "- segmented: fuse: needs a miracle" in written


@pytest.mark.backend("segmented")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_early_leaves_its_report_and_nothing_else(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "raftstore.testing.crash", "--backend", "segmented", "--lanes", "2"]
    command += ["--method", "kill at any time", "--kills", "1000000", "--seed", "3"]
    command += ["--report", str(tmp_path / "a.json")]
    words = tmp_path / "words"
    with words.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as run:
        eventually(lambda: len(lanes_with_helpers(run.pid)) == 2, "both lanes had their helpers")
        processes = [*children_of(run.pid), *helpers_of(run.pid)]
        run.send_signal(number)
        assert run.wait(600) == 128 + number, words.read_text()
    whole, _ = load(tmp_path / "a.json")
    assert "ended early" in whole.outcomes[0].tally.notes
    assert not whole.has_failed
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "all processes were gone")


def lanes_with_helpers(campaign: int) -> list[int]:
    """At least one: a lane has more of them as it goes on."""
    return [lane for lane in children_of(campaign) if children_of(lane)]


def helpers_of(campaign: int) -> list[int]:
    return [helper for lane in children_of(campaign) for helper in children_of(lane)]


def children_of(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


@pytest.mark.backend("segmented")
def test_a_lane_counts_each_order_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raftstore.testing.crash.lane"]
    command.append(msgspec.json.encode(Settings(backend="segmented")).decode())
    order = msgspec.json.encode(Order("kill at any time")).decode()
    done = subprocess.run(command, input=f"{order}\n{order}\n", capture_output=True, text=True, check=True)
    answers = [msgspec.json.decode(line) for line in done.stdout.splitlines()[1:]]
    assert [answer["tally"]["verdicts"]["kill"] for answer in answers] == [{"OK": 4}] * 2


# --- power cuts that take their time ----------------------------------------------------------------------

PLAN = Plan(backend="segmented", seed=3, steps=12, mix="plain")
CUT = Cut(100, 200)


def judged(events: list[tuple[Kind, int, int]], found: int) -> Verdict:
    """The verdict about the state after step `found`, after a cut from 100 to 200."""
    history = History(PLAN)
    opened = Event(Kind.OPENED, 0, 0, 1)
    told = [opened, *[Event(kind, step, 0, time_ns) for kind, step, time_ns in events]]
    until = follow(history, told, CUT)
    step = PLAN.workload().steps[found]
    seen = Observation(digest=step.digest, commit=min(step.commit, step.state.last.index))
    return history.judge(seen, history.promise, until)[0]


def changing() -> int:
    """A step that changes the state, after one that does."""
    steps = PLAN.workload().steps
    return next(n for n in range(3, len(steps)) if steps[n].changed and steps[n - 1].changed)


def test_what_was_acknowledged_before_a_power_cut_began_must_be_there() -> None:
    n = changing()
    events = [
        (Kind.STARTED, n - 1, 50),
        (Kind.RETURNED, n - 1, 60),
        (Kind.STARTED, n, 90),
        (Kind.RETURNED, n, 99),
    ]
    assert judged(events, n) is Verdict.OK
    assert judged(events, n - 1) is Verdict.LOST


def test_what_was_acknowledged_while_the_power_was_cut_may_be_there_or_not() -> None:
    n = changing()
    events = [
        (Kind.STARTED, n - 1, 50),
        (Kind.RETURNED, n - 1, 60),
        (Kind.STARTED, n, 90),
        (Kind.RETURNED, n, 100),
    ]
    assert judged(events, n) is Verdict.OK
    assert judged(events, n - 1) is Verdict.OK
    assert judged(events, n - 2) is not Verdict.OK


def test_what_began_after_a_power_cut_is_not_there() -> None:
    n = changing()
    events = [
        (Kind.STARTED, n - 1, 50),
        (Kind.RETURNED, n - 1, 60),
        (Kind.STARTED, n, 200),
        (Kind.RETURNED, n, 210),
    ]
    assert judged(events, n - 1) is Verdict.OK
    assert judged(events, n) is Verdict.MIXED


def test_a_hang_is_told_with_the_load_of_the_machine() -> None:
    assert "within 2.5 s, at a load average of " in hang("no answer", 2.5)
