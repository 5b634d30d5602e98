"""What preparing and removing segments beside the appends costs these: `python -m benchmarks.upkeep [DIR]`.

Microseconds of one durable write of `segmented` itself, while each next segment is zeroed in steps of some
size, and while a file of 64 MiB is removed, at once or in steps.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import mean, median
from threading import Thread
from time import perf_counter, sleep
from typing import Final

from raftstore_segmented import SegmentedBackend, removal, zeroing
from raftstore_segmented.files import OsFiles

from raftstore.batch import WriteBatch
from raftstore.entry import Entry

MIB: Final = 1 << 20
SEGMENT_BYTES: Final = 64 * MIB
ROUNDS: Final = 3
HEAD: Final = f"{'':34}{'p50':>8}{'p99':>9}{'p99.9':>9}{'max':>9}{'mean':>8}"


class Caller:
    """One caller of a store's `write`, and how long each took."""

    def __init__(self, path: Path, count: int, size: int) -> None:
        path.mkdir()
        self.backend = SegmentedBackend(path, segment_bytes=SEGMENT_BYTES)
        self._count = count
        self._data = os.urandom(size)
        self._number = 0

    def grow(self) -> None:
        """Fill segments until they have their full size, and let all be prepared."""
        while self.backend._catalog.current.size < SEGMENT_BYTES:
            self.write()
        self.backend.maintain()
        self.backend._worker.wait_idle()

    def write(self) -> float:
        """Seconds of one write."""
        self._number += 1
        first = self.backend._state.last_index + 1
        entries = [Entry(1, index, self._data) for index in range(first, first + self._count)]
        batch = WriteBatch(self._number, entries=entries)
        started = perf_counter()
        self.backend.write(batch)
        return perf_counter() - started


def beside_preparing(path: Path, step: int, count: int, size: int, writes: int) -> list[float]:
    """Appends that fill segments as fast as they can. With step 0 they stay in one that has its successor."""
    zeroing.__dict__["STEP_BYTES"] = step or MIB
    caller = Caller(path, count, size)
    caller.grow()
    if step == 0:
        writes = min(writes, SEGMENT_BYTES // (2 * count * size))
    times = [caller.write() for _ in range(writes)]
    caller.backend.close()
    return times


def beside_removing(path: Path, step: int) -> list[float]:
    """Appends of 1 KiB while a file of 64 MiB goes, 4 times; step 0 removes it at once."""
    caller = Caller(path, 1, 1024)
    caller.grow()
    files, times = OsFiles(path), list[float]()
    for _ in range(4):
        file = path / "spare-x"
        with file.open("wb") as stream:
            for _ in range(SEGMENT_BYTES // MIB):
                stream.write(os.urandom(MIB))
            os.fsync(stream.fileno())
        sleep(0.1)
        thread = Thread(target=_remove, args=(files, file.name, step))
        thread.start()
        while thread.is_alive():
            times.append(caller.write())
    files.release()
    caller.backend.close()
    return times


def _remove(files: OsFiles, name: str, step: int) -> None:
    removal.__dict__["REMOVAL_STEP_BYTES"] = step or SEGMENT_BYTES
    going = removal.Removal(files)
    going.add(name)
    while not going.is_done:
        going.step()
    files.sync_directory()


def row(what: str, rounds: list[list[float]]) -> str:
    """Microseconds, the median of the rounds; of the longest, the longest of all."""
    ordered = [sorted(times) for times in rounds]
    at = [median(times[int(len(times) * share)] for times in ordered) for share in (0.5, 0.99, 0.999)]
    longest, average = max(times[-1] for times in ordered), median(mean(times) for times in rounds)
    numbers = [at[0], at[1], at[2], longest, average]
    return f"{what:34}" + "".join(
        f"{1e6 * number:{width}.0f}" for number, width in zip(numbers, (8, 9, 9, 9, 8), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, help="on the disk to measure")
    home = parser.parse_args().directory
    steps = (0, MIB // 4, MIB, 4 * MIB)
    print(HEAD)
    for count, size, writes in ((64, 1024, 2000), (1, 1024, 20000)):
        rounds: dict[int, list[list[float]]] = {step: [] for step in steps}
        for _ in range(ROUNDS):
            for step in steps:
                with tempfile.TemporaryDirectory(dir=home) as path:
                    rounds[step].append(beside_preparing(Path(path) / "store", step, count, size, writes))
        for step, found in rounds.items():
            beside = f"zeroing {step / MIB:g} MiB" if step else "nothing beside it"
            print(row(f"{count} x {size} B, {beside}", found))
    for step in (0, 4 * MIB):
        with tempfile.TemporaryDirectory(dir=home) as path:
            how = f"in {step // MIB} MiB" if step else "at once"
            print(row(f"1 x 1024 B, removing 64 MiB {how}", [beside_removing(Path(path) / "store", step)]))


if __name__ == "__main__":
    main()
