"""What is counted and not timed: syncs, bytes written, bytes read."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

from benchmarks.bench import ENTRY_BYTES, Bench, backend_of, fill, open_log, wait_quiet
from benchmarks.child import BEGIN, END, run_child
from benchmarks.native import UnavailableError
from benchmarks.result import Outcome

SYNCS: Final = ("fdatasync", "fsync", "msync", "sync_file_range")
MIB: Final = 1 << 20
SEGMENT_BYTES: Final = 64 << 20
IO_COUNTERS: Final = Path("/proc/self/io")


def syncs_alone(bench: Bench) -> Outcome:
    """Syncs in the system calls of one caller's appends, by strace; those of the background are beside."""
    (mine, others), done = traced(bench, "append-alone")
    own, background = (sum(found[name] for name in SYNCS) / done["calls"] for found in (mine, others))
    beside = {"writes a call": mine["pwrite64"] / done["calls"], "background syncs a call": background}
    return Outcome([own], beside)


def syncs_together(bench: Bench) -> Outcome:
    """Flushes of 64 tasks by the log's own count, at full speed; beside it what strace sees."""
    values: list[float] = []
    for _ in range(bench.rounds(3)):
        with bench.new_path_removed() as path:
            done = run_child("append-together", str(path))
            values.append(done["flushes"] / done["calls"])
    found, done = traced(bench, "append-together")
    syncs = sum(calls[name] for calls in found for name in SYNCS)
    return Outcome(
        values, {"strace: syncs a call": syncs / done["calls"], "syncs a flush": syncs / done["flushes"]}
    )


def traced(
    bench: Bench, what: str, *arguments: str, calls: str = f"write,pwrite64,pwritev2,{','.join(SYNCS)}"
) -> tuple[tuple[Counter[str], Counter[str]], dict[str, int]]:
    """The system calls of a child between its marks, those of its other threads, and what it says."""
    if shutil.which("strace") is None:
        raise UnavailableError("strace is not installed")
    with bench.new_path_removed() as path:
        path.mkdir()
        trace = path / "trace"
        prefix = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(trace)]
        done = run_child(what, str(path / "store"), *arguments, prefix=prefix)
        return between_marks(trace.read_text()), done


def between_marks(trace: str) -> tuple[Counter[str], Counter[str]]:
    """How often the thread that made the marks began each call between them, and all others, by strace."""
    lines = trace.splitlines()
    begin, end = (_line_of(mark, lines) for mark in (BEGIN, END))
    marker = lines[begin].split()[0]
    calls = [found for line in lines[begin + 1 : end] if (found := re.match(r"(\d+) +(\w+)\(", line))]
    mine = Counter(call[2] for call in calls if call[1] == marker)
    return mine, Counter(call[2] for call in calls if call[1] != marker)


def _line_of(mark: bytes, lines: list[str]) -> int:
    quoted = mark.decode().replace("\n", "\\n")
    return next(number for number, line in enumerate(lines) if quoted in line)


def bytes_appended(bench: Bench) -> Outcome:
    """Bytes of all frames per payload byte, by the backend's counters; all that was written is beside it."""
    with bench.new_path_removed() as path:
        written = _counter("wchar")
        with open_log(path) as log:
            fill(log, bench.million)
            wait_quiet(log)
            counters, payload = backend_of(log).counters, bench.million * ENTRY_BYTES
            appended, prepared = counters.bytes_appended, counters.bytes_prepared
        everything = _counter("wchar") - written
    beside = {
        "zeros written ahead": prepared / payload,
        "everything (/proc/self/io)": everything / payload,
        "next segment not ready, times": float(counters.writer_prepared),
    }
    return Outcome([appended / payload], beside)


def read_to_open(bench: Bench) -> Outcome:
    """MiB read, by the system's count, to open a store of a million entries that was closed in order."""
    path = bench.million_path()
    found = [_open_cost(path) for _ in range(bench.rounds(5))]
    return Outcome([read / MIB for read, _ in found], {"ms": sorted(ms for _, ms in found)[len(found) // 2]})


def read_after_kill(bench: Bench) -> Outcome:
    """The same for one whose process was killed, in segments."""
    with bench.new_path_removed() as path:
        run_child("fill-and-die", str(path), str(bench.million), dies=True)
        read, ms = _open_cost(path)
        return Outcome([read / SEGMENT_BYTES], {"MiB": read / MIB, "ms": ms})


def _open_cost(path: Path) -> tuple[int, float]:
    """Bytes read, milliseconds."""
    before = _counter("rchar")
    with open_log(path) as log:
        return _counter("rchar") - before, log.recovery.seconds * 1000


def _counter(name: str) -> int:
    """Of this process, from proc(5)."""
    lines = IO_COUNTERS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
