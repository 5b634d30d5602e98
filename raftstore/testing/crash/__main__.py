"""`python -m raftstore.testing.crash`: crashes and faults, on one backend after the other. Exit status 1 if a
promise is broken or a planted bug is not caught."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from raftstore.testing.crash.block_mount import CannotMountError, enter_private_mounts
from raftstore.testing.crash.campaign import Settings, run_lane
from raftstore.testing.crash.methods import METHODS, USUAL
from raftstore.testing.crash.record import CannotRecordError, build_shim
from raftstore.testing.crash.report import Images, Outcome, as_text, outcome_of, report, save
from raftstore.testing.crash.tally import Tally

NAMES: Final = tuple(method.name for method in METHODS)


def main() -> int:
    """The command."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _end)
    if arguments.lane is not None:
        return _be_lane(arguments.lane, arguments.shim)
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    outcomes: list[Outcome] = []
    images: dict[str, dict[str, set[int]]] = {}
    with tempfile.TemporaryDirectory(prefix="raftstore-shim-") as directory:
        shim, notes = _shim(Path(directory))
        for backend in arguments.backend:
            begin = time.monotonic()
            settings = Settings(
                backend=backend,
                methods=arguments.method or (NAMES if arguments.soak else USUAL),
                plants=not arguments.no_plants,
                seconds=arguments.seconds,
                images=arguments.images,
                seed=seed,
                lanes=arguments.lanes,
                keep_in=arguments.keep,
            )
            tally = _run_lanes(settings, shim)
            tally.notes += notes
            outcomes.append(outcome_of(backend, seed, time.monotonic() - begin, tally))
            images[backend] = tally.images
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
        save(Path(arguments.report), report(outcomes), images)


def _end(_number: int, _frame: object) -> None:
    """Leave every context, so that no process and no file stays behind."""
    sys.exit("ended by a signal")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.crash", description=__doc__)
    parser.add_argument("--backend", action="append", required=True, help="a registered backend; repeatable")
    parser.add_argument("--method", action="append", choices=NAMES, help="repeatable; default: all usual")
    parser.add_argument("--soak", action="store_true", help="the slow methods, too, if none is named")
    parser.add_argument("--no-plants", action="store_true", help="plant no bugs first")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each backend, after the plants")
    parser.add_argument("--images", type=int, help="end after so many different images")
    parser.add_argument("--seed", type=int, help="default: the time")
    parser.add_argument(
        "--lanes", type=int, default=2 * (os.cpu_count() or 1), help="processes beside each other"
    )
    parser.add_argument("--keep", metavar="DIR", help="keep the images of failures there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--report", metavar="FILE", help="write the report there: JSON, and beside it the images' names"
    )
    parser.add_argument("--lane", help=argparse.SUPPRESS)
    parser.add_argument("--shim", help=argparse.SUPPRESS)
    return parser


def _shim(directory: Path) -> tuple[Path | None, list[str]]:
    try:
        return build_shim(directory), []
    except CannotRecordError as error:
        return None, [str(error)]


def _run_lanes(settings: Settings, shim: Path | None) -> Tally:
    """All lanes beside each other, each in a process of its own."""
    lanes = [_start(msgspec.structs.replace(settings, lane=lane), shim) for lane in range(settings.lanes)]
    whole = Tally()
    try:
        for lane in lanes:
            output, _ = lane.communicate()
            if lane.returncode:
                raise SystemExit(f"a lane of the crash tests ended with {lane.returncode}")
            whole.merge(msgspec.json.decode(output, type=Tally))
    finally:
        for lane in lanes:
            lane.terminate()
            lane.wait()
    return whole


def _start(settings: Settings, shim: Path | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "raftstore.testing.crash", "--backend", settings.backend]
    command += ["--lane", msgspec.json.encode(settings).decode()]
    if shim is not None:
        command += ["--shim", str(shim)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _be_lane(settings: str, shim: str | None) -> int:
    decoded = msgspec.json.decode(settings, type=Settings)
    with suppress(CannotMountError):
        enter_private_mounts()
    tally = run_lane(decoded, None if shim is None else Path(shim))
    sys.stdout.buffer.write(msgspec.json.encode(tally))
    return 0


if __name__ == "__main__":
    sys.exit(main())
