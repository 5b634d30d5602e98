"""Opening a log of a hundred million entries beside one of a million."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.bench import ENTRY_BYTES, TERM, Bench, open_log
from benchmarks.native import UnavailableError
from benchmarks.result import Outcome
from raftstore.compare.payloads import Payloads

TIMES: Final = 100
BATCH: Final = 10_000
OPENINGS: Final = 30
ROOM_SHARE: Final = 1.25
SPARE_BYTES: Final = 1 << 30


def open_100m(bench: Bench) -> Outcome:
    """The median time to open 100 times `million` entries, by that of `million`, in interleaved openings."""
    entries = TIMES * bench.million
    check_room(bench, entries * ENTRY_BYTES)
    small = bench.million_path()
    with bench.new_path_removed() as big:
        _fill(big, entries)
        big_ms: list[float] = []
        small_ms: list[float] = []
        for _ in range(OPENINGS):
            small_ms.append(_open_ms(small)[0])
            ms, read = _open_ms(big)
            big_ms.append(ms)
    beside: dict[str, float | str] = {
        "entries": float(entries),
        "ms to open it": median(big_ms),
        f"ms to open {bench.million:,}": median(small_ms),
        "KiB read": read / 1024,
    }
    return Outcome([a / b for a, b in zip(big_ms, small_ms, strict=True)], beside)


def check_room(bench: Bench, payload_bytes: int) -> None:
    """Raises `UnavailableError` if the disk has no room for a log of that size."""
    with bench.new_path_removed() as path:
        path.mkdir()
        free, needed = shutil.disk_usage(path).free, int(ROOM_SHARE * payload_bytes) + SPARE_BYTES
    if free < needed:
        raise UnavailableError(f"needs {needed / 1e9:.1f} GB on the disk, {free / 1e9:.1f} GB are free")


def _fill(path: Path, entries: int) -> None:
    payloads = Payloads(ENTRY_BYTES, BATCH)
    with open_log(path) as log:
        for _ in range(entries // BATCH):
            log.propose(TERM, payloads.take())


def _open_ms(path: Path) -> tuple[float, int]:
    """Milliseconds, and the bytes that the backend read."""
    with open_log(path) as log:
        return log.recovery.seconds * 1000, log.recovery.bytes_read
