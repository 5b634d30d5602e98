"""Whether one system call a durable write beats two here: `python -m benchmarks.dsync [--path DIR]`.

Microseconds of a durable write into a file that was filled with zeros before: `pwrite` and `fdatasync`, as
`segmented` does it, and `pwritev` with RWF_DSYNC. They take turns; the medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

MIB: Final = 1 << 20
FILE_BYTES: Final = 32 * MIB
SIZES: Final = (64, 1024, 4096, 64 * 1024)
ROUNDS: Final = 9
WRITES: Final = 200
"""Of one size, one way, in one round."""

Write = Callable[[int, bytes, int], object]
"""Makes bytes durable in an open file, at an offset."""


def two_calls(file: int, data: bytes, offset: int) -> None:
    os.pwrite(file, data, offset)
    os.fdatasync(file)


def one_call(file: int, data: bytes, offset: int) -> None:
    os.pwritev(file, [data], offset, os.RWF_DSYNC)


WAYS: Final[Mapping[str, Write]] = {"pwrite + fdatasync": two_calls, "pwritev(RWF_DSYNC)": one_call}


def zeroed(path: Path) -> int:
    """A new open file whose blocks all are written, so that no write needs a new one."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    for start in range(0, FILE_BYTES, MIB):
        os.pwrite(file, bytes(MIB), start)
    os.fsync(file)
    return file


def micros(write: Write, file: int, size: int, writes: int) -> float:
    """Of one write, on average, one after the other from the beginning of the file."""
    data = os.urandom(size)
    started = perf_counter()
    for number in range(writes):
        write(file, data, number * size % FILE_BYTES)
    return 1e6 * (perf_counter() - started) / writes


def measure(directory: Path, rounds: int, writes: int) -> dict[int, dict[str, float]]:
    """Microseconds of a write, by size and way: the median over the rounds."""
    found: dict[tuple[int, str], list[float]] = {}
    file = zeroed(directory / "file")
    try:
        for number in range(rounds):
            for size in SIZES:
                for name in list(WAYS)[:: -1 if number % 2 else 1]:
                    found.setdefault((size, name), []).append(micros(WAYS[name], file, size, writes))
    finally:
        os.close(file)
    return {size: {name: median(found[size, name]) for name in WAYS} for size in SIZES}


def table(found: Mapping[int, Mapping[str, float]]) -> Sequence[str]:
    head = f"{'bytes a write':>13}" + "".join(f"{name:>22}" for name in WAYS)
    return [
        head,
        *(f"{size:13,}" + "".join(f"{times[name]:22.1f}" for name in WAYS) for size, times in found.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, help="a directory on the disk to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--writes", type=int, default=WRITES, help="of one size, one way, in one round")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.path) as directory:
        print("\n".join(table(measure(Path(directory), chosen.rounds, chosen.writes))))


if __name__ == "__main__":
    main()
