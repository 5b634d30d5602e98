"""Reading, opening and shortening a log of a million entries of 100 bytes."""

from __future__ import annotations

import random
import time
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.bench import FILL_BATCH, Bench, fill, open_log
from benchmarks.result import Outcome

ROUNDS: Final = 5
CHUNK: Final = 1000
LOOK_UPS: Final = 20_000
DROPPED: Final = 10_000
CACHE_BYTES: Final = 1 << 30
MILLIONS: Final = 1e6
THOUSANDS: Final = 1e3


def read_memory(bench: Bench) -> Outcome:
    """Millions of entries a second, a thousand a call, all of them in the cache."""
    values: list[float] = []
    singles: list[float] = []
    with open_log(bench.million_path(), startup="preload", cache_bytes=CACHE_BYTES) as log:
        for _ in range(bench.rounds(ROUNDS)):
            started = perf_counter()
            count = sum(len(log.entries(i, i + CHUNK)) for i in range(1, log.last_index, CHUNK))
            values.append(count / (perf_counter() - started) / MILLIONS)
            started = perf_counter()
            for index in range(1, LOOK_UPS + 1):
                log.entry(index)
            singles.append(LOOK_UPS / (perf_counter() - started) / MILLIONS)
    return Outcome(values, {"one a call, M/s": median(singles)})


def read_forward(bench: Bench) -> Outcome:
    """Millions of entries a second by `scan` after opening; the files are in the system's page cache."""
    values: list[float] = []
    for _ in range(bench.rounds(ROUNDS)):
        with open_log(bench.million_path()) as log:
            started = perf_counter()
            count = sum(1 for _ in log.scan())
            values.append(count / (perf_counter() - started) / MILLIONS)
    return Outcome(values)


def read_random(bench: Bench) -> Outcome:
    """Thousands of entries a second, one a call in no order, with no cache of our own."""
    values: list[float] = []
    order = random.Random(1)
    with open_log(bench.million_path(), cache_bytes=0) as log:
        last = log.last_index
        for _ in range(bench.rounds(ROUNDS)):
            indexes = [order.randint(1, last) for _ in range(LOOK_UPS)]
            started = perf_counter()
            for index in indexes:
                log.entry(index)
            values.append(LOOK_UPS / (perf_counter() - started) / THOUSANDS)
    return Outcome(values)


def preload(bench: Bench) -> Outcome:
    """Seconds of processor time to open with everything loaded and verified."""
    values: list[float] = []
    clock: list[float] = []
    for _ in range(bench.rounds(ROUNDS)):
        cpu, started = time.process_time(), perf_counter()
        with open_log(bench.million_path(), startup="preload", cache_bytes=CACHE_BYTES):
            values.append(time.process_time() - cpu)
            clock.append(perf_counter() - started)
    return Outcome(values, {"by the clock, s": median(clock)})


def purge_half(bench: Bench) -> Outcome:
    """Milliseconds to drop the older half, durably; it is filled up again in between."""
    values: list[float] = []
    half = bench.million // 2
    with open_log(bench.million_path()) as log:
        for _ in range(bench.rounds(ROUNDS)):
            started = perf_counter()
            log.purge(log.anchor.index + half)
            values.append((perf_counter() - started) * 1000)
            fill(log, half)
    return Outcome(values)


def truncate_tail(bench: Bench) -> Outcome:
    """Milliseconds to drop the newest ten thousand, durably; they are filled up again in between."""
    values: list[float] = []
    with open_log(bench.million_path()) as log:
        for _ in range(bench.rounds(2 * ROUNDS)):
            started = perf_counter()
            log.truncate(log.last_index - DROPPED + 1)
            values.append((perf_counter() - started) * 1000)
            fill(log, DROPPED - DROPPED % FILL_BATCH)
    return Outcome(values)
