"""A lane: a process that does one piece of work after the other, beside other lanes.

`python -m raftstore.testing.crash.lane SETTINGS`. It says what it can do, then reads orders, a line each, and
answers each with what it counted. When a signal ends it, it answers with what it has, and leaves nothing
behind.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_mount import CannotMountError, enter_private_mounts
from raftstore.testing.crash.method import Method, Round
from raftstore.testing.crash.methods import METHODS, method_named
from raftstore.testing.crash.plants import Plant, plants_for
from raftstore.testing.crash.powercut import Explorer
from raftstore.testing.crash.schedule import Order
from raftstore.testing.crash.tally import Failure, Planted, Tally


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What all lanes of one run on one backend share."""

    backend: str
    seed: int = 1
    shim: str | None = None
    """The library that records and fails calls, if there is one."""
    keep_in: str | None = None
    """A directory for the images of failures."""


class Ready(msgspec.Struct, frozen=True):
    """The first answer: of each method that cannot run here, what it needs."""

    missing: dict[str, str]


class Answer(msgspec.Struct, frozen=True):
    """What was counted for one order, and how long that took."""

    seconds: float
    tally: Tally


class Lane:
    """Does orders on a `Bench`, and counts in its tally."""

    def __init__(self, settings: Settings, bench: Bench) -> None:
        self._settings = settings
        self._bench = bench
        keep_in = Path(settings.keep_in) if settings.keep_in is not None else None
        self._explorer = Explorer(bench.lab, bench.checker, bench.tally, keep_in)

    def do(self, order: Order) -> None:
        """One piece of work."""
        method = method_named(order.method)
        if order.plant is not None:
            plants = {plant.name: plant for plant in plants_for(self._settings.backend)}
            self.catch(method, plants[order.plant])
            return
        self._bench.deadline = float("inf") if order.until is None else order.until
        method.run(self._round(order.number))

    def catch(self, method: Method, plant: Plant) -> None:
        """Run the method on a planted bug until it finds what that must show, on a tally of its own."""

        def signs(tally: Tally) -> list[Failure]:
            return [f for f in tally.failures if plant.is_shown_by(f.verdict, f.words)]

        rounds, found, others = 0, list[Failure](), list[Failure]()
        with self._planting(lambda tally: bool(signs(tally))) as own:
            explorer = Explorer(self._bench.lab, self._bench.checker, own)
            while rounds < method.tries and not found:
                method.run(self._round(rounds, plant, explorer))
                rounds += 1
                found = signs(own)
                others += own.take().failures
        verdict = found[0].verdict if found else None
        words = found[0].words if found else "".join(f"{f.verdict}: {f.words}" for f in others[:1])
        self._bench.tally.planted.append(Planted(method.name, plant.name, verdict, words[:300], rounds))

    def _round(self, number: int, plant: Plant | None = None, explorer: Explorer | None = None) -> Round:
        settings = self._settings
        explorer = explorer or self._explorer
        return Round(self._bench, explorer, settings.backend, settings.seed, number, plant)

    @contextmanager
    def _planting(self, is_enough: Callable[[Tally], bool]) -> Generator[Tally]:
        """A tally for a planted bug, no limit of time, and processes without any bug before and after it."""
        bench = self._bench
        tally, own = bench.tally, Tally()
        bench.tally, bench.deadline = own, float("inf")
        usual, bench.is_enough = bench.is_enough, is_enough
        bench.checker.renew()
        try:
            yield own
        finally:
            bench.tally, bench.is_enough = tally, usual
            bench.checker.renew()


def main() -> None:
    """Serve until the input ends, or a signal comes."""
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    end_by_signals()
    with suppress(CannotMountError):
        enter_private_mounts()
    with suppress(BrokenPipeError), Bench(None if settings.shim is None else Path(settings.shim)) as bench:
        needs = {method.name: method.needs(bench) for method in METHODS}
        _say(Ready({name: missing for name, missing in needs.items() if missing is not None}))
        _serve(Lane(settings, bench), bench)


def end_by_signals() -> None:
    """From here on, the first SIGTERM, SIGINT or SIGHUP raises `SystemExit`, and later ones do nothing.

    A SIGHUP that is ignored, as under `nohup`, stays ignored.
    """

    def end(number: int, _frame: object) -> None:
        _at_signals(signal.SIG_IGN)
        sys.exit(128 + number)

    _at_signals(end)


def _at_signals(action: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, action)


def _serve(lane: Lane, bench: Bench) -> None:
    begin = time.monotonic()
    try:
        for line in sys.stdin.buffer:
            begin = time.monotonic()
            lane.do(msgspec.json.decode(line, type=Order))
            _say(Answer(time.monotonic() - begin, bench.tally.take()))
    except SystemExit:
        _say(Answer(time.monotonic() - begin, bench.tally.take()))
    _at_signals(signal.SIG_IGN)  # nothing interrupts the tidying up


def _say(message: Ready | Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
