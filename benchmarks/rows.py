"""The table: what is measured, what is wanted, how it is measured, and by which function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from benchmarks import appends, big_journal, big_log, counts, engines, keeping, memory, pysyncobj
from benchmarks.bench import Bench
from benchmarks.result import Outcome, Target

LIMIT: Final = "the limit program, one `pwrite` and one `fdatasync` of the same payload bytes"
GROUP: Final = "the limit program, all {} entries of 256 B in one `pwrite` and one `fdatasync`"
ONE_CALLER: Final = "entries/s of `propose`, DiskFirst + Immediate, by those of "
ASYNCIO: Final = "entries/s of tasks on `AsyncRaftLog`, each awaiting its own `propose`, by those of "
THREADS: Final = "entries/s of threads, each waiting for its own `propose`, by those of "
C_ENGINE: Final = (
    "entries/s of `propose` on the backend, by those of the engine in a {} program, same batches"
)


class Row(msgspec.Struct, frozen=True):
    """One target."""

    name: str
    title: str
    target: Target
    how: str
    """How it is measured, and beside what."""
    run: Callable[[Bench], Outcome]
    is_apart: bool = False
    """Run only when it is asked for: it takes long, and much room on the disk."""


def at_least(bound: float, unit: str = "") -> Target:
    return Target("at least", bound, unit)


def at_most(bound: float, unit: str = "") -> Target:
    return Target("at most", bound, unit)


def _append(batch: int, short: str, bound: float) -> Row:
    title = f"one caller, {batch} × {_spaced(short)} a call"
    name = f"append-{batch}x{short}"
    workload = appends.APPENDS[name]
    is_big = batch * workload.size > appends.BIG_WRITE_BYTES
    run = partial(appends.beside_purges, workload) if is_big else workload.run
    return Row(name, title, at_least(bound), ONE_CALLER + LIMIT, run)


def _spaced(short: str) -> str:
    return short.replace("KiB", " KiB") if "Ki" in short else short.replace("B", " B")


def _asyncio(count: int, bound: float) -> Row:
    how = ASYNCIO + GROUP.format(count)
    title = f"asyncio proposers: {count}, each with its own 256 B"
    run = partial(appends.beside_bare_tasks, appends.APPENDS[f"asyncio-{count}"])
    return Row(f"asyncio-{count}", title, at_least(bound), how, run)


def _threads(count: int, bound: float) -> Row:
    how = THREADS + GROUP.format(count)
    title = f"threads: {count}, each with its own 256 B"
    name = f"threads-{count}"
    return Row(name, title, at_least(bound), how, appends.APPENDS[name].run)


def _engine(engine: str, batch: int, run: Callable[[Bench], Outcome]) -> Row:
    language = "C" if engine == "lmdb" else "C++"
    title = f"`{engine}`, {batch} × 1 KiB a call"
    return Row(f"{engine}-{batch}x1KiB", title, at_least(0.90), C_ENGINE.format(language), run)


def _pysyncobj(short: str, size: int) -> Row:
    title = f"PySyncObj, three nodes, batched commands of {_spaced(short)}"
    how = "commands/s, durable with `segmented` + DiskFirst, by those of PySyncObj's never synced journal"
    return Row(f"pysyncobj-{short}", title, at_least(0.8), how, pysyncobj.throughput(size))


ROWS: Final = (
    _append(1, "64B", 0.95),
    _append(1, "1KiB", 0.93),
    _append(1, "64KiB", 0.85),
    _append(64, "64B", 0.80),
    _append(64, "1KiB", 0.85),
    _asyncio(1, 0.75),
    _asyncio(8, 0.50),
    _asyncio(64, 0.40),
    _asyncio(512, 0.30),
    _threads(1, 0.90),
    _threads(8, 0.30),
    _threads(64, 0.10),
    Row(
        "bytes-appended",
        "bytes written by appends per payload byte, 1 M × 100 B filled 1000 a call",
        at_most(1.15),
        "bytes of all frames, by the backend's counter; zeros written ahead stand beside",
        counts.bytes_appended,
    ),
    Row(
        "syncs-alone",
        "fsyncs per durable append, one caller",
        at_most(1.0),
        "`strace` of 500 calls, of the thread that appends; what other threads sync now and then is beside",
        counts.syncs_alone,
    ),
    Row(
        "syncs-together",
        "fsyncs per durable append, 64 asyncio proposers",
        at_most(0.05),
        "flushes by calls, counted by the log at full speed; `strace` confirms that a flush is one sync",
        counts.syncs_together,
    ),
    Row(
        "memfirst-1",
        "`MemFirst` append of 100 B, 1 entry a call",
        at_most(4.0, "µs"),
        "processor time of the calling thread an entry, Batch:1000:10",
        memory.mem_first(1),
    ),
    Row(
        "memfirst-100",
        "`MemFirst` append of 100 B, 100 entries a call",
        at_most(0.6, "µs"),
        "processor time of the calling thread an entry, Batch:1000:10",
        memory.mem_first(100),
    ),
    Row(
        "read-memory",
        "read from memory",
        at_least(5.0, "M/s"),
        "entries/s of `entries`, 1000 a call, 1 M × 100 B in the cache",
        keeping.read_memory,
    ),
    Row(
        "read-forward",
        "read forward from disk",
        at_least(1.5, "M/s"),
        "entries/s of `scan` right after opening 1 M × 100 B, files in the page cache",
        keeping.read_forward,
    ),
    Row(
        "read-random",
        "read at random from disk",
        at_least(150.0, "k/s"),
        "entries/s of `entry`, 1 M × 100 B, cache_bytes = 0, files in the page cache",
        keeping.read_random,
    ),
    Row(
        "open-clean",
        "open 1 M × 100 B after a clean close",
        at_most(1.0, "MiB"),
        "bytes that the process reads, `rchar` of /proc/self/io",
        counts.read_to_open,
    ),
    Row(
        "open-killed",
        "open 1 M × 100 B after `kill -9`",
        at_most(1.0, "segments"),
        "bytes that the process reads, in segments of 64 MiB",
        counts.read_after_kill,
    ),
    Row(
        "open-preload",
        'open 1 M × 100 B with startup = "preload"',
        at_most(0.8, "s"),
        "processor time of the process, everything read and verified",
        keeping.preload,
    ),
    Row(
        "purge-half",
        "purge the older half of 1 M",
        at_most(20.0, "ms"),
        "time until `purge` returns, durable; files are removed behind",
        keeping.purge_half,
    ),
    Row(
        "truncate-10k",
        "truncate the newest 10 k of 1 M",
        at_most(5.0, "ms"),
        "time until `truncate` returns, durable",
        keeping.truncate_tail,
    ),
    Row(
        "cached-entry",
        "memory per cached 100 B entry",
        at_most(260.0, "B"),
        "growth of the process (RSS) by a preload of 1 M, by the entries",
        memory.cached_entry,
    ),
    _engine("lmdb", 1, engines.lmdb(1)),
    _engine("lmdb", 64, engines.lmdb(64)),
    _engine("rocksdb", 1, engines.rocksdb(1)),
    _engine("rocksdb", 64, engines.rocksdb(64)),
    _pysyncobj("64B", 64),
    _pysyncobj("1KiB", 1024),
    Row(
        "open-100m",
        "open 100 M × 100 B lazily, by opening 1 M",
        at_most(1.1),
        "median time of `open` after a clean close, by that of 1 M, interleaved; 10 % is noise",
        big_log.open_100m,
        is_apart=True,
    ),
    Row(
        "big-journal",
        "PySyncObj journal of 10 GB: memory of a node that runs on it",
        at_most(256.0, "MiB"),
        "peak RSS of a node process (VmHWM) that opens it, elects itself and takes commands",
        big_journal.peak_memory,
        is_apart=True,
    ),
)
