"""The one judge of every method: is what was found after a crash a state that the promises allow?

The recovered log must equal the state after exactly k steps, where every step that was acknowledged as
durable is among them, and none that had not started.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from raftstore.entry import Entry, HardState
from raftstore.errors import RaftStoreError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig
from raftstore.testing.crash.events import Event, Kind
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.workload import (
    APPENDS,
    BARRIERS,
    DURABLE_CALLS,
    META_KEYS,
    apply,
    digest,
)
from raftstore.testing.log_model import LogModel, LogState
from raftstore.testing.tools import visible_state


class Verdict(StrEnum):
    """What a crash, or a fault, did to a store."""

    OK = "OK"
    LOST = "LOST"
    """An older state: something acknowledged is missing. Or its loss was denied."""
    MIXED = "MIXED"
    """A state that never existed."""
    REFUSED = "REFUSED"
    """Opening raised."""
    CRASH = "CRASH"
    """The process died, or raised what it must not."""
    HANG = "HANG"


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What opening a store found, and how it went on from there."""

    digest: bytes = b""
    """Of the recovered state, `workload.digest`."""
    commit: int = 0
    missing: Literal["no", "unknown", "yes"] = "unknown"
    """`RecoveryReport.acknowledged_missing`."""
    summary: str = ""
    refused: str | None = None
    """Why opening failed, if it did."""
    trouble: str | None = None
    """What went wrong after opening, if anything did."""


class Promise(msgspec.Struct, frozen=True):
    """What must hold at one instant of a driven process. Numbers of steps."""

    opened: bool = False
    durable: int = 0
    """This step and all before it survive power loss."""
    acknowledged: int = 0
    """The newest step that was acknowledged; under `MemFirst` it may be lost, but not denied."""
    started: int = 0
    commit: int = 0
    """The newest durable step that carried the commit index of its time."""


class Allowed(msgspec.Struct, frozen=True):
    """The states in which a store may be found after a crash."""

    matching: Sequence[int]
    """The steps after which the log was as it was found."""
    digests: frozenset[bytes]
    """Of all that are allowed."""


class History:
    """Follows the events of a driven process, and says what is promised after each."""

    def __init__(self, plan: Plan, *, earlier: frozenset[bytes] = frozenset()) -> None:
        """`earlier`: other states, by their digests, in which the store may be found until it was opened."""
        self._steps = plan.workload().steps
        self._mem_first = plan.strategy == "MemFirst"
        self._pipelined = plan.threads > 1
        self._earlier = earlier
        self.promise = Promise()
        self.told: set[Kind] = set()
        """What else has happened: refusals, failures, lies."""

    def feed(self, event: Event) -> None:
        """Take the next event in."""
        match event.kind:
            case Kind.OPENED:
                self.promise = msgspec.structs.replace(self.promise, opened=True)
                self._durable(event.step)
            case Kind.STARTED:
                self.promise = msgspec.structs.replace(self.promise, started=event.step)
            case Kind.RETURNED:
                self._returned(event.step)
            case Kind.RECEIPT | Kind.CLOSED:
                self._durable(event.step)
            case Kind.WATERMARK:
                self._watermark(event.step, event.value)
            case Kind.REFUSED:
                self.told.add(event.kind)
                self._refused(event.step)
            case _:
                self.told.add(event.kind)

    def _refused(self, number: int) -> None:
        """Nothing of the step may be there, unless it is tried again and returns."""
        if not self._mem_first and not self._pipelined:
            self.promise = msgspec.structs.replace(self.promise, started=number - 1)

    def _returned(self, number: int) -> None:
        step = self._steps[number]
        self.promise = msgspec.structs.replace(self.promise, started=max(number, self.promise.started))
        if step.call in APPENDS and step.changed:
            if self._pipelined:
                return
            self.promise = msgspec.structs.replace(self.promise, acknowledged=number)
            if self._mem_first and not step.cut:
                return
        elif step.call not in BARRIERS and not (step.call in DURABLE_CALLS and step.changed):
            return
        self._durable(number)

    def _durable(self, number: int) -> None:
        old = self.promise
        durable = max(old.durable, number)
        carriers = (n for n in range(durable, old.commit, -1) if self._steps[n].carries_commit)
        self.promise = msgspec.structs.replace(
            old,
            durable=durable,
            acknowledged=max(old.acknowledged, durable),
            commit=next(carriers, old.commit),
        )

    def _watermark(self, number: int, index: int) -> None:
        """Every entry up to `index` is durable: so is the step that wrote that entry, and all before it."""
        state = self._steps[number].state
        if state.anchor.index < index <= state.last.index:
            self._durable(max(n for n in range(number + 1) if index in self._steps[n].wrote or n == 0))

    def allowed(self, found: Observation, since: Promise, until: Promise) -> Allowed:
        """The states that a crash from `since` to `until` may leave, and the steps that match `found`."""
        steps = self._steps[until.durable : max(since.started, until.durable) + 1]
        return Allowed(self._matching(found, since, until), frozenset(step.digest for step in steps))

    def judge(self, found: Observation, since: Promise, until: Promise) -> tuple[Verdict, str]:
        """Whether `found` is allowed after a crash at any instant from `since` to `until`.

        The two promises are of the same state of the disk: what had started at the earlier instant and what
        was acknowledged by the later one must both hold. The second value says what is wrong, for people.
        """
        if found.refused is not None:
            return Verdict.REFUSED, found.refused
        if not found.digest:
            return Verdict.MIXED, found.trouble or found.summary
        matching = self._matching(found, since, until)
        if not matching and not self._is_allowed_otherwise(found, until):
            return self._wrong_state(found, since, until)
        if matching and not any(self._commit_is_allowed(found, n, since, until) for n in matching):
            return Verdict.MIXED, f"commit index {found.commit} in {found.summary}; steps {matching}"
        if matching and found.missing == "no" and self._lacks(found, until.acknowledged, since.started):
            return Verdict.LOST, f"step {until.acknowledged} is missing, and its loss is denied"
        if found.trouble is not None:
            return Verdict.MIXED, found.trouble
        return Verdict.OK, ""

    def _is_allowed_otherwise(self, found: Observation, until: Promise) -> bool:
        if not until.opened and found.digest in self._earlier:
            return True
        return Kind.REFUSED in self.told and found.digest in self._overtaken(until.started)

    def _overtaken(self, started: int) -> set[bytes]:
        """On a full disk, steps without entries may overtake others: the states that this can leave."""
        if not self._mem_first and not self._pipelined:
            return set()
        states: set[bytes] = set()
        for entries_stop in range(started + 1):
            model = LogModel.of(self._steps[0].state, self._steps[0].commit)
            for number in range(1, started + 1):
                step = self._steps[number]
                if number <= entries_stop or not step.wrote:
                    with suppress(RaftStoreError):
                        apply(model, step.call, step.arguments)
                states.add(digest(model.state()))
        return states

    def _matching(self, found: Observation, since: Promise, until: Promise) -> list[int]:
        """The steps after which the log was as it was found."""
        stop = max(since.started, until.durable) + 1
        return [n for n in range(until.durable, stop) if self._steps[n].digest == found.digest]

    def _lacks(self, found: Observation, acknowledged: int, started: int) -> bool:
        stop = max(started, acknowledged) + 1
        return all(self._steps[n].digest != found.digest for n in range(acknowledged, stop))

    def _commit_is_allowed(self, found: Observation, number: int, since: Promise, until: Promise) -> bool:
        last = self._steps[number].state.last.index
        carried = [step.commit for step in self._steps[min(until.commit, number) : number + 1]]
        later = [step.commit for step in self._steps[number : max(since.started, number) + 1]]
        return min(*carried, last, last) <= found.commit <= min(max(later), last)

    def _wrong_state(self, found: Observation, since: Promise, until: Promise) -> tuple[Verdict, str]:
        older = [n for n in range(until.durable) if self._steps[n].digest == found.digest]
        allowed = f"steps {until.durable} to {since.started} are allowed"
        if older:
            return Verdict.LOST, f"{found.summary} is the state after step {older[-1]}; {allowed}"
        newer = [n for n, step in enumerate(self._steps) if step.digest == found.digest]
        if newer:
            return Verdict.MIXED, f"{found.summary} is that of step {newer[0]}, not begun; {allowed}"
        return Verdict.MIXED, f"{found.summary} is the state after no step; {allowed}"


def observe(config: StoreConfig) -> Observation:
    """Open the store, read all of it, append, close, open again: what was found, and what went wrong.

    Raises nothing that a store may raise. It leaves the store changed and closed.
    """
    try:
        log = open_log(config)
    except (RaftStoreError, OSError) as error:
        return Observation(refused=f"{type(error).__name__}: {error}")
    found = Observation(summary="unreadable")
    try:
        with log:
            found = _read(log)
            wanted = _go_on(log)
            trouble = _check_killed(config, wanted) if log.recovery.bytes_dropped or _picked(found) else None
        trouble = trouble or _check_again(config, wanted)
    except (RaftStoreError, OSError, AssertionError) as error:
        trouble = f"after opening: {type(error).__name__}: {error}"
    return msgspec.structs.replace(found, trouble=trouble) if trouble else found


def _read(log: RaftLog) -> Observation:
    state = visible_state(log, META_KEYS)
    assert [e.index for e in log.scan()] == [e.index for e in state.entries], "scan and entries differ"
    assert log.next_index == log.last_index + 1 == log.durable_index + 1, "the bounds do not agree"
    return Observation(
        digest=digest(state),
        commit=log.commit_index,
        missing=log.recovery.acknowledged_missing,
        summary=_summary(state, log.commit_index),
    )


def _summary(state: LogState, commit: int) -> str:
    return (
        f"{state.anchor.index}+{len(state.entries)} (last {state.last.term}:{state.last.index}, term "
        f"{state.term}, vote {state.voted_for}, commit {commit}, meta {[key for key, _ in state.meta]})"
    )


def _go_on(log: RaftLog) -> LogState:
    """Append and vote, as a node does after a crash; returns what must be there afterwards."""
    before, term = visible_state(log, META_KEYS), max(log.last.term, log.hard_state.term) + 1
    payloads = [b"probe", b"after the crash" * 60, os.urandom(40)]
    entries = [Entry(term, log.next_index + n, data) for n, data in enumerate(payloads)]
    log.save(entries[:2])
    log.append(entries[2:])
    log.save_hard_state(HardState(term, "probe", entries[-1].index))
    return LogState(before.anchor, (*before.entries, *entries), term, "probe", before.meta)


def _check_again(config: StoreConfig, wanted: LogState) -> str | None:
    with open_log(config) as log:
        found = visible_state(log, META_KEYS)
        commit, missing = log.commit_index, log.recovery.acknowledged_missing
    if found != wanted:
        return f"appended after the crash and opened again: {_summary(found, commit)}"
    if commit != wanted.last.index:
        return f"the commit index {wanted.last.index} was {commit} after closing"
    return None if missing == "no" else f"after a clean close something may be missing: {missing}"


def _picked(found: Observation) -> bool:
    """One in four: looking at what a kill leaves takes as long as opening."""
    return found.digest[0] % 4 == 0


def _check_killed(config: StoreConfig, wanted: LogState) -> str | None:
    """What would be found if the process that has the store open were killed now."""
    copy = config.path.with_name(f"{config.path.name}.killed")
    try:
        if not _copied(config.path, copy):
            return None
        with open_log(msgspec.structs.replace(config, path=copy)) as log:
            found = visible_state(log, META_KEYS)
            return None if found == wanted else f"appended and killed: {_summary(found, log.commit_index)}"
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copied(store: Path, copy: Path) -> bool:
    """Copy a store as it is at one instant; False if its upkeep goes on too long for that."""
    for _ in range(20):
        before = _snapshot(store)
        with suppress(OSError):
            shutil.copytree(store, copy)
            if before is not None and _snapshot(store) == before:
                return True
        shutil.rmtree(copy, ignore_errors=True)
        time.sleep(0.002)
    return False


def _snapshot(store: Path) -> list[tuple[str, int, int]] | None:
    """The files, their lengths and times of change; None if they change right now."""
    try:
        known = [(str(file), file.stat()) for file in sorted(store.rglob("*"))]
    except OSError:
        return None
    return [(name, status.st_size, status.st_mtime_ns) for name, status in known]
