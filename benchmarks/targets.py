"""Measure the performance targets and write the page: `python -m benchmarks.targets --help`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import slow_disk
from benchmarks.appends import APPENDS
from benchmarks.bench import Bench
from benchmarks.machine import describe
from benchmarks.native import UnavailableError
from benchmarks.page import REASONS, write_page
from benchmarks.result import Result, Run, read_report, write_report
from benchmarks.rows import ROWS, Row
from raftstore.errors import BackendMissingError

DEFAULT_JSON: Final = Path(__file__).with_name("results.json")


def command(*arguments: str) -> None:
    """Run as a program, ended by SIGTERM as by an interrupt: everything that was made is removed."""
    signal.signal(signal.SIGTERM, end)
    sys.exit(main([*arguments, *sys.argv[1:]]))


def main(arguments: Sequence[str]) -> int:
    """The command. Status 0 also when targets are missed: they are numbers, not tests. 1 if a row failed."""
    options = _parser().parse_args(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.name:16} {row.title}{'  (only with --only)' if row.is_apart else ''}")
        return 0
    if options.sync_us and not slow_disk.is_simulated(options.sync_us):
        return _on_a_slow_disk(options.sync_us, arguments)
    status = 0 if options.page_only else _measure_and_keep(options)
    if options.report is not None:
        write_page(options.report, options.json, REASONS)
    return status


def _on_a_slow_disk(sync_us: int, arguments: Sequence[str]) -> int:
    try:
        return slow_disk.run_again(sync_us, arguments)
    except UnavailableError as reason:
        raise SystemExit(f"--sync-us cannot simulate a slow disk here: {reason}") from reason


def _measure_and_keep(options: argparse.Namespace) -> int:
    rows, json, share = _chosen(options.only), options.json, 1
    if options.sync_us:
        rows = [row for row in rows if row.name in APPENDS]
        json, share = slow_disk.report_path(json, options.sync_us), slow_disk.SHARE
    with directory_on(options.path) as directory:
        run = measure(rows, directory, quick=options.quick, share=share)
    write_report(json, read_report(json).with_run(run))
    return int(any(result.failed for result in run.results))


def measure(rows: Sequence[Row], directory: Path, *, quick: bool, share: int = 1) -> Run:
    """Every row, one after the other, told on stderr as they come; `share` times fewer rounds."""
    results: list[Result] = []
    with Bench(directory, quick=quick, share=share) as bench:
        machine = describe(directory, bench)
        for row in rows:
            results.append(_measure(row, bench))
            _tell(results[-1])
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Run(when=when, machine=machine, quick=quick, results=results)


def _measure(row: Row, bench: Bench) -> Result:
    """A row that cannot be measured here is skipped with its reason; one that fails does not end the run."""
    command = shlex.join(["python", "-m", "benchmarks.targets", "--only", row.name])
    started = time.perf_counter()
    try:
        outcome = row.run(bench)
    except (UnavailableError, BackendMissingError) as reason:
        return Result(row.name, row.target, command=command, skipped=str(reason))
    except Exception as error:  # noqa: BLE001  (a long run keeps what it has)
        traceback.print_exc()
        return Result(row.name, row.target, command=command, failed=repr(error))
    seconds = time.perf_counter() - started
    return Result(row.name, row.target, outcome.values, outcome.beside, command, seconds)


def _tell(result: Result) -> None:
    if not result.values:
        print(f"{result.name:16} not measured: {result.skipped or result.failed}", file=sys.stderr)
        return
    verdict = "met" if result.is_met else "MISSED"
    target = f"{result.target.kind} {result.target.bound:g} {result.target.unit}".rstrip()
    print(
        f"{result.name:16} {result.median:10.4g}  ({target})  {verdict:6}  {result.seconds:.1f} s",
        file=sys.stderr,
        flush=True,
    )


def _chosen(names: Sequence[str]) -> list[Row]:
    known = {row.name for row in ROWS}
    if unknown := set(names) - known:
        raise SystemExit(
            f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return [row for row in ROWS if (row.name in names if names else not row.is_apart)]


def end(number: int, _frame: object) -> None:
    """For SIGTERM: leave as after an interrupt, so that everything that was made is removed."""
    raise SystemExit(128 + number)


@contextmanager
def directory_on(path: Path | None) -> Iterator[Path]:
    """`path`, or a temporary directory."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raftstore-benchmarks-") as name:
        yield Path(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these rows; see --list")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the rounds, entries and time: to try it out"
    )
    parser.add_argument(
        "--sync-us",
        type=int,
        default=0,
        metavar="N",
        help="simulate a disk whose syncs take N microseconds more, for the limit and for raftstore; only "
        "the rows of appends, asyncio and threads, kept in a file of their own beside --json",
    )
    parser.add_argument(
        "--path", type=Path, help="a directory on the disk to be measured; a temporary one without"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=DEFAULT_JSON,
        help="where results are kept; those of rows that are not run now stay",
    )
    parser.add_argument("--report", type=Path, help="write the page, usually docs/PERFORMANCE.md")
    parser.add_argument(
        "--page-only", action="store_true", help="measure nothing, write the page from the JSON"
    )
    return parser


if __name__ == "__main__":
    command()
