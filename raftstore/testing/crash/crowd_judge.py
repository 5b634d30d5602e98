"""Judges what a crowd of threads left: a state after some order of the steps that they can have seen.

The steps that are found must be, of each thread, the first so many; a step that had returned before another
began must be there if that one is, and before it; and none that was acknowledged as durable may be missing.
"""

from __future__ import annotations

import msgspec

from raftstore.testing.crash.crowd import SAVER, THREADS, UNKNOWN, VOTER, Crowd, name_of, thread_of
from raftstore.testing.crash.events import Event, Kind
from raftstore.testing.crash.oracle import Observation, Verdict
from raftstore.testing.crash.plan import Plan

Counts = tuple[int, ...]
"""Of each thread, how many of its steps."""


class CrowdPromise(msgspec.Struct, frozen=True):
    """What must hold at one instant."""

    opened: bool = False
    started: Counts = (0,) * THREADS
    durable: Counts = (0,) * THREADS
    acknowledged: Counts = (0,) * THREADS


class CrowdHistory:
    """Follows the events of a driven crowd, and says what is promised after each."""

    def __init__(self, plan: Plan) -> None:
        self._mem_first = plan.strategy == "MemFirst"
        self._time = 0
        self._began: dict[int, int] = {}
        self._returned: dict[int, int] = {}
        self.promise = CrowdPromise()
        self.told: set[Kind] = set()

    def feed(self, event: Event) -> None:
        """Take the next event in."""
        self._time += 1
        match event.kind:
            case Kind.OPENED:
                self.promise = msgspec.structs.replace(self.promise, opened=True)
            case Kind.STARTED:
                self._began[event.step] = self._time
                self._promise("started", event.step)
            case Kind.RETURNED:
                self._returned[event.step] = self._time
                is_durable = thread_of(event.step) in (VOTER, SAVER)
                if is_durable or self._mem_first:
                    self._promise("acknowledged", event.step)
                if is_durable:
                    self._promise("durable", event.step)
            case Kind.RECEIPT:
                self._promise("acknowledged", event.step)
                self._promise("durable", event.step)
            case Kind.CLOSED if Kind.FAILED not in self.told:
                whole = self.promise.started
                self.promise = msgspec.structs.replace(self.promise, acknowledged=whole, durable=whole)
            case _:
                self.told.add(event.kind)

    def _promise(self, what: str, step: int) -> None:
        counts = list(getattr(self.promise, what))
        thread = thread_of(step)
        counts[thread] = max(counts[thread], step - name_of(thread, 0))
        self.promise = msgspec.structs.replace(self.promise, **{what: tuple(counts)})

    def judge(self, found: Observation, since: CrowdPromise, until: CrowdPromise) -> tuple[Verdict, str]:
        """Whether `found` is allowed after a crash at any instant from `since` to `until`, or why not."""
        if found.refused is not None:
            return Verdict.REFUSED, found.refused
        if found.crowd is None:
            return Verdict.MIXED, found.trouble or found.summary
        crowd = found.crowd
        counts = _counts(crowd)
        if counts is None or any(n > m for n, m in zip(counts, since.started, strict=True)):
            return (
                Verdict.MIXED,
                f"{crowd}: not the first steps of each thread, of those begun {since.started}",
            )
        if any(n < m for n, m in zip(counts, until.durable, strict=True)):
            return Verdict.LOST, f"found are {counts} steps of the threads, durable were {until.durable}"
        denied = any(n < m for n, m in zip(counts, until.acknowledged, strict=True))
        if denied and found.missing == "no":
            return Verdict.LOST, f"{counts} of {until.acknowledged} steps are there, and the loss is denied"
        if trouble := self._disorder(crowd, counts) or found.trouble:
            return Verdict.MIXED, trouble
        return Verdict.OK, ""

    def _disorder(self, crowd: Crowd, counts: Counts) -> str | None:
        """A step that is missing or comes later, though it had returned before one that is there began."""
        last = max((self._began[name_of(t, n)] for t, n in enumerate(counts) if n), default=0)
        for thread, count in enumerate(counts):
            following = name_of(thread, count + 1)
            if self._returned.get(following, last) < last:
                return f"step {following} is missing, and one that began after it had returned is there"
        earliest = self._time
        for step in reversed(crowd.proposed):
            if self._began[step] > earliest:
                return f"step {step} is before one that had returned when it began"
            earliest = min(earliest, self._returned.get(step, earliest))
        return None


def _counts(crowd: Crowd) -> Counts | None:
    """How many steps of each thread are there; None if they are not its first ones, in their order."""
    counts = [0] * THREADS
    counts[VOTER], counts[SAVER] = crowd.votes, crowd.saves
    for step in crowd.proposed:
        thread = thread_of(step)
        if step == UNKNOWN or step != name_of(thread, counts[thread] + 1):
            return None
        counts[thread] += 1
    return None if crowd.votes == UNKNOWN else tuple(counts)
