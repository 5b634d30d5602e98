"""The workload and the judge of the crash tests."""

from __future__ import annotations

import errno
from typing import Any

import msgspec
import pytest

from raftstore.testing.crash.driver import had_no_room
from raftstore.testing.crash.events import SYNC, WRITE, Event, Kind
from raftstore.testing.crash.explained import explained
from raftstore.testing.crash.oracle import History, Observation, Promise, Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.workload import NO_CALL, Workload, digest
from raftstore.testing.log_model import LogModel

PLAN = Plan(backend="segmented", seed=5, steps=40)


def changed_steps(workload: Workload, *calls: str) -> list[int]:
    steps = enumerate(workload.steps)
    return [n for n, step in steps if step.changed and (step.call in calls or not calls)]


def seen_after(plan: Plan, number: int, **parts: Any) -> Observation:
    step = plan.workload().steps[number]
    found: dict[str, Any] = {"digest": step.digest, "commit": step.commit, "summary": "x"}
    return Observation(**(found | parts))


def fed(plan: Plan, *events: Event) -> History:
    history = History(plan)
    for event in (Event(Kind.OPENED, 0), *events):
        history.feed(event)
    return history


def verdict(history: History, found: Observation, since: Promise | None = None) -> Verdict:
    return history.judge(found, since or history.promise, history.promise)[0]


def step_events(number: int, *, returned: bool = True) -> list[Event]:
    events = [Event(Kind.STARTED, n + 1) for n in range(number)]
    return [*events, *([Event(Kind.RETURNED, number)] if returned else [])]


def test_equal_plans_give_equal_workloads_and_other_seeds_others() -> None:
    assert PLAN.workload() == PLAN.workload()
    assert PLAN.workload() != msgspec.structs.replace(PLAN, seed=6).workload()


def test_every_writing_call_of_the_log_is_in_some_workload() -> None:
    made = {s.call for seed in range(30) for s in Plan(backend="x", seed=seed, steps=120).workload().steps}
    expected = {
        "append",
        "propose",
        "submit",
        "submit_propose",
        "splice",
        "submit_splice",
        "truncate",
        "purge",
    }
    expected |= {"install_snapshot", "reset", "save_hard_state", "save", "put_meta", "commit_to", "flush"}
    assert expected | NO_CALL <= made


def test_a_durable_step_that_is_missing_is_lost() -> None:
    steps = PLAN.workload()
    number = next(n for n in changed_steps(steps, "append") if n > 1)
    history = fed(PLAN, *step_events(number))
    assert verdict(history, seen_after(PLAN, number)) is Verdict.OK
    assert verdict(history, seen_after(PLAN, number - 1)) is Verdict.LOST
    assert verdict(history, seen_after(PLAN, 0)) is Verdict.LOST


def test_a_step_that_started_and_did_not_return_may_be_there_or_not() -> None:
    number = next(n for n in changed_steps(PLAN.workload(), "append") if n > 1)
    history = fed(PLAN, *step_events(number, returned=False))
    assert verdict(history, seen_after(PLAN, number)) is Verdict.OK
    assert verdict(history, seen_after(PLAN, number - 1)) is Verdict.OK


def test_a_state_that_never_was_and_one_of_the_future_are_mixed() -> None:
    later = changed_steps(PLAN.workload())[-1]
    history = fed(PLAN, *step_events(3))
    assert verdict(history, seen_after(PLAN, later)) is Verdict.MIXED
    assert verdict(history, seen_after(PLAN, 3, digest=b"never")) is Verdict.MIXED


def test_an_append_of_mem_first_may_be_missing_but_not_denied() -> None:
    plan = msgspec.structs.replace(PLAN, strategy="MemFirst")
    number = next(n for n in changed_steps(plan.workload(), "append") if n > 1)
    history = fed(plan, *step_events(number))
    assert verdict(history, seen_after(plan, number - 1, missing="unknown")) is Verdict.OK
    assert verdict(history, seen_after(plan, number - 1, missing="no")) is Verdict.LOST
    assert verdict(history, seen_after(plan, number, missing="no")) is Verdict.OK


def test_what_the_durable_index_covered_is_durable() -> None:
    plan = msgspec.structs.replace(PLAN, strategy="MemFirst")
    workload = plan.workload()
    number = next(n for n in changed_steps(workload, "append") if n > 1)
    last = workload.steps[number].state.last.index
    history = fed(plan, *step_events(number), Event(Kind.WATERMARK, number, last))
    assert verdict(history, seen_after(plan, number - 1)) is Verdict.LOST


def test_an_opening_that_raises_is_refused() -> None:
    assert verdict(fed(PLAN), Observation(refused="CorruptionError")) is Verdict.REFUSED


def test_what_goes_wrong_after_opening_is_mixed() -> None:
    assert verdict(fed(PLAN), seen_after(PLAN, 0, trouble="appended and gone")) is Verdict.MIXED


def test_a_commit_index_that_was_never_accepted_is_mixed() -> None:
    number = next(n for n in changed_steps(PLAN.workload(), "append") if n > 1)
    history = fed(PLAN, *step_events(number))
    assert verdict(history, seen_after(PLAN, number, commit=10**6)) is Verdict.MIXED


def test_a_step_that_was_refused_must_not_appear() -> None:
    number = next(n for n in changed_steps(PLAN.workload(), "append") if n > 1)
    history = fed(PLAN, *step_events(number, returned=False), Event(Kind.REFUSED, number))
    assert verdict(history, seen_after(PLAN, number - 1)) is Verdict.OK
    assert verdict(history, seen_after(PLAN, number)) is Verdict.MIXED


FULL = Plan(backend="segmented", seed=5, steps=40, strategy="MemFirst")


def of_full_disk(number: int, *events: Event) -> History:
    """`FULL` as far as step `number`, and then the disk was full."""
    refused = [Event(Kind.STARTED, number + 1), Event(Kind.REFUSED, number + 1)]
    return fed(FULL, *step_events(number), *events, *refused)


def test_a_full_disk_excuses_no_loss_of_what_was_reported_durable() -> None:
    steps = FULL.workload().steps
    number = [n for n in changed_steps(FULL.workload(), "append") if n > 1][1]
    durable = Event(Kind.WATERMARK, number, steps[number].state.last.index)
    for older in {step.digest: n for n, step in enumerate(steps[:number])}.values():
        assert verdict(of_full_disk(number, durable), seen_after(FULL, older)) is Verdict.LOST
    assert verdict(of_full_disk(number, durable), seen_after(FULL, number)) is Verdict.OK


def test_on_a_full_disk_a_vote_may_be_there_without_the_entries_before_it_that_were_not_durable() -> None:
    steps = FULL.workload().steps
    votes = [n for n in changed_steps(FULL.workload(), "save_hard_state") if steps[n - 1].wrote]
    vote = next(n for n in votes if steps[n - 1].call in ("append", "propose") and steps[n - 1].changed)
    model = LogModel.of(steps[vote - 2].state, steps[vote - 2].commit)
    model.save_hard_state(msgspec.structs.replace(steps[vote].arguments[0], commit=0))
    found = seen_after(FULL, vote - 2, digest=digest(model.state()))
    returned = Event(Kind.RETURNED, vote)
    assert verdict(of_full_disk(vote, returned), found) is Verdict.OK
    assert verdict(of_full_disk(vote, returned), seen_after(FULL, vote - 2)) is Verdict.LOST
    failed = [*step_events(vote, returned=False), Event(Kind.FAILED, vote)]
    assert verdict(fed(FULL, *failed), found) is Verdict.MIXED
    assert verdict(fed(FULL, *failed, Event(Kind.FAILED, vote, 1)), found) is Verdict.OK
    durable = Event(Kind.RECEIPT, vote - 1)
    assert verdict(of_full_disk(vote, returned, durable), found) is not Verdict.OK


def test_on_a_full_disk_a_durable_index_may_be_that_of_entries_whose_replacement_was_refused() -> None:
    plan = msgspec.structs.replace(FULL, threads=4, mix="conflicts")
    steps = plan.workload().steps
    cut = next(n for n, step in enumerate(steps) if step.cut and step.wrote)
    index = steps[cut].wrote[0]
    older = max(n for n in range(cut) if index in steps[n].wrote)
    watermark = Event(Kind.WATERMARK, cut, index)
    refused = fed(plan, *step_events(cut), watermark, Event(Kind.REFUSED, cut))
    assert verdict(refused, seen_after(plan, older)) is Verdict.OK
    assert verdict(fed(plan, *step_events(cut), watermark), seen_after(plan, older)) is Verdict.LOST


@pytest.mark.parametrize("since_started", [0, 1])
def test_what_had_not_started_when_the_disk_last_changed_must_not_be_there(since_started: int) -> None:
    """Two instants with the same disk: what started at the earlier one, and what is durable at the later."""
    number = changed_steps(PLAN.workload())[0]
    history = fed(PLAN, Event(Kind.STARTED, number))
    since = Promise(opened=True, started=since_started * number)
    expected = Verdict.OK if since_started else Verdict.MIXED
    assert verdict(history, seen_after(PLAN, number), since) is expected


def test_only_a_refusal_is_ever_explained() -> None:
    words = "No such file or directory: While open a file for random read: x/db/000020.sst: No such file"
    assert explained("rocksdb", "posix", Verdict.REFUSED, words) is not None
    assert explained("rocksdb", "ext4", Verdict.REFUSED, words) is None
    assert explained("segmented", "posix", Verdict.REFUSED, words) is None
    assert explained("rocksdb", "posix", Verdict.LOST, words) is None
    assert explained("rocksdb", "posix", Verdict.REFUSED, "CorruptionError: a record is damaged") is None
    torn = "Corruption: checksum mismatch  The file db/MANIFEST-000033 may be corrupted."
    assert explained("rocksdb", "ext4", Verdict.REFUSED, torn) is not None
    assert explained("rocksdb", "ext4", Verdict.LOST, torn) is None


@pytest.mark.parametrize(("number", "had_none"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_full_disk_is_looked_for_among_the_causes_of_an_error_even_in_a_circle(
    number: int, had_none: bool
) -> None:
    first, second = OSError(number, "the disk"), RuntimeError("the store")
    first.__cause__, second.__cause__ = second, first
    assert had_no_room(second) is had_none


HELD_BACK = Plan(backend="segmented", seed=2027, steps=18, strategy="MemFirst", policy="Batch", mix="plain")
"""Step 10 appends, and step 11 purges what was there before."""


@pytest.mark.parametrize(("error", "expected"), [(errno.ENOSPC, Verdict.OK), (errno.EIO, Verdict.MIXED)])
def test_a_purge_overtakes_an_append_only_if_the_disk_was_full(error: int, expected: Verdict) -> None:
    """Though no call was refused: the append was acknowledged from memory, and was to be tried again."""
    workload = HELD_BACK.workload()
    assert [workload.steps[n].call for n in (10, 11)] == ["append", "purge"]
    model = LogModel.of(workload.steps[9].state, workload.steps[9].commit)
    model.purge(*workload.steps[11].arguments)
    events = [
        Event(Kind.RETURNED, 10),
        Event(Kind.FIRED, WRITE, error),
        Event(Kind.STARTED, 11),
        Event(Kind.RETURNED, 11),
    ]
    history = fed(HELD_BACK, *step_events(10), *events)
    assert verdict(history, Observation(digest=digest(model.state()), commit=8, summary="x")) is expected


@pytest.mark.parametrize(
    ("calls", "expected"),
    [([SYNC], Verdict.MIXED), ([SYNC, SYNC], Verdict.OK), ([WRITE], Verdict.OK)],
    ids=["one sync", "two syncs", "a write"],
)
@pytest.mark.parametrize("says_full", [0, 1])
def test_nothing_overtakes_a_sync_that_failed_for_want_of_room_and_failed_the_log(
    calls: list[int], says_full: int, expected: Verdict
) -> None:
    """Of several, the first may have kept entries waiting, and a later one have been that of the purge."""
    workload = HELD_BACK.workload()
    model = LogModel.of(workload.steps[9].state, workload.steps[9].commit)
    model.purge(*workload.steps[11].arguments)
    events = [
        Event(Kind.RETURNED, 10),
        Event(Kind.STARTED, 11),
        *[Event(Kind.FIRED, call, errno.ENOSPC) for call in calls],
        Event(Kind.FAILED, 11, says_full),
        Event(Kind.FIRED, SYNC, errno.ENOSPC),
    ]
    history = fed(HELD_BACK, *step_events(10), *events)
    assert verdict(history, Observation(digest=digest(model.state()), commit=8, summary="x")) is expected


def test_a_sync_without_room_that_fails_no_log_may_let_a_purge_overtake_an_append() -> None:
    workload = HELD_BACK.workload()
    model = LogModel.of(workload.steps[9].state, workload.steps[9].commit)
    model.purge(*workload.steps[11].arguments)
    events = [
        Event(Kind.RETURNED, 10),
        Event(Kind.FIRED, SYNC, errno.ENOSPC),
        Event(Kind.STARTED, 11),
        Event(Kind.RETURNED, 11),
    ]
    history = fed(HELD_BACK, *step_events(10), *events)
    assert verdict(history, Observation(digest=digest(model.state()), commit=8, summary="x")) is Verdict.OK


def test_nothing_that_a_refused_step_said_of_the_commit_index_may_be_there() -> None:
    plan = msgspec.structs.replace(HELD_BACK, strategy="DiskFirst", policy="Immediate")
    step = plan.workload().steps[9]
    assert (step.call, step.wrote, step.commit) == ("save", range(4, 9), 8)
    told = [Event(Kind.STARTED, 9), Event(Kind.REFUSED, 9)]
    before = plan.workload().steps[8].commit
    assert before < 3
    assert verdict(fed(plan, *step_events(8), *told), seen_after(plan, 8, commit=before)) is Verdict.OK
    assert verdict(fed(plan, *step_events(8), *told), seen_after(plan, 8, commit=3)) is Verdict.MIXED
