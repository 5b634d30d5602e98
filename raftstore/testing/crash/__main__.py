"""`python -m raftstore.testing.crash`: crashes and faults, on one backend after the other. Exit status 1 if a
promise is broken or a planted bug is not caught. Ended by a signal, it still tells what it counted."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from raftstore.testing.arguments import at_least, backend, file_to_write
from raftstore.testing.crash.campaign import Campaign, Work
from raftstore.testing.crash.lane import Settings, end_by_signals
from raftstore.testing.crash.methods import METHODS, USUAL, method_named
from raftstore.testing.crash.record import CannotRecordError, build_shim
from raftstore.testing.crash.report import Images, Outcome, as_text, outcome_of, report, save
from raftstore.testing.crash.schedule import Goals

NAMES: Final = tuple(method.name for method in METHODS)


def main() -> int:
    """The command."""
    arguments = _parser().parse_args()
    end_by_signals()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    outcomes: list[Outcome] = []
    images: dict[str, dict[str, set[int]]] = {}
    with tempfile.TemporaryDirectory(prefix="raftstore-shim-") as directory:
        shim, notes = _shim(Path(directory))
        for backend in arguments.backend:
            begin = time.monotonic()
            settings = Settings(backend=backend, seed=seed, shim=shim, keep_in=arguments.keep)
            campaign = Campaign(settings, _work(arguments))
            try:
                campaign.run()
            finally:
                campaign.tally.notes += notes
                outcomes.append(outcome_of(backend, seed, time.monotonic() - begin, campaign.tally))
                images[backend] = campaign.tally.images
                _tell(arguments, outcomes, images)
    whole = report(outcomes)
    if arguments.json:
        print(msgspec.json.encode(whole).decode())
    return int(whole.has_failed)


def _tell(arguments: argparse.Namespace, outcomes: list[Outcome], images: Images) -> None:
    """Print the last of the outcomes, and write down what is there so far."""
    text = as_text(report(outcomes[-1:]))
    print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.report is not None:
        save(arguments.report, report(outcomes), images)


def _work(arguments: argparse.Namespace) -> Work:
    names = arguments.method or (NAMES if arguments.soak else USUAL)
    return Work(
        methods=[method_named(name) for name in names],
        plants=not arguments.no_plants,
        seconds=arguments.seconds,
        goals=Goals(arguments.images, arguments.kills, arguments.sweeps),
        lanes=arguments.lanes,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.crash", description=__doc__)
    parser.add_argument(
        "--backend", type=backend, action="append", required=True, help="a registered backend; repeatable"
    )
    parser.add_argument("--method", action="append", choices=NAMES, help="repeatable; default: all usual")
    parser.add_argument("--soak", action="store_true", help="the slow methods, too, if none is named")
    parser.add_argument("--no-plants", action="store_true", help="plant no bugs first")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each backend, after the plants")
    goals = parser.add_argument_group("goals", "of each backend; a run goes on until they are reached")
    goals.add_argument("--images", type=int, default=0, help="so many different ones")
    goals.add_argument("--kills", type=int, default=0, help="so many")
    goals.add_argument("--sweeps", action="store_true", help="every call of a workload failed in every way")
    parser.add_argument("--seed", type=int, help="default: the time")
    parser.add_argument(
        "--lanes", type=at_least(1), default=2 * (os.cpu_count() or 1), help="processes beside each other"
    )
    parser.add_argument("--keep", metavar="DIR", help="keep the images of failures there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--report",
        type=file_to_write,
        metavar="FILE",
        help="write the report there: JSON, and beside it the images' names",
    )
    return parser


def _shim(directory: Path) -> tuple[str | None, list[str]]:
    try:
        return str(build_shim(directory)), []
    except CannotRecordError as error:
        return None, [str(error)]


if __name__ == "__main__":
    sys.exit(main())
