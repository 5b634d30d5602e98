"""`python -m raftstore.testing.linearizability FILE`: check recorded histories, one JSON object a line.

Exit status 0: linearizable; 1: not, the operations are shown; 2: no history, or undecided."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from raftstore.testing.linearizability.history import History, HistoryError
from raftstore.testing.linearizability.search import CONFIGURATIONS_MAX
from raftstore.testing.linearizability.verdict import check


def main() -> int:
    """The command."""
    arguments = _parser().parse_args()
    statuses = [_check(path, arguments.configurations_max) for path in arguments.files]
    return 1 if 1 in statuses else max(statuses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.linearizability", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--configurations-max",
        type=int,
        default=CONFIGURATIONS_MAX,
        help="give up on a key after so many (default: %(default)s)",
    )
    return parser


def _check(path: Path, configurations_max: int) -> int:
    try:
        verdict = check(History.load(path).operations, configurations_max)
    except (HistoryError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    print(f"{path}: {verdict.as_text()}")
    return 1 if verdict.violations else 2 if verdict.undecided else 0


if __name__ == "__main__":
    sys.exit(main())
