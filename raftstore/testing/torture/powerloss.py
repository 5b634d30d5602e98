"""A real loss of power: write with a ledger elsewhere until it happens, and compare afterwards."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from raftstore.durable import sync_directory
from raftstore.testing.crash.check import Checker
from raftstore.testing.crash.driver import drive
from raftstore.testing.crash.events import Kind
from raftstore.testing.crash.oracle import History, Observation, Verdict
from raftstore.testing.crash.plants import plant
from raftstore.testing.torture.ledger import Chapter, Ledger, LedgerError
from raftstore.testing.torture.rounds import Settings, plan_of

DIRECTORY: Final = "raftstore-torture"
KEPT: Final = 2
"""The newest stores that stay: the last one, and one that was closed well."""

Tell = Callable[[int], None]


class Found(msgspec.Struct, frozen=True):
    """What one store of the ledger turned out to be."""

    store: str
    verdict: Verdict
    words: str
    acknowledged: int
    """Steps of its workload that the ledger knows to be acknowledged."""
    of: int


def write(settings: Settings, ledger: Ledger, tell: Tell) -> None:
    """Fill one store after the other below `settings.path`, until `seconds` are over or the power fails.

    `tell` hears how many there are. Raises `LedgerError` when the ledger is gone or a store fails, and
    `FileExistsError` if stores of an earlier time are there.
    """
    place = settings.path / DIRECTORY
    place.mkdir(mode=0o700)
    sync_directory(settings.path)  # Or a disk that keeps every store could be said to have lost them all.
    if settings.plant is not None:
        plant(settings.plant)
    end = time.monotonic() + settings.seconds
    number = 0
    while time.monotonic() < end:
        plan = plan_of(settings, number)
        ledger.announce(_name(number), plan)
        drive(plan, place / _name(number), ledger)
        ledger.check()
        shutil.rmtree(place / _name(number - KEPT), ignore_errors=True)
        number += 1
        tell(number)


def check(path: Path, chapters: Iterable[Chapter]) -> Iterator[Found]:
    """Compare the newest stores below `path` with the ledger, each as a copy: nothing there is changed.

    Raises `LedgerError` if nothing was written there, and what `chapters` raises.
    """
    newest = deque(chapters, maxlen=KEPT)
    if not (path / DIRECTORY).is_dir():
        raise LedgerError(
            f"there is no {DIRECTORY} in {path}: is that the disk that was written to, and is it mounted? "
            "If so, it has lost the whole directory, which it had reported as synced."
        )
    with Checker() as checker:
        for chapter in newest:
            yield _check_one(path / DIRECTORY, chapter, checker)


def _check_one(place: Path, chapter: Chapter, checker: Checker) -> Found:
    history = History(chapter.plan)
    history.feed_all(chapter.events)
    until, count = history.promise, chapter.plan.workload().count
    # What had begun is not known: the ledger may lack the last events. So any later step may be there.
    since = msgspec.structs.replace(until, started=count)
    copy = place / f"{chapter.store}.checked"
    shutil.rmtree(copy, ignore_errors=True)
    try:
        if (place / chapter.store).exists():
            shutil.copytree(place / chapter.store, copy)
        answer = checker.check(msgspec.structs.replace(chapter.plan, plant=None), copy)
        if isinstance(answer, Observation):
            verdict, words = history.judge(answer, since, until)
        else:
            verdict, words = answer
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    if verdict is Verdict.OK and Kind.LIED in history.told:
        verdict, words = Verdict.LOST, "a write was acknowledged after a failure"
    return Found(chapter.store, verdict, words, until.acknowledged, count)


def _name(number: int) -> str:
    return f"store-{number:06}"
