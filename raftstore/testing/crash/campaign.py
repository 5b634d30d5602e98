"""What one lane of a run does: each method of the table in its share of the time, until that is up.

Lanes are processes beside each other; lane k of n takes every nth round of each method.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.method import Method, Round
from raftstore.testing.crash.methods import USUAL, method_named
from raftstore.testing.crash.plants import Plant, plants_for
from raftstore.testing.crash.powercut import Explorer
from raftstore.testing.crash.tally import Planted, Tally


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One run on one backend."""

    backend: str
    methods: Sequence[str] = USUAL
    plants: bool = True
    """Plant bugs first."""
    seconds: float
    """How long a lane may begin new work, after the plants."""
    images: int | None = None
    """End after about so many different images."""
    seed: int = 1
    lane: int = 0
    lanes: int = 1
    keep_in: str | None = None


class Lane:
    """Does the work of one lane on a `Bench`."""

    def __init__(self, settings: Settings, bench: Bench) -> None:
        self._settings = settings
        self._bench = bench
        self._methods = self._possible()
        keep_in = Path(settings.keep_in) if settings.keep_in is not None else None
        self._explorer = Explorer(bench.lab, bench.checker, bench.tally, keep_in)

    def run(self) -> Tally:
        """Until the time is up, or until there are images enough."""
        bench, settings = self._bench, self._settings
        if settings.plants:
            for method, plant in self._plants()[settings.lane :: settings.lanes]:
                self.catch(method, plant)
        bench.deadline = time.monotonic() + settings.seconds
        bench.is_enough = self._has_images_enough
        used = dict.fromkeys(self._methods, 0.0)
        number = dict.fromkeys(self._methods, settings.lane)
        while used and not bench.is_over:
            method = min(used, key=lambda method: used[method] / method.share)
            if method.rounds is not None and number[method] >= method.rounds:
                del used[method]
                continue
            begin = time.monotonic()
            method.run(self._round(number[method]))
            used[method] += time.monotonic() - begin
            number[method] += settings.lanes
        self._note_unfinished(list(used), number)
        return bench.tally

    def _possible(self) -> list[Method]:
        """The methods that were chosen, but for those that cannot run here: that is noted."""
        possible: list[Method] = []
        for name in self._settings.methods:
            method = method_named(name)
            missing = method.needs(self._bench)
            if missing is None:
                possible.append(method)
            else:
                self._bench.tally.notes.append(f"{method.name}: needs {missing}")
        return possible

    def _plants(self) -> list[tuple[Method, Plant]]:
        plants = plants_for(self._settings.backend)
        return [(m, plant) for m in self._methods for plant in plants if plant.name in m.plants]

    def _note_unfinished(self, methods: Sequence[Method], number: dict[Method, int]) -> None:
        for method in methods:
            if method.rounds is not None and number[method] < method.rounds:
                done = number[method] // self._settings.lanes * self._settings.lanes
                self._bench.tally.notes.append(f"{method.name}: after about {done} of {method.rounds} rounds")

    def _has_images_enough(self, tally: Tally) -> bool:
        wanted = self._settings.images
        return wanted is not None and sum(map(len, tally.images.values())) >= wanted / self._settings.lanes

    def _round(self, number: int, plant: Plant | None = None, explorer: Explorer | None = None) -> Round:
        settings = self._settings
        explorer = explorer or self._explorer
        return Round(self._bench, explorer, settings.backend, settings.seed, number, plant)

    # --- plants ------------------------------------------------------------------------------------------

    def catch(self, method: Method, plant: Plant) -> None:
        """Run the method on a planted bug until it finds something wrong, on a tally of its own."""
        with self._planting() as own:
            explorer = Explorer(self._bench.lab, self._bench.checker, own)
            for number in range(method.tries):
                method.run(self._round(number, plant, explorer))
                if own.failures:
                    break
        verdict = own.failures[0].verdict if own.failures else None
        words = own.failures[0].words[:300] if own.failures else ""
        result = verdict or "NOT CAUGHT"
        print(f"{self._settings.backend}: {method.name}: {plant.name}: {result}", file=sys.stderr)
        self._bench.tally.planted.append(Planted(method.name, plant.name, verdict, words))

    @contextmanager
    def _planting(self) -> Generator[Tally]:
        """A tally for a planted bug, and processes without any before and after it."""
        bench = self._bench
        tally, own = bench.tally, Tally()
        bench.tally = own
        is_enough, bench.is_enough = bench.is_enough, _has_failed
        bench.checker.renew()
        try:
            yield own
        finally:
            bench.tally, bench.is_enough = tally, is_enough
            bench.checker.renew()


def run_lane(settings: Settings, shim: Path | None) -> Tally:
    """All that `settings` ask of one lane."""
    with Bench(shim) as bench:
        return Lane(settings, bench).run()


def _has_failed(tally: Tally) -> bool:
    return bool(tally.failures)
