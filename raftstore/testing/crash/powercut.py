"""Power cuts, replayed: at each instant of a recorded run, the disks that may be left, and what opens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from raftstore.testing.crash.changes import Change, Data, Keep, Naming
from raftstore.testing.crash.check import Checker
from raftstore.testing.crash.disk import Disk
from raftstore.testing.crash.events import decode
from raftstore.testing.crash.explained import explained
from raftstore.testing.crash.image import Image, left_by
from raftstore.testing.crash.lab import STORE, Lab
from raftstore.testing.crash.oracle import History, Observation, Promise, Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.record import Op, Record
from raftstore.testing.crash.tally import FAILURES_MAX, Tally, add

CALLS_MAX: Final = 8
"""Of the calls that are not durable, so many are tried one by one at each instant."""


KEEP_SHARE: Final = 0.02
"""Of the images, so many are kept for what needs some."""
SEEN_MAX: Final = 100_000


class Instant(msgspec.Struct, frozen=True):
    """A time in a recorded run between two calls that change the disk."""

    number: int
    since: Promise
    until: Promise


def instants(records: Iterable[Record], disk: Disk, history: History) -> Iterator[Instant]:
    """Every such time, with `disk` as it then is."""
    number, since = 0, history.promise
    for record in records:
        if record.op is Op.EVENT:
            for event in decode(record.data):
                history.feed(event)
            continue
        if disk.changes(record):
            yield Instant(number, since, history.promise)
            number, since = number + 1, history.promise
        disk.apply(record)
    yield Instant(number, since, history.promise)


def choices(pending: list[Change], random: Random, count: int | None) -> Iterator[Keep]:
    """Which pending changes a power cut keeps: the plain cases one by one, then `count` at random; if that is
    None, only none of them and all of them."""
    yield lambda change: False
    if not pending:
        return
    yield lambda change: True
    if count is None:
        return
    calls = sorted({change.call for change in pending})
    tried = calls if len(calls) <= CALLS_MAX else [*random.sample(calls[:-4], CALLS_MAX - 4), *calls[-4:]]
    for call in tried:
        yield from _around(call)
    yield lambda change: isinstance(change, Naming)
    yield lambda change: not isinstance(change, Naming)
    for call in {calls[-1], random.choice(calls)}:
        yield from _torn([c for c in pending if isinstance(c, Data) and c.call == call], random)
    for _ in range(count):
        share = random.choice([0.1, 0.3, 0.5, 0.7, 0.9])
        yield _only({change.order for change in pending if random.random() < share})


def _around(call: int) -> tuple[Keep, ...]:
    """Everything up to the call, everything but it, nothing but it."""
    return (lambda c: c.call <= call), (lambda c: c.call != call), (lambda c: c.call == call)


def _only(orders: Container[int]) -> Keep:
    return lambda change: change.order in orders


def _all_but(orders: Container[int]) -> Keep:
    return lambda change: change.order not in orders


def _torn(parts: list[Data], random: Random) -> Iterator[Keep]:
    """A write of several sectors of which some arrived; everything before it did, or nothing."""
    orders = [part.order for part in parts]
    if len(orders) < 2:
        return
    middle = random.randrange(1, len(orders))
    for some in (orders[:1], orders[:-1], orders[:middle], orders[middle:], orders[::2], orders[-1:]):
        yield _all_but(set(orders).difference(some))
        yield _only(some)


class Explorer:
    """Checks images, each only once."""

    def __init__(self, lab: Lab, checker: Checker, tally: Tally, keep_in: Path | None = None) -> None:
        """`keep_in`: a directory for the images of failures."""
        self._lab = lab
        self._keep_in = keep_in
        self._checker = checker
        self._tally = tally
        self._seen: dict[int, Observation | tuple[Verdict, str]] = {}
        self._kind: tuple[object, ...] = ()

    def explore(
        self,
        plan: Plan,
        records: list[Record],
        disk: Disk,
        random: Random,
        *,
        per_instant: int | None,
        history: History | None = None,
        method: str = "power cut",
        images_max: int = 1 << 60,
        share: float = 1.0,
        until: Callable[[], bool] = lambda: False,
        from_error: bool = False,
        creation: bool = True,
        keep: list[tuple[Image, Instant]] | None = None,
    ) -> None:
        """Check what power cuts of the run may leave: at each instant the plain cases and `per_instant` more,
        see `choices`.

        `disk` is as it was before the run. Ends early after about `images_max` images, or when `until` says
        so. `share`: only at so many of the instants. `from_error`: only instants after a sync that failed;
        without `creation`, only after the store was first opened. Some images are added to `keep`.
        """
        history = history or History(plan)
        kind = (plan.backend, plan.strategy, plan.policy, plan.plant, plan.options)
        if kind != self._kind or len(self._seen) > SEEN_MAX:
            self._seen.clear()
            self._kind = kind
        stop = self._tally.generated + images_max
        for instant in instants(records, disk, history):
            if (from_error and not disk.sync_failed) or not (creation or instant.since.opened):
                continue
            if share < 1.0 and random.random() >= share:
                continue
            self._tally.instants += 1
            for choice in choices(disk.pending(), random, per_instant):
                image = left_by(disk, choice)
                self._try(plan, image, instant, f"{method}, {disk.model}", history)
                if keep is not None and random.random() < KEEP_SHARE:
                    keep.append((image, instant))
            if self._tally.generated >= stop or until():
                return

    def found(self, plan: Plan, image: Image) -> Observation | tuple[Verdict, str]:
        """What opening the image shows; looked at only once."""
        if image.name not in self._seen:
            self._seen[image.name] = self._check(plan, image)
        return self._seen[image.name]

    def _try(self, plan: Plan, image: Image, instant: Instant, method: str, history: History) -> None:
        self._tally.generated += 1
        self._tally.see(f"{method}, {plan.strategy}", image.name)
        found = self.found(plan, image)
        if isinstance(found, Observation):
            verdict, words = history.judge(found, instant.since, instant.until)
        else:
            verdict, words = found
        self._tally.count(method, verdict)
        reason = explained(plan.backend, method.rpartition(", ")[2], verdict, words)
        if reason is not None:
            add(self._tally.explained, reason)
        elif verdict is not Verdict.OK:
            place = f"{plan.title}; {method}, at instant {instant.number}"
            self._tally.fail(verdict, place, words, kept=self._kept(image))

    def _kept(self, image: Image) -> str | None:
        if self._keep_in is None or len(self._tally.failures) >= FAILURES_MAX:
            return None
        place = self._keep_in / f"image-{image.name:016x}"
        if not place.exists():
            place.mkdir(parents=True)
            image.write(place)
        return str(place)

    def _check(self, plan: Plan, image: Image) -> Observation | tuple[Verdict, str]:
        arena = self._lab.scratch / "image"
        shutil.rmtree(arena, ignore_errors=True)
        arena.mkdir(mode=0o700)
        image.write(arena)
        return self._checker.check(plan, arena / STORE)
