"""The process that fills a disk: it makes calls on a log and on a model of it, and tells of each.

`python -m raftstore.testing.crash.fuse_story PLAN PATH EVENTS`. When appends are refused, hard state,
metadata and a purge must go through; when there is room again, appends must too. (A disk on which not one
append fits never had room for a reserve: there, only that appends resume is asked for.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from raftstore.entry import Entry, HardState
from raftstore.errors import BackpressureError, RaftStoreError, StoreFullError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.testing.crash.events import Kind, Reporter
from raftstore.testing.crash.fuse_diary import FILLER
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import plant
from raftstore.testing.crash.workload import META_KEYS, digest
from raftstore.testing.log_model import LogModel
from raftstore.testing.tools import visible_state

RESUME_S: Final = PATIENCE_S / 4
"""So long after there is room again, appends may still be refused."""
APPENDS: Final = 40
"""After so many the disk counts as large enough."""
SIZES: Final = (40, 900, 20_000)
"""Of entries, in bytes."""


class Told(msgspec.Struct, frozen=True):
    """What the process says of itself in the end."""

    filled: bool
    """The disk was full once."""
    digests: list[bytes]
    """Of the state after each call that was done, the first before any."""
    wrong: str = ""


class WrongError(Exception):
    """Something that must not happen on a full disk."""


class _Story:
    """Makes calls on a log and on a model of it, and tells of each by its number."""

    def __init__(self, plan: Plan, path: Path, reporter: Reporter) -> None:
        self._config = plan.config(path)
        self._filler = path.with_name(FILLER)
        self._tell = reporter.tell
        self._random = Random(plan.seed)
        self._model = LogModel()
        self.digests = [digest(self._model.state())]
        self.filled = False

    def tell(self) -> None:
        """All of it. Raises `WrongError`, or whatever else must not happen."""
        self._log = self._open()
        with self._log:
            self._fill()
            if self.filled and self._log.durable_index:
                self._live_on_the_reserve()
            self._give_room()
            for _ in range(4):
                self._await_room(self._append)
            self._log.flush()
            if visible_state(self._log, META_KEYS) != self._model.state():
                raise WrongError("the log is not what was done")

    def _open(self) -> RaftLog:
        try:
            return open_log(self._config)
        except (OSError, RaftStoreError):
            self.filled = True
            self._give_room()
            return open_log(self._config)

    def _fill(self) -> None:
        try:
            for number in range(APPENDS):
                self._append()
                if number % 6 == 5:
                    self._vote()
                if number % 16 == 15:
                    self._purge()
        except (StoreFullError, BackpressureError):
            self.filled = True

    def _live_on_the_reserve(self) -> None:
        """What makes room, and what elections need, goes through, again and again."""
        for _ in range(3):
            self._must(self._vote)
            self._must(lambda: self._do("put_meta", "a", b"%d" % len(self.digests)))
        self._must(self._purge)
        for _ in range(4):
            try:
                self._append()
            except (StoreFullError, BackpressureError):
                break
        self._must(self._vote)

    def _must(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (StoreFullError, BackpressureError) as error:
            raise WrongError(
                f"refused on a full disk, though it takes no room for entries: {error}"
            ) from error

    def _give_room(self) -> None:
        self._filler.unlink(missing_ok=True)

    def _await_room(self, call: Callable[[], None]) -> None:
        end = time.monotonic() + RESUME_S
        while True:
            try:
                return call()
            except (StoreFullError, BackpressureError) as error:
                if time.monotonic() >= end:
                    raise WrongError(f"there is room again, but: {error}") from error
                time.sleep(0.05)

    def _append(self) -> None:
        last, term = self._model.last, max(1, self._model.last.term)
        data = [self._random.randbytes(self._random.choice(SIZES)) for _ in range(3)]
        self._do("append", [Entry(term, last.index + 1 + number, d) for number, d in enumerate(data)])

    def _vote(self) -> None:
        now = self._model.hard_state
        self._do("save_hard_state", HardState(now.term + 1, "n1", now.commit))

    def _purge(self) -> None:
        """Of what is durable: what is not takes room before it can be dropped."""
        middle = (self._model.anchor.index + self._model.last_index) // 2
        self._do("purge", max(self._model.anchor.index, min(middle, self._log.durable_index)))

    def _do(self, call: str, *arguments: Any) -> None:
        """On the log, then on the model. It is told as done when all that was accepted is durable."""
        number = len(self.digests)
        self._tell(Kind.STARTED, number)
        try:
            getattr(self._log, call)(*arguments)
        except (StoreFullError, BackpressureError):
            self._tell(Kind.REFUSED, number)
            raise
        getattr(self._model, call)(*arguments)
        self.digests.append(digest(self._model.state()))
        if call == "append":
            self._log.flush()
        if not self._log.status().pending_entries:
            self._tell(Kind.RETURNED, number)


def main() -> None:
    """Run the story of the plan, path and file of events that are given; print `Told`."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    if plan.plant is not None:
        plant(plan.plant)
    story = _Story(plan, Path(sys.argv[2]), Reporter(Path(sys.argv[3])))
    wrong = ""
    try:
        story.tell()
    except (OSError, RaftStoreError, WrongError) as error:
        wrong = f"{type(error).__name__}: {error}"
    sys.stdout.buffer.write(msgspec.json.encode(Told(story.filled, story.digests, wrong)))


if __name__ == "__main__":
    main()
