"""Where the microseconds of missed appends go, and what compiling would give: `python -m benchmarks.profile`.

For each row: the layers that hold the interpreter's lock (py-spy), the system calls (strace), and the same
row with every module of the hot path compiled by Cython, in a copy that is removed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Final

from benchmarks.appends import APPENDS
from benchmarks.bench import Bench
from benchmarks.compiled import compile_hot_path, copy_code, run_rows
from benchmarks.layers import shares_by_layer, system_calls
from benchmarks.machine import describe
from benchmarks.native import UnavailableError
from benchmarks.profiled import Profile, Profiled, tables, write_profile
from benchmarks.result import Result, read_report
from benchmarks.targets import DEFAULT_JSON, directory_on, end

OURS: Final = "ours"
LIMIT: Final = "limit, µs a write"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    rows = options.only or missed(options.json)
    if unknown := set(rows) - set(APPENDS):
        raise SystemExit(f"only appends are profiled, not {', '.join(sorted(unknown))}")
    with directory_on(options.path) as directory:
        try:
            found = profile(rows, directory, passes=options.passes)
        except UnavailableError as reason:
            raise SystemExit(f"this cannot be profiled here: {reason}") from reason
    write_profile(options.json, found)
    print("\n".join(tables(found)))
    return 0


def missed(json: Path) -> list[str]:
    """The appends that miss their target in the results."""
    results = {result.name: result for run in read_report(json).runs for result in run.results}
    return [name for name in APPENDS if name in results and results[name].is_met is False]


def profile(rows: Sequence[str], directory: Path, *, passes: int) -> Profile:
    with Bench(directory, quick=True) as bench, bench.new_path_removed() as home:
        machine = describe(directory, bench)
        shares = {row: shares_by_layer(bench, row) for row in rows}
        calls = {row: system_calls(bench, row) for row in rows}
        home.mkdir()
        plain, compiled = copy_code(home / "plain"), copy_code(home / "compiled")
        compile_hot_path(compiled)
        ours: list[dict[str, Result]] = []
        theirs: list[dict[str, Result]] = []
        for _ in range(passes):
            ours.append(run_rows(plain, rows, home))
            theirs.append(run_rows(compiled, rows, home))
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    found = [
        _profiled([p[row] for p in ours], [p[row] for p in theirs], shares[row], calls[row]) for row in rows
    ]
    return Profile(when, machine, found)


def _profiled(
    ours: list[Result], compiled: list[Result], shares: dict[str, float], calls: dict[str, float]
) -> Profiled:
    ours_us = _beside(ours, OURS)
    return Profiled(
        name=ours[0].name,
        target=ours[0].target,
        layers={layer: share * ours_us for layer, share in shares.items()},
        calls=calls,
        limit_us=_beside(ours, LIMIT),
        ours_us=ours_us,
        compiled_us=_beside(compiled, OURS),
        ratio=median(value for result in ours for value in result.values),
        compiled_ratio=median(value for result in compiled for value in result.values),
    )


def _beside(results: list[Result], name: str) -> float:
    return mean(float(result.beside[name]) for result in results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these rows, missed or not")
    parser.add_argument("--passes", type=int, default=2, help="quick runs of each kind, in turn")
    parser.add_argument("--path", type=Path, help="a directory on the disk to be measured")
    parser.add_argument(
        "--json", type=Path, default=DEFAULT_JSON, help="results; the profile comes beside it"
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main(sys.argv[1:]))
