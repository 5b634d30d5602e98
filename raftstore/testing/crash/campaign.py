"""One run on one backend: lanes beside each other, each given new work when it is done with the last."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from raftstore.testing.crash.lane import Answer, Ready, Settings
from raftstore.testing.crash.method import Method
from raftstore.testing.crash.plants import plants_for
from raftstore.testing.crash.schedule import Goals, Order, Schedule
from raftstore.testing.crash.tally import Tally

PROGRESS_S: Final = 30.0
"""Between two lines that say how far it is."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is to do."""

    methods: Sequence[Method]
    plants: bool = True
    """Plant bugs first."""
    seconds: float
    """How long new work begins, after the plants; what the goals want goes on after that."""
    goals: Goals = Goals()
    lanes: int = 1


class Campaign:
    """`run` it once. `tally` is right at any time, and complete after it, also if it was interrupted."""

    def __init__(self, settings: Settings, work: Work) -> None:
        self._settings = settings
        self._work = work
        self._lock = threading.Lock()
        """Guards the four below."""
        self.tally = Tally()
        self._schedule: Schedule | None = None
        self._under_way = 0
        """Orders that were not answered yet."""
        self._is_over = False
        self._begin = time.monotonic()

    def run(self) -> None:
        """Until there is nothing more to do. Raises `SystemExit` if a lane dies."""
        lanes: list[subprocess.Popen[bytes]] = []
        threads: list[threading.Thread] = []
        try:
            for _ in range(self._work.lanes):
                lanes.append(_start(self._settings))
                threads.append(threading.Thread(target=self._serve, args=(lanes[-1],)))
                threads[-1].start()
            self._wait(threads)
        except BaseException:
            with self._lock:
                self.tally.notes.append("ended early")
            raise
        finally:
            with self._lock:
                self._is_over = True
            for lane in lanes:
                lane.terminate()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._note_sweeps()
            self._note_what_is_missing()
        if self._under_way or any(lane.returncode for lane in lanes):
            raise SystemExit(f"a lane of the crash tests ended with {[lane.returncode for lane in lanes]}")

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        told = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.2)
            if time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                self._say_progress()

    def _serve(self, lane: subprocess.Popen[bytes]) -> None:
        """Give the lane work until there is none; then it is gone."""
        with suppress(BrokenPipeError), lane:
            assert lane.stdin is not None
            assert lane.stdout is not None
            first = lane.stdout.readline()
            if first:
                self._take_ready(msgspec.json.decode(first, type=Ready))
            while first and (order := self._next()) is not None:
                lane.stdin.write(msgspec.json.encode(order) + b"\n")
                lane.stdin.flush()
                answer = lane.stdout.readline()
                if not answer:
                    break
                self._take(order, msgspec.json.decode(answer, type=Answer))

    def _take_ready(self, ready: Ready) -> None:
        """The first lane that is ready says what can be done here."""
        with self._lock:
            if self._schedule is not None:
                return
            methods = [method for method in self._work.methods if method.name not in ready.missing]
            self.tally.notes += [
                f"{method.name}: needs {ready.missing[method.name]}"
                for method in self._work.methods
                if method.name in ready.missing
            ]
            plants = [
                (method.name, plant.name)
                for method in methods
                for plant in plants_for(self._settings.backend)
                if self._work.plants and plant.name in method.plants
            ]
            self._schedule = Schedule(methods, plants, self._work.seconds, self._work.goals)

    def _next(self) -> Order | None:
        with self._lock:
            assert self._schedule is not None
            order = None if self._is_over else self._schedule.next(time.monotonic(), self.tally)
            self._under_way += order is not None
            return order

    def _take(self, order: Order, answer: Answer) -> None:
        with self._lock:
            assert self._schedule is not None
            self._under_way -= 1
            self._schedule.done(order, answer.seconds)
            self.tally.merge(answer.tally)
        for planted in answer.tally.planted:
            self._say(f"{planted.method}: {planted.name}: {planted.verdict or 'NOT CAUGHT'}")

    def _note_sweeps(self) -> None:
        for method in self._work.methods:
            done = self.tally.swept_by(method.name)
            if method.rounds is not None and done < method.rounds:
                note = f"{method.name}: {done} of {method.rounds} parts of going through every call"
                self.tally.notes.append(note)

    def _note_what_is_missing(self) -> None:
        """Methods that had no time, and goals that were not reached."""
        goals, tally = self._work.goals, self.tally
        names = [] if self._schedule is None else self._schedule.not_begun
        tally.notes += [f"{name}: no time" for name in names]
        counts = ((tally.unique, goals.images, "images"), (tally.kills, goals.kills, "kills"))
        tally.notes += [f"{count} of {goal} {what}" for count, goal, what in counts if count < goal]

    def _say(self, words: str) -> None:
        print(f"{self._settings.backend}: {words}", file=sys.stderr, flush=True)

    def _say_progress(self) -> None:
        with self._lock:
            tally, faults = self.tally, sum(self.tally.faults.values())
            counts = [f"{tally.unique} images", f"{tally.kills} kills", f"{faults} faults"]
            counts += [
                f"{method.name} {tally.swept_by(method.name)} of {method.rounds}"
                for method in self._work.methods
                if method.rounds is not None
            ]
            counts += [f"{len(tally.failures)} FAILURES"] if tally.failures else []
        self._say(f"{time.monotonic() - self._begin:.0f} s: {', '.join(counts)}")


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    """A lane in a session of its own: an interrupt from the keyboard is for us."""
    return subprocess.Popen(
        [sys.executable, "-m", "raftstore.testing.crash.lane", msgspec.json.encode(settings).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
        start_new_session=True,
    )
