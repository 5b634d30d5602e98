"""The one judge of every method: is what was found after a crash a state that the promises allow?

The recovered log must equal the state after exactly k steps, where every step that was acknowledged as
durable is among them, and none that had not started.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Literal, cast

import msgspec

from raftstore.entry import HardState
from raftstore.errors import RaftStoreError
from raftstore.testing.crash.crowd import Crowd
from raftstore.testing.crash.events import SYNC, Event, Kind
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.workload import (
    APPENDS,
    BARRIERS,
    DURABLE_CALLS,
    apply,
    digest,
)
from raftstore.testing.log_model import LogModel


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
    crowd: Crowd | None = None
    """Of a crowd's workload, the steps that are there."""
    refused: str | None = None
    """Why opening failed, if it did."""
    trouble: str | None = None
    """What went wrong after opening, if anything did."""


class Promise(msgspec.Struct, frozen=True):
    """What must hold at one instant of a driven process. Numbers of steps."""

    opened: bool = False
    durable: int = 0
    """This step and all before it survive power loss."""
    written: int = 0
    """So do the entries of this step and of all before it, whatever overtook them on a full disk."""
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
        self._ahead = 0
        """The newest durable step of those that may overtake entries on a full disk."""
        self._refused_from = len(self._steps)
        """The first step that was refused: what is built on it, is gone with it."""
        self._had_no_room = False
        self._failed_syncs = 0
        """So many syncs of a full disk failed before the log said that it had failed."""
        self.promise = Promise()
        self.told: set[Kind] = set()
        """What else has happened: refusals, failures, lies."""

    def feed_all(self, events: Iterable[Event]) -> None:
        """Take the next events in."""
        for event in events:
            self.feed(event)

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
            case Kind.CLOSED:
                self._refused_from = len(self._steps)
                self._durable(event.step)
            case Kind.RECEIPT:
                self._durable(event.step)
            case Kind.WATERMARK:
                self._watermark(event.step, event.value)
            case Kind.REFUSED:
                self.told.add(event.kind)
                self._refused(event.step)
            case Kind.FAILED if event.value and self._may_overtake and self._failed_syncs != 1:
                self.told.add(event.kind)
                self._refused(len(self._steps))
            case Kind.FIRED if event.value == errno.ENOSPC and self._may_overtake:
                self._no_room_for(event.step)
                self.told.add(event.kind)
            case _:
                self.told.add(event.kind)

    @property
    def _may_overtake(self) -> bool:
        """Whether a full disk may leave entries waiting, and let steps without any go ahead of them."""
        return self._mem_first or self._pipelined

    def _no_room_for(self, call: int) -> None:
        if call != SYNC:
            self._had_no_room = True
        elif Kind.FAILED not in self.told:
            self._failed_syncs += 1

    @property
    def _was_full(self) -> bool:
        """Whether steps may have overtaken others. A sync that fails for want of room fails the log, and then
        nothing did; unless it was of what is made ahead: then the log goes on, or another sync fails it."""
        return self._had_no_room or self._failed_syncs > int(Kind.FAILED in self.told)

    def _refused(self, number: int) -> None:
        """Nothing of the step may be there, unless it is tried again and returns."""
        old = self.promise
        if not self._may_overtake:
            self.promise = msgspec.structs.replace(old, started=number - 1)
            return
        self._had_no_room = True
        self._refused_from = min(self._refused_from, number)
        written = min(old.written, number - 1)
        durable = max(written, self._ahead)
        self.promise = msgspec.structs.replace(
            old,
            durable=durable,
            written=written,
            acknowledged=min(old.acknowledged, max(durable, number - 1)),
            commit=min(old.commit, durable),
        )

    def _returned(self, number: int) -> None:
        step = self._steps[number]
        if number == self._refused_from:  # it was tried again
            self._refused_from = len(self._steps)
        self.promise = msgspec.structs.replace(self.promise, started=max(number, self.promise.started))
        if step.call in APPENDS and step.changed:
            if self._pipelined:
                return
            self.promise = msgspec.structs.replace(self.promise, acknowledged=number)
            if self._mem_first and not step.cut:
                return
        elif step.call not in BARRIERS and not (step.call in DURABLE_CALLS and step.changed):
            return
        self._durable(number, overtakes=step.call in DURABLE_CALLS and not step.wrote)

    def _durable(self, number: int, *, written: int | None = None, overtakes: bool = False) -> None:
        """The step is durable, and all before it.

        On a full disk of the entries only those of the first `written` steps are, by default of as many; none
        if it `overtakes` them.
        """
        old = self.promise
        if overtakes:
            self._ahead = max(self._ahead, number)
            written = old.written
        else:
            written = min(number if written is None else written, self._refused_from - 1)
            written = max(old.written, written)
        if self._was_full:
            number = max(self._ahead, written)
        durable = max(old.durable, number)
        carriers = (n for n in range(durable, old.commit, -1) if self._steps[n].carries_commit)
        self.promise = msgspec.structs.replace(
            old,
            durable=durable,
            written=written,
            acknowledged=max(old.acknowledged, durable),
            commit=next(carriers, old.commit),
        )

    def _watermark(self, number: int, index: int) -> None:
        """Every entry up to `index` is durable: so is the step that wrote that entry, and all before it.

        If a later step is refused, it may have been the entry of an earlier one.
        """
        state = self._steps[number].state
        if state.anchor.index < index <= state.last.index:
            writers = [n for n in range(number + 1) if index in self._steps[n].wrote] or [0]
            self._durable(writers[-1], written=writers[0])

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
        return self._was_full and found.digest in self._overtaken(until)

    def _overtaken(self, until: Promise) -> set[bytes]:
        """On a full disk, steps without entries may overtake others: the states that this can leave."""
        if not self._may_overtake:
            return set()
        states: set[bytes] = set()
        for entries_stop in range(until.written, until.started + 1):
            model = LogModel.of(self._steps[0].state, self._steps[0].commit)
            for number in range(1, until.started + 1):
                step = self._steps[number]
                if number <= entries_stop or not step.wrote:
                    with suppress(RaftStoreError):
                        apply(model, step.call, _without_commit(step.arguments))
                if number >= until.durable:
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


def _without_commit(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same vote as it is accepted by a log that lacks the entries that were refused."""
    changed: list[Any] = []
    for argument in arguments:
        if isinstance(argument, HardState):
            changed.append(msgspec.structs.replace(argument, commit=0))
        elif isinstance(argument, dict) and "hard_state" in argument:
            fields = cast("dict[str, Any]", argument)
            (bare,) = _without_commit((fields["hard_state"],))
            changed.append({**fields, "hard_state": bare})
        else:
            changed.append(argument)
    return tuple(changed)
