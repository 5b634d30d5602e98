"""`python -m raftstore.testing.rot`: many cases, and their numbers. Exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from raftstore.testing.arguments import at_least, backend, file_to_write
from raftstore.testing.rot.plants import PLANTS
from raftstore.testing.rot.run import Result, examine_rot


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.rot", description=__doc__)
    parser.add_argument("--backend", type=backend, default="segmented")
    parser.add_argument("--cases", type=at_least(1), default=3000)
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    parser.add_argument("--jobs", type=at_least(1), default=2, help="helper processes")
    parser.add_argument(
        "--verify-every", type=at_least(1), default=4, help="verify each so manieth store too"
    )
    parser.add_argument("--plant", choices=sorted(PLANTS), default=None, help="a bug to plant")
    parser.add_argument("--keep", type=Path, default=None, help="where to keep the stores that failed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--report", type=file_to_write, default=None, help="write the JSON there, too")
    given = parser.parse_args()
    result = examine_rot(
        given.backend,
        cases=given.cases,
        seed=int(time.time()) if given.seed is None else given.seed,
        jobs=given.jobs,
        verify_every=given.verify_every,
        plant=given.plant,
        keep=given.keep,
    )
    written = msgspec.json.format(msgspec.json.encode(result)) + b"\n"
    if given.report is not None:
        given.report.write_bytes(written)
    if given.json:
        sys.stdout.buffer.write(written)
    else:
        _show(result)
    sys.exit(1 if result.bad else 0)


def _show(result: Result) -> None:
    print(f"{result.backend}: {result.cases} faults in {result.seconds} s, seed {result.seed}")
    print("  " + ", ".join(f"{count} {name}" for name, count in sorted(result.outcomes.items())))
    for kind, table in sorted(result.by_kind.items()):
        print(f"  {kind:17}" + ", ".join(f"{count} {name}" for name, count in sorted(table.items())))
    for failure in result.failures:
        print(f"  {failure.outcome}: {failure.rest} {failure.store}/{failure.number} {failure.kind}")
        print(f"    {failure.words}")


if __name__ == "__main__":
    main()
